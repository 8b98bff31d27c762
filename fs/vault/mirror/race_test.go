package mirror_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/mirror"
	"kmsfs/fs/vault/tree/treetest"
)

// swapping is a directory in which another file takes the place of "file" after it was looked at.
type swapping struct {
	backing.Dir
	swap func()
}

func (s *swapping) Dup() (backing.Dir, error) { return s, nil }
func (s *swapping) Close() error              { return nil }
func (s *swapping) Open(name string, flags int, mode uint32) (backing.File, error) {
	s.swap()
	return s.Dir.Open(name, flags, mode)
}
func (s *swapping) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	s.swap()
	return s.Dir.OpenStat(name, flags, mode)
}

// The content of a file never gets the mode of another that had its name before.
func TestSwapped(t *testing.T) {
	src, path := treetest.Plain(t)
	treetest.WriteFile(t, src, "file", []byte("known"))
	treetest.WriteFile(t, src, "secret", []byte("known"))
	if err := os.Chmod(filepath.Join(path, "secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := treetest.Vault(t)
	s := &swapping{src, sync.OnceFunc(func() { os.Rename(filepath.Join(path, "secret"), filepath.Join(path, "file")) })}
	run(t, s, v, mirror.Options{Parallel: 1, Trouble: func(string, error) {}})
	if st, err := v.StatAt("file"); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
}

// order remembers what is done to files that are open for writing.
type order struct {
	backing.Dir
	calls *[]string
}

func (o order) Dup() (backing.Dir, error) { return o, nil }
func (o order) Close() error              { return nil }
func (o order) Open(name string, flags int, mode uint32) (backing.File, error) {
	f, err := o.Dir.Open(name, flags, mode)
	if err != nil || flags&unix.O_RDWR == 0 {
		return f, err
	}
	return orderFile{f, o.calls}, nil
}

type orderFile struct {
	backing.File
	calls *[]string
}

func (f orderFile) WriteAt(p []byte, off int64) (int, error) {
	*f.calls = append(*f.calls, "write")
	return f.File.WriteAt(p, off)
}

func (f orderFile) DataSync() error {
	*f.calls = append(*f.calls, "sync")
	return f.File.DataSync()
}

func (f orderFile) Utimes(a, m backing.Timespec) error {
	*f.calls = append(*f.calls, "time")
	return f.File.Utimes(a, m)
}

// The time by which the next run passes over a file that was changed in place comes after its content is on the disk.
func TestPatchIsDurableBeforeItsTime(t *testing.T) {
	src, path := treetest.Plain(t)
	treetest.WriteFile(t, src, "large", treetest.Random(rand.New(rand.NewPCG(1, 1)), 2<<20))
	v := treetest.Vault(t)
	run(t, src, v, mirror.Options{})
	f, err := os.OpenFile(filepath.Join(path, "large"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("changed"), 1<<20); err != nil {
		t.Fatal(err)
	}
	var calls []string
	run(t, src, order{v, &calls}, mirror.Options{Replace: mirror.InPlace})
	if !slices.Equal(calls, []string{"write", "sync", "time"}) {
		t.Errorf("got %q", calls)
	}
	treetest.Same(t, v, src)
}

// lacking is a destination that another removes meanwhile.
type lacking struct{ backing.Dir }

func (l lacking) Dup() (backing.Dir, error) { return l, nil }
func (l lacking) Close() error              { return nil }
func (l lacking) Open(string, int, uint32) (backing.File, error) {
	return nil, syscall.ENOENT
}
func (l lacking) OpenDir(string) (backing.Dir, error) { return nil, syscall.ENOENT }

// What is not there in the destination is no file that is gone from the source.
func TestDestinationGoes(t *testing.T) {
	src, path := treetest.Plain(t)
	treetest.WriteFile(t, src, "file", []byte("content"))
	if err := os.Mkdir(filepath.Join(path, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	var c told
	_, err := mirror.Run(t.Context(), src, lacking{treetest.Vault(t)}, mirror.Options{Trouble: func(path string, _ error) { c.add("", path) }})
	slices.Sort(c.list)
	if !errors.Is(err, mirror.ErrIncomplete) || !slices.Equal(c.list, []string{" dir", " file"}) {
		t.Errorf("got %v, told of %q", err, c.list)
	}
}

// rotten is a destination in which an attribute of what it holds does not open.
type rotten struct{ backing.Dir }

func (r rotten) Dup() (backing.Dir, error) { return r, nil }
func (r rotten) Close() error              { return nil }
func (r rotten) Rename(name string, to backing.Dir, newName string, flags uint32) error {
	return r.Dir.Rename(name, to.(rotten).Dir, newName, flags)
}
func (r rotten) Link(name string, to backing.Dir, newName string) error {
	return r.Dir.Link(name, to.(rotten).Dir, newName)
}
func (r rotten) ListxattrAt(name string, buf []byte) (int, error) {
	return 0, vault.ErrCorrupt
}

// What has an attribute that does not open is made anew as a whole, with its other names.
func TestDamagedAttribute(t *testing.T) {
	src, path := treetest.Plain(t)
	treetest.WriteFile(t, src, "file", []byte("content"))
	treetest.WriteFile(t, src, "several", []byte("content"))
	if err := os.Link(filepath.Join(path, "several"), filepath.Join(path, "other")); err != nil {
		t.Fatal(err)
	}
	v := treetest.Vault(t)
	run(t, src, v, mirror.Options{})
	var mu sync.Mutex
	var mended []string
	changes, res := run(t, src, rotten{v}, mirror.Options{Mended: func(path string, damage error) {
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(damage, vault.ErrCorrupt) {
			t.Errorf("%s: %v", path, damage)
		}
		mended = append(mended, path)
	}})
	slices.Sort(mended)
	if !slices.Equal(mended, []string{"file", "other"}) || res.Mended != 2 {
		t.Errorf("mended %q, %d", mended, res.Mended)
	}
	if !slices.Equal(changes, []string{"change file", "change other", "change several"}) {
		t.Errorf("changes %q", changes)
	}
	treetest.Same(t, v, src)
	if changes, _ := run(t, src, v, mirror.Options{}); len(changes) > 0 {
		t.Errorf("left to do: %q", changes)
	}
}
