package metamorphic_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
	"kmsfs/tests/metamorphic"
)

// engine is a vault without a mount. What the kernel does before it asks a file system (walking paths, following links,
// checking flags and kinds) is done by the kernel here too, on a plain directory beside: a call that fails there for
// such a reason is not made of the vault. All other answers are the vault's.
type engine struct {
	t     *testing.T
	ks    keysource.Keysource
	dir   string // of the vault
	plain string // of the plain directories
	v     *vault.Vault
}

var nobody = vault.Caller{Umask: 0o022}

func newEngine(t *testing.T, base string) *engine {
	t.Helper()
	e := &engine{t: t, dir: lab.Subdir(t, base, "engine-vault", 0o755), plain: lab.Subdir(t, base, "engine-plain", 0o755)}
	ctx := context.Background()
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(t.TempDir(), "keys")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	e.ks = ks
	top := e.top()
	defer top.Close()
	if err := vault.Create(ctx, top, ks, vault.CreateConfig{Keysource: "local:keys", Key: local.DefaultAlias}); err != nil {
		t.Fatal(err)
	}
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.v.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *engine) top() backing.Dir {
	d, err := backing.OpenDir(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	return d
}

func (e *engine) open() (err error) {
	e.v, err = vault.Open(context.Background(), e.top(), e.ks, vault.Options{})
	return err
}

// remount closes the vault and opens it again.
func (e *engine) remount() error {
	if err := e.v.Close(); err != nil {
		return err
	}
	return e.open()
}

// contestant gives each run a directory of its own.
func (e *engine) contestant() metamorphic.Contestant {
	return metamorphic.Contestant{Name: "engine", Fresh: func(run string) (posix.FS, error) {
		n, _, err := e.v.Mkdir(e.v.Root(), run, 0o755, nobody)
		if err != nil {
			return nil, err
		}
		e.v.Forget(n, 1)
		shadow := filepath.Join(e.plain, run)
		return &engineFS{e: e, run: run, Dir: posix.NewDir(shadow)}, os.Mkdir(shadow, 0o755)
	}}
}

// engineFS is one run's directory in the vault. The embedded Dir is the plain one.
type engineFS struct {
	posix.Dir
	e   *engine
	run string
}

// follow says whether the last part of a path may be a link.
type follow bool

// split returns the directory and the name in the vault that path leads to; links are followed as in the plain one.
func (f *engineFS) split(path string, last follow) (dir *vault.Node, name string, err error) {
	full := f.Root() + "/" + path
	parent, name := filepath.Split(strings.TrimRight(full, "/"))
	if last || follow(strings.HasSuffix(path, "/")) { // a slash behind a link follows it
		if real, err := filepath.EvalSymlinks(full); err == nil {
			parent, name = filepath.Split(real)
		}
	}
	if parent, err = filepath.EvalSymlinks(parent); err != nil {
		return nil, "", err
	}
	parent = filepath.Clean(parent + "/" + name)
	rel, err := filepath.Rel(f.Root(), parent)
	if err != nil {
		return nil, "", err
	}
	n, _, err := f.e.v.Lookup(f.e.v.Root(), f.run)
	if err != nil || rel == "." {
		return n, ".", err
	}
	parts := strings.Split(rel, "/")
	for _, p := range parts[:len(parts)-1] {
		next, _, err := f.e.v.Lookup(n, p)
		f.e.v.Forget(n, 1)
		if err != nil {
			return nil, "", err
		}
		n = next
	}
	return n, parts[len(parts)-1], nil
}

// in calls do with the directory and name of path.
func (f *engineFS) in(path string, do func(dir *vault.Node, name string) error) error {
	dir, name, err := f.split(path, false)
	if err != nil {
		return err
	}
	defer f.e.v.Forget(dir, 1)
	return do(dir, name)
}

// node calls do with the node of path.
func (f *engineFS) node(path string, last follow, do func(n *vault.Node) error) error {
	dir, name, err := f.split(path, last)
	if err != nil {
		return err
	}
	if name == "." {
		defer f.e.v.Forget(dir, 1)
		return do(dir)
	}
	n, _, err := f.e.v.Lookup(dir, name)
	f.e.v.Forget(dir, 1)
	if errors.Is(err, envelope.ErrNameTooLong) {
		return unix.ENAMETOOLONG
	}
	if err != nil {
		return err
	}
	defer f.e.v.Forget(n, 1)
	return do(n)
}

// asked says whether an error of the plain directory is one that the vault has to find by itself.
func asked(err error) bool {
	return err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENODATA)
}

// made forgets what was made.
func (f *engineFS) made(n *vault.Node, _ vault.Attr, err error) error {
	if err == nil {
		f.e.v.Forget(n, 1)
	}
	return err
}

func (f *engineFS) Mkdir(path string, mode uint32) error {
	if err := f.Dir.Mkdir(path, mode); !asked(err) || strings.HasSuffix(path, "/.") || path == "." {
		return err
	}
	return f.in(path, func(d *vault.Node, name string) error { return f.made(f.e.v.Mkdir(d, name, mode, nobody)) })
}

func (f *engineFS) Mknod(path string, mode uint32, dev uint64) error {
	if err := f.Dir.Mknod(path, mode, dev); !asked(err) || path == "." {
		return err
	}
	return f.in(path, func(d *vault.Node, name string) error { return f.made(f.e.v.Mknod(d, name, mode, dev, nobody)) })
}

func (f *engineFS) Symlink(value, path string) error {
	if err := f.Dir.Symlink(value, path); !asked(err) || path == "." {
		return err
	}
	return f.in(path, func(d *vault.Node, name string) error { return f.made(f.e.v.Symlink(d, name, value, nobody)) })
}

func (f *engineFS) Readlink(path string) (s string, err error) {
	if _, err := f.Dir.Readlink(path); err != nil {
		return "", err
	}
	err = f.node(path, false, func(n *vault.Node) (err error) {
		s, err = f.e.v.Readlink(n)
		return err
	})
	return s, err
}

func (f *engineFS) Link(old, path string) error {
	plain := f.Dir.Link(old, path)
	if !asked(plain) || path == "." {
		return plain
	}
	return f.node(old, false, func(n *vault.Node) error {
		if n.Kind() == unix.S_IFDIR {
			return plain
		}
		return f.in(path, func(d *vault.Node, name string) error {
			_, err := f.e.v.Link(n, d, name)
			return err
		})
	})
}

func (f *engineFS) Unlink(path string) error {
	if err := f.Dir.Unlink(path); err != nil {
		return err
	}
	return f.in(path, f.e.v.Unlink)
}

func (f *engineFS) Rmdir(path string) error {
	if err := f.Dir.Rmdir(path); !asked(err) || path == "." {
		return err
	}
	return f.in(path, f.e.v.Rmdir)
}

func (f *engineFS) Rename(old, path string, flags uint32) error {
	if err := f.Dir.Rename(old, path, flags); !asked(err) || path == "." {
		return err
	}
	return f.in(old, func(from *vault.Node, name string) error {
		return f.in(path, func(to *vault.Node, newName string) error { return f.e.v.Rename(from, name, to, newName, flags) })
	})
}

func (f *engineFS) ReadDir(path string) (entries []posix.Entry, err error) {
	if _, err := f.Dir.ReadDir(path); err != nil {
		return nil, err
	}
	err = f.node(path, true, func(n *vault.Node) error {
		return f.e.v.ReadDir(n, func(e vault.DirEntry) bool {
			entries = append(entries, posix.Entry{Name: e.Name, Kind: e.Kind})
			return true
		})
	})
	return entries, err
}

func (f *engineFS) Stat(path string) (st posix.Stat, err error) {
	if _, err := f.Dir.Stat(path); err != nil {
		return st, err
	}
	err = f.node(path, false, func(n *vault.Node) (err error) {
		st, err = f.e.stat(n)
		return err
	})
	return st, err
}

func (e *engine) stat(n *vault.Node) (posix.Stat, error) {
	a, err := e.v.Attr(n)
	return posix.Stat{Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID, Ino: a.Ino, Rdev: a.Rdev, Size: a.Size,
		Atime: posix.Time(a.Atim), Mtime: posix.Time(a.Mtim)}, err
}

func (f *engineFS) set(path string, last follow, c vault.SetAttr) error {
	return f.node(path, last, func(n *vault.Node) error {
		_, err := f.e.v.SetAttr(context.Background(), n, c)
		return err
	})
}

func (f *engineFS) Chmod(path string, mode uint32) error {
	if err := f.Dir.Chmod(path, mode); err != nil {
		return err
	}
	return f.set(path, true, vault.SetAttr{Mode: &mode})
}

func owners(uid, gid int) (c vault.SetAttr) {
	if u := uint32(uid); uid >= 0 {
		c.UID = &u
	}
	if g := uint32(gid); gid >= 0 {
		c.GID = &g
	}
	return c
}

func times(atime, mtime posix.Time) (c vault.SetAttr) {
	if a := backing.Timespec(atime); a.Nsec != posix.UtimeOmit {
		c.Atime = &a
	}
	if m := backing.Timespec(mtime); m.Nsec != posix.UtimeOmit {
		c.Mtime = &m
	}
	return c
}

func (f *engineFS) Chown(path string, uid, gid int) error {
	if err := f.Dir.Chown(path, uid, gid); err != nil {
		return err
	}
	return f.set(path, false, owners(uid, gid))
}

func (f *engineFS) Utimes(path string, atime, mtime posix.Time) error {
	if err := f.Dir.Utimes(path, atime, mtime); err != nil || atime.Nsec == posix.UtimeOmit && mtime.Nsec == posix.UtimeOmit {
		return err // of nothing the kernel does not even look for the file
	}
	return f.set(path, false, times(atime, mtime))
}

func (f *engineFS) Truncate(path string, size int64) error {
	if err := f.Dir.Truncate(path, size); err != nil {
		return err
	}
	return f.set(path, true, vault.SetAttr{Size: &size})
}

func (f *engineFS) Setxattr(path, attr string, value []byte, flags int) error {
	if err := f.Dir.Setxattr(path, attr, value, flags); !asked(err) {
		return err
	}
	return f.node(path, false, func(n *vault.Node) error {
		return f.e.v.Setxattr(context.Background(), n, attr, value, flags)
	})
}

func (f *engineFS) Getxattr(path, attr string) (value []byte, err error) {
	if _, err := f.Dir.Getxattr(path, attr); !asked(err) {
		return nil, err
	}
	err = f.node(path, false, func(n *vault.Node) (err error) {
		value, err = f.e.v.Getxattr(context.Background(), n, attr)
		return err
	})
	return value, err
}

func (f *engineFS) Listxattr(path string) (names []string, err error) {
	if _, err := f.Dir.Listxattr(path); err != nil {
		return nil, err
	}
	err = f.node(path, false, func(n *vault.Node) (err error) {
		names, err = f.e.v.Listxattr(context.Background(), n)
		return err
	})
	return names, err
}

func (f *engineFS) Removexattr(path, attr string) error {
	if err := f.Dir.Removexattr(path, attr); !asked(err) {
		return err
	}
	return f.node(path, false, func(n *vault.Node) error { return f.e.v.Removexattr(context.Background(), n, attr) })
}

// Open opens, or makes, the file in both.
func (f *engineFS) Open(path string, flags int, mode uint32) (posix.File, error) {
	shadow, err := f.Dir.Open(path, flags, mode)
	if err != nil {
		return nil, err
	}
	file := &engineFile{File: shadow, e: f.e}
	dir, name, err := f.split(path, flags&(unix.O_NOFOLLOW|unix.O_EXCL) == 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	if name == "." {
		file.n = dir
		return file, nil
	}
	defer f.e.v.Forget(dir, 1)
	file.n, _, err = f.e.v.Lookup(dir, name)
	switch {
	case err == nil && file.n.Kind() == unix.S_IFREG && flags&unix.O_PATH == 0:
		err = f.e.v.Open(file.n)
		file.opened = err == nil
	case errors.Is(err, unix.ENOENT) && flags&unix.O_CREAT != 0:
		file.n, _, err = f.e.v.Create(dir, name, mode, nobody)
		file.opened = err == nil
	}
	if err == nil && file.opened && flags&unix.O_TRUNC != 0 {
		err = f.e.v.Truncate(context.Background(), file.n, 0, vault.KeepPrivileges)
	}
	return file, err
}

// engineFile is a file open in both. The embedded File, the plain one, says where its position is and what flags forbid.
type engineFile struct {
	posix.File
	e      *engine
	n      *vault.Node
	opened bool
}

func (f *engineFile) Close() error {
	if f.opened {
		f.e.v.Release(f.n)
	}
	f.e.v.Forget(f.n, 1)
	return f.File.Close()
}

func (f *engineFile) Pread(p []byte, off int64) (int, error) {
	if n, err := f.File.Pread(p, off); err != nil {
		return n, err
	}
	return f.e.v.Read(context.Background(), f.n, p, off)
}

func (f *engineFile) MapRead(p []byte, off int64) (int, error) {
	if n, err := f.File.MapRead(p, off); err != nil {
		return n, err
	}
	return f.e.v.Read(context.Background(), f.n, p, off)
}

// wrote writes to the vault what the plain file has taken.
func (f *engineFile) wrote(p []byte, off int64, n int, err error) (int, error) {
	if err != nil || n == 0 {
		return n, err
	}
	return f.e.v.Write(context.Background(), f.n, p[:n], off, vault.KeepPrivileges)
}

// Pwrite with O_APPEND writes at the end, whatever the offset, as Linux does.
func (f *engineFile) Pwrite(p []byte, off int64) (int, error) {
	before, err := f.File.Stat()
	if err != nil {
		return 0, err
	}
	n, err := f.File.Pwrite(p, off)
	if f.appends() {
		off = before.Size
	}
	return f.wrote(p, off, n, err)
}

func (f *engineFile) MapWrite(p []byte, off int64) (int, error) {
	n, err := f.File.MapWrite(p, off)
	return f.wrote(p, off, n, err)
}

func (f *engineFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if err != nil {
		return n, err
	}
	end, err := f.File.Seek(0, unix.SEEK_CUR)
	return f.wrote(p, end-int64(n), n, err)
}

func (f *engineFile) appends() bool {
	flags, err := posix.Flags(f.File)
	return err == nil && flags&unix.O_APPEND != 0
}

func (f *engineFile) set(c vault.SetAttr) error {
	_, err := f.e.v.SetAttr(context.Background(), f.n, c)
	return err
}

func (f *engineFile) Truncate(size int64) error {
	if err := f.File.Truncate(size); err != nil {
		return err
	}
	return f.set(vault.SetAttr{Size: &size})
}

func (f *engineFile) Fallocate(mode uint32, off, n int64) error {
	if err := f.File.Fallocate(mode, off, n); err != nil {
		return err
	}
	return f.e.v.Allocate(context.Background(), f.n, mode, off, n, vault.KeepPrivileges)
}

func (f *engineFile) Seek(off int64, whence int) (int64, error) {
	pos, err := f.File.Seek(off, whence)
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return pos, err
	}
	return f.e.v.Seek(context.Background(), f.n, off, whence)
}

func (f *engineFile) CopyRange(dst posix.File, off, dstOff, n int64) (int64, error) {
	to := dst.(*engineFile)
	if done, err := f.File.CopyRange(to.File, off, dstOff, n); err != nil || done == 0 {
		return done, err
	}
	var done int64
	for done < n { // as the plain one does: the source may grow meanwhile
		m, err := f.e.v.CopyRange(context.Background(), f.n, off+done, to.n, dstOff+done, n-done, vault.KeepPrivileges)
		if err != nil || m == 0 {
			return done, err
		}
		done += m
	}
	return done, nil
}

func (f *engineFile) Stat() (posix.Stat, error) { return f.e.stat(f.n) }

func (f *engineFile) Chmod(mode uint32) error {
	if err := f.File.Chmod(mode); err != nil {
		return err
	}
	return f.set(vault.SetAttr{Mode: &mode})
}

func (f *engineFile) Chown(uid, gid int) error {
	if err := f.File.Chown(uid, gid); err != nil {
		return err
	}
	return f.set(owners(uid, gid))
}

func (f *engineFile) Utimes(atime, mtime posix.Time) error {
	if err := f.File.Utimes(atime, mtime); err != nil {
		return err
	}
	return f.set(times(atime, mtime))
}

func (f *engineFile) Setxattr(attr string, value []byte, flags int) error {
	if err := f.File.Setxattr(attr, value, flags); !asked(err) {
		return err
	}
	return f.e.v.Setxattr(context.Background(), f.n, attr, value, flags)
}

func (f *engineFile) Getxattr(attr string) ([]byte, error) {
	if _, err := f.File.Getxattr(attr); !asked(err) {
		return nil, err
	}
	return f.e.v.Getxattr(context.Background(), f.n, attr)
}

func (f *engineFile) Sync() error {
	if err := f.File.Sync(); err != nil || f.n.Kind() != unix.S_IFREG {
		return err
	}
	return f.e.v.Fsync(f.n, vault.SyncAll)
}

func (f *engineFile) DataSync() error {
	if err := f.File.DataSync(); err != nil || f.n.Kind() != unix.S_IFREG {
		return err
	}
	return f.e.v.Fsync(f.n, vault.SyncData)
}

// TestEngine plays lists on the vault library and on a plain directory.
func TestEngine(t *testing.T) {
	const length = 800
	lab.NeedRoot(t)
	base := lab.Backing(t, "ext4")
	e := newEngine(t, base)
	beside := lab.Subdir(t, base, "plain", 0o755)
	a := &metamorphic.Arena{Remount: e.remount, Contestants: []metamorphic.Contestant{plain("plain", beside, nil), e.contestant()}}
	lists, first := number(t, "KMSFS_TEST_LISTS", 2), number(t, "KMSFS_TEST_SEED", 1)
	for seed := first; seed < first+2*lists; seed++ {
		if err := a.Run(metamorphic.Generate(seed, length, metamorphic.Limits{})); err != nil {
			var d *metamorphic.Divergence
			if errors.As(err, &d) {
				d = a.Shrink(d, 30e9)
				t.Fatalf("seed %d: %v\nall of it: %v", seed, d, d.Ops)
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
