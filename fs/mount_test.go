package fs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/vault"
	"kmsfs/keysource/local"
)

// mounted is a vault on a mount, for one test.
type mounted struct {
	dir, vault string
	remount    func()
	server     *fs.Server
}

func mount(t testing.TB, vo vault.Options, fo fs.Options) *mounted { return mountOver(t, vo, fo, nil) }

// mountOver is mount of a vault each of whose calls of the backing asks hook first, unless that is nil.
func mountOver(t testing.TB, vo vault.Options, fo fs.Options, hook faults.Hook) *mounted {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and /dev/fuse: run as root on a machine with the fuse module")
	}
	unix.Umask(0)
	base := t.TempDir()
	m := &mounted{dir: filepath.Join(base, "mount"), vault: filepath.Join(base, "vault")}
	for _, d := range []string{m.dir, m.vault} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(base, "store")})
	if err != nil {
		t.Fatal(err)
	}
	top, err := backing.OpenDir(m.vault)
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.Create(ctx, top, ks, vault.CreateConfig{Keysource: "local:store", Key: local.DefaultAlias}); err != nil {
		t.Fatal(err)
	}
	top.Close()
	var s *fs.Server
	var v *vault.Vault
	up := func() {
		t.Helper()
		top, err := backing.OpenDir(m.vault)
		if err != nil {
			t.Fatal(err)
		}
		if hook != nil {
			top = faults.Wrap(top, hook)
		}
		vo.Opens = vault.Untracked
		if v, err = vault.Open(ctx, top, ks, vo); err != nil {
			t.Fatal(err)
		}
		if s, err = fs.Mount(v, m.dir, fo); err != nil {
			t.Fatal(err)
		}
		m.server = s
	}
	down := func() {
		t.Helper()
		if err := s.Unmount(); err != nil {
			t.Error(err)
			s.UnmountLazily()
		}
		s.Wait()
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
	m.remount = func() { down(); up() }
	up()
	t.Cleanup(func() {
		down()
		ks.Close()
	})
	return m
}

// TestListedBySeveral has one reader of a directory stop half way while others list it from the start to the end and
// change it: what was there all the time is read once.
func TestListedBySeveral(t *testing.T) {
	m := mount(t, vault.Options{}, fs.Options{})
	dir := filepath.Join(m.dir, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const files = 2000
	name := func(kind string, i int) string { return filepath.Join(dir, fmt.Sprint(kind, i)) }
	for i := range files {
		for _, kind := range []string{"stays", "goes"} {
			if err := os.WriteFile(name(kind, i), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]int{}
	for round := 0; ; round++ {
		names, err := f.Readdirnames(200)
		for _, n := range names {
			seen[n]++
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if round < 10 {
			for i := round * files / 10; i < (round+1)*files/10; i++ {
				if err := errors.Join(os.Remove(name("goes", i)), os.WriteFile(name("new", i), nil, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if all, err := os.ReadDir(dir); err != nil || len(all) != 2*files {
				t.Fatalf("another one lists %d files, %v", len(all), err)
			}
		}
	}
	for i := range files {
		if n := seen[filepath.Base(name("stays", i))]; n != 1 {
			t.Errorf("stays%d is listed %d times", i, n)
		}
	}
	for n, times := range seen {
		if times > 1 {
			t.Errorf("%s is listed %d times", n, times)
		}
	}
}

// TestHolesOfWhatIsCached asks for holes and data where the kernel has written nothing back yet.
func TestHolesOfWhatIsCached(t *testing.T) {
	m := mount(t, vault.Options{}, fs.Options{})
	const k = 1 << 10
	type write struct{ off, n int64 }
	for _, c := range []struct {
		name     string
		synced   []write
		size     int64 // truncated to after that, if not 0
		dirty    []write
		whence   int
		off, pos int64
	}{
		{"data in a hole", nil, 1024 * k, []write{{512 * k, 4 * k}}, unix.SEEK_DATA, 0, 512 * k},
		{"hole behind it", nil, 1024 * k, []write{{512 * k, 4 * k}}, unix.SEEK_HOLE, 512 * k, 516 * k},
		{"data that goes on", []write{{0, 8 * k}}, 1024 * k, []write{{8 * k, 300 * k}}, unix.SEEK_HOLE, 0, 308 * k},
		{"data before data", []write{{512 * k, 4 * k}}, 0, []write{{256 * k, 4 * k}}, unix.SEEK_DATA, 0, 256 * k},
		{"no hole", []write{{0, 300 * k}}, 0, nil, unix.SEEK_HOLE, 5, 300 * k},
		{"no hole in what is new", nil, 0, []write{{0, 300 * k}}, unix.SEEK_HOLE, 5, 300 * k},
		{"data of what is new", nil, 0, []write{{0, 300 * k}}, unix.SEEK_DATA, 299*k + 1, 299*k + 1},
		{"the end moved on", []write{{0, 100000}}, 0, []write{{100000, 100}}, unix.SEEK_HOLE, 0, 100100},
		{"the end moved far on", []write{{0, 100000}}, 0, []write{{100000, 900 * k}}, unix.SEEK_HOLE, 0, 100000 + 900*k},
		{"data past the old end", []write{{0, 10}}, 0, []write{{1024 * k, 4 * k}}, unix.SEEK_DATA, 8 * k, 1024 * k},
		{"hole before it", []write{{0, 4 * k}}, 0, []write{{1024 * k, 4 * k}}, unix.SEEK_HOLE, 0, 4 * k},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(m.dir, c.name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			do := func(all []write) {
				for _, w := range all {
					if _, err := f.WriteAt(bytes.Repeat([]byte{'x'}, int(w.n)), w.off); err != nil {
						t.Fatal(err)
					}
				}
			}
			do(c.synced)
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if c.size != 0 {
				if err := f.Truncate(c.size); err != nil {
					t.Fatal(err)
				}
			}
			do(c.dirty)
			if pos, err := unix.Seek(int(f.Fd()), c.off, c.whence); err != nil || pos != c.pos {
				t.Errorf("got %d, %v; want %d", pos, err, c.pos)
			}
		})
	}
}

func TestBasics(t *testing.T) {
	m := mount(t, vault.Options{}, fs.Options{})
	want := bytes.Repeat([]byte("0123456789abcdef"), 100000)
	for _, n := range []int{0, 1, 3968, 3969, 4096, 300000, len(want)} {
		name := filepath.Join(m.dir, "file")
		if err := os.WriteFile(name, want[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want[:n]) {
			t.Fatalf("%d bytes: read %d, %v", n, len(got), err)
		}
		m.remount()
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want[:n]) {
			t.Fatalf("%d bytes after a remount: read %d, %v", n, len(got), err)
		}
	}
}

// TestFrozenCrowd: more programs are held by a freeze than requests are answered at once, and reading goes on.
func TestFrozenCrowd(t *testing.T) {
	const many, atOnce = 100, 64
	m := mount(t, vault.Options{}, fs.Options{})
	name := func(i int) string { return filepath.Join(m.dir, fmt.Sprint(i)) }
	for i := range many {
		if err := os.WriteFile(name(i), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	thaw, err := m.server.Freeze(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer thaw()
	changed := make(chan error, many)
	for i := range many { // of files of their own: the kernel does one change of a file or directory at a time
		go func() { changed <- os.Chmod(name(i), 0o600) }()
	}
	if err := within(t, "holding them", func() error {
		for m.server.Stats().UnderWay < atOnce {
			runtime.Gosched()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := within(t, "statfs of a frozen mount", func() error { return unix.Statfs(m.dir, &st) }); err != nil {
		t.Error(err)
	}
	thaw()
	for range many {
		if err := <-changed; err != nil {
			t.Error(err)
		}
	}
}
