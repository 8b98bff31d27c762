package metamorphic_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
	"kmsfs/tests/metamorphic"
)

// plain is a contestant of directories below dir; wrap, if not nil, spoils it.
func plain(name, dir string, wrap func(posix.FS) posix.FS) metamorphic.Contestant {
	return metamorphic.Contestant{Name: name, Fresh: func(run string) (posix.FS, error) {
		path := filepath.Join(dir, run)
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, err
		}
		if wrap != nil {
			return wrap(posix.NewDir(path)), nil
		}
		return posix.NewDir(path), nil
	}}
}

// TestGenerate holds that a list is made by its seed alone, and comes back from a file as it was.
func TestGenerate(t *testing.T) {
	ops := metamorphic.Generate(7, 3000, metamorphic.Limits{})
	if again := metamorphic.Generate(7, 3000, metamorphic.Limits{}); !reflect.DeepEqual(ops, again) {
		t.Error("the same seed gives two lists")
	}
	list := filepath.Join(t.TempDir(), "list.json")
	if err := metamorphic.Save(list, ops); err != nil {
		t.Fatal(err)
	}
	back, err := metamorphic.Load(list)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(ops, back) {
		t.Error("the list that comes back from the file is another")
	}
}

// TestPlain plays lists on two plain directories, which must agree.
func TestPlain(t *testing.T) {
	lab.NeedRoot(t)
	dir := lab.Backing(t, "ext4")
	arena := metamorphic.Arena{Contestants: []metamorphic.Contestant{
		plain("one", lab.Subdir(t, dir, "one", 0o755), nil), plain("two", lab.Subdir(t, dir, "two", 0o755), nil),
	}}
	for seed := range uint64(3) {
		if err := arena.Run(metamorphic.Generate(seed, 1000, metamorphic.Limits{})); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// spoiled is a tree with one defect, to show that a comparison finds it.
type spoiled struct {
	posix.FS
	wrap func(posix.File) posix.File
}

func (s spoiled) Open(path string, flags int, mode uint32) (posix.File, error) {
	f, err := s.FS.Open(path, flags, mode)
	if err != nil || s.wrap == nil {
		return f, err
	}
	return s.wrap(f), nil
}

// file is what the spoiled files stand on: it knows that the other file of a copy is spoiled too.
type file struct{ posix.File }

func (f file) inner() posix.File { return f.File }

func (f file) CopyRange(dst posix.File, off, dstOff, n int64) (int64, error) {
	return f.File.CopyRange(dst.(interface{ inner() posix.File }).inner(), off, dstOff, n)
}

// losesByte loses the last byte of what is written beyond the first block.
type losesByte struct{ file }

func (f losesByte) Pwrite(p []byte, off int64) (int, error) {
	if off > 4096 && len(p) > 1 {
		_, err := f.File.Pwrite(p[:len(p)-1], off)
		return len(p), err
	}
	return f.File.Pwrite(p, off)
}

// growsNot takes a truncation to a larger size for done.
type growsNot struct{ file }

func (f growsNot) Truncate(size int64) error {
	if st, err := f.Stat(); err == nil && size > st.Size {
		return nil
	}
	return f.File.Truncate(size)
}

// liesOfHoles says that the whole file is a hole.
type liesOfHoles struct{ file }

func (f liesOfHoles) Seek(off int64, whence int) (int64, error) {
	if whence == unix.SEEK_DATA {
		return 0, unix.ENXIO
	}
	return f.File.Seek(off, whence)
}

// forgetsTimes has no nanoseconds.
type forgetsTimes struct{ posix.FS }

func (s forgetsTimes) Stat(path string) (posix.Stat, error) {
	st, err := s.FS.Stat(path)
	st.Mtime.Nsec = 0
	return st, err
}

// wrongErrno says EPERM for ENOTEMPTY.
type wrongErrno struct{ posix.FS }

func (s wrongErrno) Rmdir(path string) error {
	if err := s.FS.Rmdir(path); !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return unix.EPERM
}

// copiesLinks makes a new file where a hard link is asked for.
type copiesLinks struct{ posix.FS }

func (s copiesLinks) Link(old, path string) error {
	if err := s.FS.Link(old, path); err != nil {
		return err
	}
	return errors.Join(s.FS.Unlink(path), s.FS.Mknod(path, unix.S_IFREG|0o644, 0))
}

// TestFindsDefects shows that each of some defects is found within a few lists and shrunk to a few operations.
func TestFindsDefects(t *testing.T) {
	lab.NeedRoot(t)
	opened := func(wrap func(posix.File) posix.File) func(posix.FS) posix.FS {
		return func(fs posix.FS) posix.FS { return spoiled{FS: fs, wrap: wrap} }
	}
	for name, wrap := range map[string]func(posix.FS) posix.FS{
		"loses a byte":  opened(func(f posix.File) posix.File { return losesByte{file{f}} }),
		"does not grow": opened(func(f posix.File) posix.File { return growsNot{file{f}} }),
		"lies of holes": opened(func(f posix.File) posix.File { return liesOfHoles{file{f}} }),
		"forgets times": func(fs posix.FS) posix.FS { return forgetsTimes{fs} },
		"wrong errno":   func(fs posix.FS) posix.FS { return wrongErrno{fs} },
		"copies links":  func(fs posix.FS) posix.FS { return copiesLinks{fs} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := lab.Dir(t)
			arena := metamorphic.Arena{Contestants: []metamorphic.Contestant{
				plain("good", lab.Subdir(t, dir, "good", 0o755), nil),
				plain("spoiled", lab.Subdir(t, dir, "spoiled", 0o755), wrap),
			}}
			for seed := range uint64(20) {
				var d *metamorphic.Divergence
				err := arena.Run(metamorphic.Generate(seed, 300, metamorphic.Limits{}))
				if err == nil {
					continue
				}
				if !errors.As(err, &d) {
					t.Fatal(err)
				}
				d = arena.Shrink(d, time.Minute)
				if len(d.Ops) > 6 {
					t.Errorf("shrunk to %d operations only: %v", len(d.Ops), d.Ops)
				}
				return
			}
			t.Error("not found")
		})
	}
}
