package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// plantings put something of another kind at path. outside is a directory that is no part of the vault.
func plantings(outside string) map[string]func(path string) error {
	return map[string]func(path string) error{
		"fifo":         func(path string) error { return unix.Mkfifo(path, 0o666) },
		"file link":    func(path string) error { return os.Symlink(filepath.Join(outside, "file"), path) },
		"dir link":     func(path string) error { return os.Symlink(filepath.Join(outside, "dir"), path) },
		"dangling":     func(path string) error { return os.Symlink(filepath.Join(outside, "new"), path) },
		"directory":    func(path string) error { return os.Mkdir(path, 0o777) },
		"empty file":   func(path string) error { return os.WriteFile(path, nil, 0o666) },
		"device":       func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		"block device": func(path string) error { return unix.Mknod(path, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 255))) },
		"socket":       func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) },
	}
}

// plantedVault is a vault on the disk.
type plantedVault struct {
	dir, outside string
	ks           keysource.Keysource
	stored       map[string]string
}

var plantedFiles = map[string]int{"small": 500, "large": 40000, "d/in": 5000, "d/e/deep": 700, "d/" + longA: 100}

func newPlantedVault(t *testing.T, dir string) *plantedVault {
	t.Helper()
	x := &plantedVault{dir: filepath.Join(dir, "v"), outside: filepath.Join(dir, "o"), ks: &memoryKeys{}, stored: map[string]string{}}
	for _, d := range []string{x.dir, x.outside, x.outside + "/dir"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"file", "dir/file"} {
		if err := os.WriteFile(filepath.Join(x.outside, f), []byte("not of the vault"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	v := newVault(t, x.root, x.ks, vault.Options{})
	steps := []step{mkdir("d"), mkdir("d/e"), mkdir("empty"), symlink("link", "some/where")}
	for path, n := range plantedFiles {
		steps = append(steps, put(path, pattern(byte(n), int64(n))))
	}
	for _, s := range steps {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"small", "large", "d", "d/e", "d/in", "d/e/deep", "link", "empty"} {
		dir, name := filepath.Split(path)
		n, err := find(v, strings.TrimSuffix(dir, "/"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := v.StoredName(n, name)
		v.Forget(n, 1)
		if err != nil {
			t.Fatal(err)
		}
		x.stored[path] = filepath.Join(x.stored[strings.TrimSuffix(dir, "/")], s.Entry)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *plantedVault) root() backing.Dir {
	d, err := backing.OpenDir(x.dir)
	if err != nil {
		panic(err)
	}
	return d
}

// snapshot is all that can be seen of a directory that nobody is to touch.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d %d:%d %d %v", path, st.Mode, st.Ino, st.Uid, st.Gid, st.Size, st.Mtim)
		buf := make([]byte, 1000)
		n, _ := unix.Llistxattr(path, buf)
		fmt.Fprintf(&b, " %q", buf[:max(n, 0)])
		if e.Type().IsRegular() {
			c, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", c)
		}
		b.WriteByte('\n')
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// plantedAt is what something is put in place of: a plaintext path, or a name in the vault's directory.
var plantedAt = []string{"small", "large", "d", "d/in", "d/e", "link", "empty", "d/.kmsfs.dir", ".kmsfs", ".kmsfs/keys", ".kmsfs/keys/*",
	".kmsfs/vault.json", ".kmsfs/lock", ".kmsfs/keys.lock", ".kmsfs/tmp", ".kmsfs/journal", ".kmsfs/journal/0"}

// place returns where at stands.
func (x *plantedVault) place(t *testing.T, at string) string {
	t.Helper()
	switch {
	case at == "d/.kmsfs.dir":
		return filepath.Join(x.dir, x.stored["d"], envelope.DirFileName)
	case x.stored[at] != "":
		return filepath.Join(x.dir, x.stored[at])
	case strings.HasSuffix(at, "*"):
		m, err := filepath.Glob(filepath.Join(x.dir, at))
		if err != nil || len(m) == 0 {
			t.Fatalf("%s: %v", at, err)
		}
		return m[0]
	}
	return filepath.Join(x.dir, at)
}

// TestPlanted puts FIFOs, sockets, devices, links that lead out of the vault and directories in the place of everything that is
// stored, before the vault is opened and while it is in use. Nothing waits for them, nothing outside is touched, and what is used
// of them is refused as damage, or as gone.
func TestPlanted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("devices are made by root only")
	}
	for what := range plantings("") {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for i, at := range plantedAt {
				for _, when := range []string{"closed", "in use", "in use, few handles"} {
					if testing.Short() && i%3 != len(what)%3 {
						continue
					}
					plantOne(t, what, at, when)
				}
			}
		})
	}
}

// plantOne plants one thing in a vault of its own, and uses all of it.
func plantOne(t *testing.T, what, at, when string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "planted")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	x := newPlantedVault(t, dir)
	before := snapshot(t, x.outside)
	o := vault.Options{KeepEvery: time.Hour}
	if when == "in use, few handles" {
		o.OpenDirs, o.OpenFiles = 1, 1
	}
	known := map[string]*vault.Node{}
	var v *vault.Vault
	if when != "closed" {
		v = openVault(t, x.root, x.ks, o)
		for path := range x.stored {
			n, err := find(v, path)
			if err != nil {
				t.Fatal(err)
			}
			known[path] = n
			if n.Kind() == syscall.S_IFREG {
				if _, err := v.Read(ctx, n, make([]byte, 10), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	p := x.place(t, at)
	if err := os.Rename(p, filepath.Join(dir, "away")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(p), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if err := plantings(x.outside)[what](p); err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(op string, f func() error) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- f() }()
		select {
		case err = <-done:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s in place of %s, %s: %s hangs", what, at, when, op)
		}
		switch {
		case err == nil || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EEXIST) || errors.Is(err, vault.ErrStale):
		case damaged(err), errors.Is(err, sidecar.ErrNoRecord):
			refused++
		case errors.Is(err, syscall.ENOTDIR) && (at == "d" || at == "d/e" || at == "empty"): // it is none any more
		case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EINVAL) && at == "link", errors.Is(err, vault.ErrNotVault) && at == ".kmsfs":
		case errors.Is(err, syscall.EINVAL) && (at == "small" || at == "large" || at == "d/in"): // a name looked up anew: it is no file any more
		case errors.Is(err, syscall.EISDIR) && what == "directory" && (op == "unlink link" || op == "close"):
		case strings.HasPrefix(op, "rename") || strings.HasPrefix(op, "link"): // of two kinds that do not go together
		default:
			t.Errorf("%s in place of %s, %s: %s: %v", what, at, when, op, err)
		}
	}
	if v == nil {
		try("open", func() (err error) { v, err = vault.Open(ctx, x.root(), x.ks, o); return err })
	}
	if v != nil {
		x.use(v, known, try)
		try("close", func() error { return v.Close() })
	}
	if what != "empty file" && what != "directory" && refused == 0 {
		switch at {
		case "d/.kmsfs.dir", ".kmsfs/keys/*", ".kmsfs/vault.json", ".kmsfs/lock", ".kmsfs", ".kmsfs/keys", ".kmsfs/tmp", ".kmsfs/journal", ".kmsfs/journal/0", ".kmsfs/keys.lock":
			if when == "closed" {
				t.Errorf("%s in place of %s is not refused", what, at)
			}
		}
	}
	if after := snapshot(t, x.outside); after != before {
		t.Errorf("%s in place of %s, %s: what is not of the vault was\n%sand is\n%s", what, at, when, before, after)
	}
}

// use does everything that can be done with the nodes that are known, then with all that is found by name.
func (x *plantedVault) use(v *vault.Vault, known map[string]*vault.Node, try func(op string, f func() error)) {
	mode, uid, at := uint32(0o4755), uint32(12), backing.Timespec{Sec: 77}
	on := func(path string, n *vault.Node) {
		for _, s := range []struct {
			op string
			do func() error
		}{
			{"stat", func() error { _, err := v.Attr(n); return err }},
			{"read", func() error { _, err := v.Read(ctx, n, make([]byte, 100), 10); return err }},
			{"list attributes", func() error { _, err := v.Listxattr(ctx, n); return err }},
			{"readlink", func() error { _, err := v.Readlink(n); return err }},
			{"list", func() error { return v.ReadDir(n, func(vault.DirEntry) bool { return true }) }},
			{"mkdir", func() error { _, _, err := v.Mkdir(n, "made", 0o700, who); return err }},
			{"create", func() error { _, _, err := v.Create(n, "file made", 0o700, who); return err }},
			{"rmdir", func() error { return v.Rmdir(n, "made") }},
			{"write", func() error { _, err := v.Write(ctx, n, make([]byte, 5000), 0, vault.DropPrivileges); return err }},
			{"set attribute", func() error { return v.Setxattr(ctx, n, "user.x", []byte("y"), 0) }},
			{"chmod", func() error {
				_, err := v.SetAttr(ctx, n, vault.SetAttr{Mode: &mode, UID: &uid, Mtime: &at})
				return err
			}},
			{"sync", func() error { return v.Fsync(n, vault.SyncAll) }},
			{"truncate", func() error { return v.Truncate(ctx, n, 3, vault.DropPrivileges) }},
			{"punch", func() error { return v.Allocate(ctx, n, 3, 0, 4096, vault.DropPrivileges) }},
			{"empty", func() error { return v.Truncate(ctx, n, 0, vault.DropPrivileges) }},
		} {
			isDir := s.op == "list" || s.op == "mkdir" || s.op == "create" || s.op == "rmdir"
			isFile := s.op == "read" || s.op == "write" || s.op == "truncate" || s.op == "punch" || s.op == "empty" || s.op == "sync"
			switch {
			case isDir && n.Kind() != syscall.S_IFDIR, isFile && n.Kind() != syscall.S_IFREG:
			case s.op == "readlink" && n.Kind() != syscall.S_IFLNK, s.op == "set attribute" && n.Kind() != syscall.S_IFREG && n.Kind() != syscall.S_IFDIR:
			case s.op == "chmod" && n.Kind() == syscall.S_IFLNK:
			default:
				try(s.op+" "+path, s.do)
			}
		}
	}
	for path, n := range known {
		on(path, n)
	}
	for path := range x.stored {
		var n *vault.Node
		try("find "+path, func() (err error) { n, err = find(v, path); return err })
		if n != nil {
			on(path, n)
		}
	}
	for _, s := range []step{rename("small", "moved", 0), rename("large", "d/in", 0), link("moved", "again"), rename("d/e", "empty", 0), unlink("again"), unlink("link"),
		put("d/new", pattern(1, 9000)), put("link", []byte("new")), zone("d", "alias/x"), flush()} {
		try(s.name, func() error { return s.do(v) })
	}
}
