package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/mirror"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/tree/treetest"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	m.Run()
}

// told collects the changes of a run.
type told struct {
	mu   sync.Mutex
	list []string
}

func (c *told) add(kind mirror.Kind, path string) {
	c.mu.Lock()
	c.list = append(c.list, fmt.Sprint(kind, " ", path))
	c.mu.Unlock()
}

// run runs it and returns the changes, sorted.
func run(t *testing.T, src, dst backing.Dir, o mirror.Options) ([]string, mirror.Result) {
	t.Helper()
	var c told
	o.Told = c.add
	res, err := mirror.Run(t.Context(), src, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(c.list)
	return c.list, res
}

func TestMirror(t *testing.T) {
	src, _ := treetest.Plain(t)
	treetest.Make(t, src)
	v := treetest.Vault(t)
	would, _ := run(t, src, v, mirror.Options{Effect: mirror.DryRun})
	if n := len(treetest.Describe(t, v)); n != 0 {
		t.Fatalf("a dry run made %d objects", n)
	}
	did, res := run(t, src, v, mirror.Options{})
	if !slices.Equal(would, did) {
		t.Errorf("a dry run says %d changes, %d were made", len(would), len(did))
	}
	treetest.Same(t, v, src)
	if res.Made < 200 || res.Changed+res.Removed != 0 {
		t.Errorf("got %+v", res)
	}
	for _, o := range []mirror.Options{{}, {Compare: mirror.ByContent}, {Replace: mirror.InPlace}} {
		if again, res := run(t, src, v, o); len(again) > 0 || res.Written > 0 {
			t.Errorf("%+v: once more does %q, %+v", o, again, res)
		}
	}
	back, _ := treetest.Plain(t)
	run(t, v, back, mirror.Options{})
	treetest.Same(t, back, src)
	run(t, treetest.Vault(t), v, mirror.Options{})
	if n := len(treetest.Describe(t, v)); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

// Random changes of the source arrive, whatever they are; what is done a dry run tells.
func TestChanges(t *testing.T) {
	src, path := treetest.Plain(t)
	treetest.Make(t, src)
	v := treetest.Vault(t)
	run(t, src, v, mirror.Options{})
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 6 {
		for range 15 {
			change(t, r, path)
		}
		o := mirror.Options{Parallel: 1 + r.IntN(8)}
		if round%2 == 1 {
			o.Replace = mirror.InPlace
		}
		dry := o
		dry.Effect = mirror.DryRun
		would, _ := run(t, src, v, dry)
		did, _ := run(t, src, v, o)
		// A dry run may tell of one change more: of a file that shared its content with one that is to be replaced.
		missed := slices.DeleteFunc(slices.Clone(did), func(c string) bool { return slices.Contains(would, c) })
		if len(missed) > 0 || len(would) > len(did)+3 {
			t.Errorf("round %d: a dry run says\n%s\nand it does\n%s", round, strings.Join(would, "\n"), strings.Join(did, "\n"))
		}
		treetest.Same(t, v, src)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

// change does something to a random object below path.
func change(t *testing.T, r *rand.Rand, path string) {
	t.Helper()
	var all []string
	filepath.WalkDir(path, func(p string, e os.DirEntry, err error) error {
		if p != path {
			all = append(all, p)
		}
		return nil
	})
	if len(all) == 0 {
		return
	}
	p := all[r.IntN(len(all))]
	other := all[r.IntN(len(all))]
	st, err := os.Lstat(p)
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(filepath.Dir(p), fmt.Sprintf("new%d", r.IntN(1000)))
	switch r.IntN(9) {
	case 0:
		os.RemoveAll(p)
	case 1:
		os.Rename(p, fresh)
	case 2:
		os.Link(p, fresh)
	case 3:
		os.Remove(fresh)
		os.WriteFile(fresh, treetest.Random(r, r.IntN(3<<20)), 0o600)
	case 4:
		if st.Mode().IsRegular() && st.Size() > 0 {
			f, _ := os.OpenFile(p, os.O_WRONLY, 0)
			f.WriteAt(treetest.Random(r, 10), r.Int64N(st.Size()))
			f.Close()
		}
	case 5:
		if st.Mode()&os.ModeSymlink == 0 {
			os.Chmod(p, os.FileMode(r.IntN(0o1000)))
		}
	case 6:
		os.RemoveAll(fresh)
		os.Symlink(fmt.Sprint("to", r.IntN(10)), fresh)
	case 7:
		if st.Mode().IsRegular() {
			os.Truncate(p, r.Int64N(2<<20))
		}
	case 8: // another kind in its place
		if o, err := os.Lstat(other); err == nil && !o.IsDir() {
			os.RemoveAll(p)
			os.Rename(other, p)
		}
	}
}

// In place, a change of a few bytes writes a piece, and a hole stays one.
func TestInPlace(t *testing.T) {
	src, path := treetest.Plain(t)
	v := treetest.Vault(t)
	b := treetest.Random(rand.New(rand.NewPCG(1, 1)), 8<<20)
	treetest.WriteFile(t, src, "large", b)
	run(t, src, v, mirror.Options{Replace: mirror.InPlace})
	f, err := os.OpenFile(filepath.Join(path, "large"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte("changed"), 5<<20)
	if _, res := run(t, src, v, mirror.Options{Replace: mirror.InPlace}); res.Written != 4096 {
		t.Errorf("%d bytes were written", res.Written)
	}
	treetest.Same(t, v, src)
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 3<<20); err != nil {
		t.Fatal(err)
	}
	f.Truncate(20 << 20)
	if _, res := run(t, src, v, mirror.Options{Replace: mirror.InPlace}); res.Written != 3<<20 {
		t.Errorf("%d bytes were written", res.Written)
	}
	treetest.Same(t, v, src)
	f.Truncate(2 << 20)
	run(t, src, v, mirror.Options{Replace: mirror.InPlace})
	treetest.Same(t, v, src)
	st, _ := v.StatAt("large")
	f.WriteAt([]byte("hidden"), 100) // by content alone
	if err := os.Chtimes(f.Name(), st.Atim.Time(), st.Mtim.Time()); err != nil {
		t.Fatal(err)
	}
	if did, _ := run(t, src, v, mirror.Options{}); len(did) > 0 {
		t.Errorf("by time it does %q", did)
	}
	if did, _ := run(t, src, v, mirror.Options{Compare: mirror.ByContent}); len(did) != 1 {
		t.Errorf("by content it does %q", did)
	}
	treetest.Same(t, v, src)
}

// What is ignored stays on both sides, and so does what is kept.
func TestKeepAndIgnore(t *testing.T) {
	src, _ := treetest.Plain(t)
	v := treetest.Vault(t)
	for _, d := range []backing.Dir{src, v} {
		d.Mkdir("d", 0o755)
	}
	treetest.WriteFile(t, src, "a.tmp", []byte("a"))
	treetest.WriteFile(t, src, "b", []byte("b"))
	treetest.WriteFile(t, v, "c.tmp", []byte("c"))
	treetest.WriteFile(t, v, "d.txt", []byte("d"))
	g := &mirror.Ignore{}
	if err := g.Add("*.tmp"); err != nil {
		t.Fatal(err)
	}
	run(t, src, v, mirror.Options{Ignore: g, Extras: mirror.Keep})
	if names, _ := tree.List(v); !slices.Equal(names, []string{"b", "c.tmp", "d", "d.txt"}) {
		t.Errorf("got %q", names)
	}
	run(t, src, v, mirror.Options{Ignore: g})
	if names, _ := tree.List(v); !slices.Equal(names, []string{"b", "c.tmp", "d"}) {
		t.Errorf("got %q", names)
	}
	left, _ := v.OpenDir("d")
	treetest.WriteFile(t, left, ".kmsfs-0123456789abcdef.part", []byte("of a run that was killed"))
	left.Close()
	run(t, src, v, mirror.Options{Extras: mirror.Keep})
	if lines := strings.Join(treetest.Describe(t, v), "\n"); strings.Contains(lines, ".part") {
		t.Errorf("got\n%s", lines)
	}
}

// Interrupted at any moment, nothing is half there, and the next run does the rest.
func TestInterrupted(t *testing.T) {
	src, path := treetest.Plain(t)
	treetest.Make(t, src)
	v := treetest.Vault(t)
	want := treetest.Describe(t, src)
	r := rand.New(rand.NewPCG(5, 6))
	for after := int64(1); ; after *= 3 {
		ctx, cancel := context.WithCancel(t.Context())
		left := after * 3000
		var mu sync.Mutex
		_, err := mirror.Run(ctx, src, v, mirror.Options{Progress: func(n int64) {
			mu.Lock()
			defer mu.Unlock()
			if left -= n; left < 0 {
				cancel()
			}
		}})
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		for _, line := range treetest.Describe(t, v) {
			name, _, _ := strings.Cut(line, "\" ")
			if strings.Contains(line, " bytes ") && !strings.Contains(strings.Join(want, "\n"), line[:len(name)]) {
				t.Fatalf("after %d: %s", after, line)
			}
		}
	}
	change(t, r, path)
	run(t, src, v, mirror.Options{})
	treetest.Same(t, v, src)
}

// What fails is told of, the rest arrives, and the end says that it is not all.
func TestTrouble(t *testing.T) {
	src, path := treetest.Plain(t)
	v := treetest.Vault(t)
	treetest.WriteFile(t, src, "a", []byte("a"))
	os.Mkdir(filepath.Join(path, "dir"), 0o755)
	v.Mkdir("a", 0o755)
	sub, _ := v.OpenDir("a")
	treetest.WriteFile(t, sub, "kept", []byte("x"))
	sub.Close()
	var c told
	_, err := mirror.Run(t.Context(), src, v, mirror.Options{Extras: mirror.Keep, Trouble: func(path string, err error) {
		c.add("", path)
		if !errors.Is(err, syscall.EISDIR) {
			t.Errorf("got %v", err)
		}
	}})
	if !errors.Is(err, mirror.ErrIncomplete) || len(c.list) != 1 {
		t.Errorf("got %v, told of %q", err, c.list)
	}
	if _, err := v.StatAt("dir"); err != nil {
		t.Error(err)
	}
	if _, err := mirror.Run(t.Context(), src, v, mirror.Options{Extras: mirror.Keep}); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("got %v", err)
	}
}

// What is ignored stays also in a directory that the source does not have, and one that a file is to replace.
func TestIgnoredBelow(t *testing.T) {
	src, _ := treetest.Plain(t)
	v := treetest.Vault(t)
	treetest.WriteFile(t, src, "file", []byte("now a file"))
	for _, name := range []string{"gone", "file"} {
		if err := v.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		d, err := v.OpenDir(name)
		if err != nil {
			t.Fatal(err)
		}
		treetest.WriteFile(t, d, "kept.tmp", []byte("k"))
		treetest.WriteFile(t, d, "x", []byte("x"))
		d.Close()
	}
	g := &mirror.Ignore{}
	if err := g.Add("*.tmp"); err != nil {
		t.Fatal(err)
	}
	var c told
	_, err := mirror.Run(t.Context(), src, v, mirror.Options{Ignore: g, Trouble: func(path string, err error) { c.add("", path) }})
	if !errors.Is(err, mirror.ErrIncomplete) || !slices.Equal(c.list, []string{" file"}) {
		t.Errorf("got %v, told of %q", err, c.list)
	}
	lines := strings.Join(treetest.Describe(t, v), "\n")
	for _, want := range []string{`"gone/kept.tmp"`, `"file/kept.tmp"`} {
		if !strings.Contains(lines, want) {
			t.Errorf("%s is not there:\n%s", want, lines)
		}
	}
	if strings.Contains(lines, `/x"`) {
		t.Errorf("got\n%s", lines)
	}
}
