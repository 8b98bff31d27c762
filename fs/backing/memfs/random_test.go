package memfs_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/backingtest"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
)

func tree(t *testing.T, d backing.Dir) string {
	t.Helper()
	s, err := backingtest.Tree(d)
	must(t, err)
	return s
}

// busy returns a file system after n random operations.
func busy(t *testing.T, seed uint64, n int) *memfs.FS {
	fs := memfs.New(memfs.Config{})
	backingtest.Compare(t, seed, n, fs.Root(), memfs.New(memfs.Config{}).Root(), backingtest.Options{})
	return fs
}

// Whatever happened: with nothing lost the tree is the living one, with all synced too; and any crash leaves a tree
// that adds up and that can be crashed again without a change.
func TestCrashRandom(t *testing.T) {
	for seed := range uint64(40) {
		fs := busy(t, seed, 50+int(seed)*60)
		want := tree(t, fs.Root())
		for _, names := range orders {
			for _, sectors := range []bool{false, true} {
				p := memfs.Policy{Names: names, Sectors: sectors, Choose: memfs.Newest}
				if got := tree(t, fs.Crash(p).Root()); got != want {
					t.Fatalf("seed %d, names %d: nothing lost, got\n%s\nwant\n%s", seed, names, got, want)
				}
				for s := range uint64(10) {
					p.Choose = memfs.Random(s)
					crashed := fs.Crash(p)
					memfs.Check(t, crashed)
					got := tree(t, crashed.Root())
					p.Choose = memfs.Random(s)
					if again := tree(t, fs.Kill().Crash(p).Root()); again != got {
						t.Fatalf("seed %d/%d: killed and crashed, got\n%s\nwant\n%s", seed, s, again, got)
					}
					p.Choose = memfs.Random(s + 1)
					if again := tree(t, crashed.Crash(p).Root()); again != got {
						t.Fatalf("seed %d/%d: crashed twice, got\n%s\nwant\n%s", seed, s, again, got)
					}
				}
			}
		}
		memfs.Check(t, fs)
		killed := fs.Kill()
		memfs.Check(t, killed)
		if got := tree(t, killed.Root()); got != want {
			t.Fatalf("seed %d: killed, got\n%s\nwant\n%s", seed, got, want)
		}
		must(t, fs.Root().SyncFS())
		if got := tree(t, fs.Crash(memfs.Policy{}).Root()); got != want {
			t.Fatalf("seed %d: all synced, got\n%s\nwant\n%s", seed, got, want)
		}
	}
}

// What is killed or crashed is a copy.
func TestKillIsACopy(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	f := put(t, fs.Root(), "f", "one")
	must(t, fs.Root().SyncFS())
	killed, crashed := fs.Kill(), fs.Crash(memfs.Policy{})
	_, err := f.WriteAt([]byte("two"), 0)
	must(t, err)
	must(t, fs.Root().Mkdir("d", 0))
	must(t, put(t, killed.Root(), "f", "six").Sync())
	for _, c := range []struct {
		fs   *memfs.FS
		want string
	}{{fs, "d() f=two"}, {killed, "f=six"}, {crashed, "f=one"}} {
		if got := look(t, c.fs.Root()); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// scenario does ten operations that change something, and returns the first error.
func scenario(d backing.Dir) error {
	if err := d.Mkdir("d", 0o700); err != nil {
		return err
	}
	sub, err := d.OpenDir("d")
	if err != nil {
		return err
	}
	for i := range 3 {
		f, err := sub.Open(fmt.Sprint(i), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("content"), int64(i)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func TestFailAt(t *testing.T) {
	var now time.Time
	config := memfs.Config{Now: func() time.Time { return now }}
	whole := memfs.New(config)
	must(t, scenario(whole.Root()))
	if n := whole.Ops(); n != 10 {
		t.Fatalf("got %d operations, want 10", n)
	}
	var before string
	for k := range whole.Ops() + 1 {
		fs := memfs.New(config)
		fs.FailAt(k)
		root := fs.Root()
		err := scenario(root)
		if k < whole.Ops() != errors.Is(err, memfs.ErrCrashed) {
			t.Fatalf("cut at %d: got error %v", k, err)
		}
		if _, err := root.Statfs(); k < whole.Ops() && !errors.Is(err, unix.EIO) {
			t.Errorf("cut at %d: a later call gives %v", k, err)
		}
		must(t, root.Close())
		// Each operation but Sync shows in the tree of whoever comes next.
		after := tree(t, fs.Kill().Root())
		if sync := k > 1 && (k-1)%3 == 0; (after == before) != sync && k > 0 {
			t.Errorf("cut at %d: tree\n%s\nbefore\n%s", k, after, before)
		}
		before = after
	}
	if want := tree(t, whole.Root()); before != want {
		t.Errorf("got tree\n%s\nwant\n%s", before, want)
	}
}

func TestHook(t *testing.T) {
	full := &faults.Partial{N: 3, Err: unix.ENOSPC}
	var answer error
	fs := memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if op.Call == faults.WriteAt || op.Call == faults.WritevAt {
			return answer
		}
		return nil
	}})
	f := put(t, fs.Root(), "f", "")
	answer = full
	for _, write := range []func() (int, error){
		func() (int, error) { return f.WriteAt([]byte("abcdef"), 0) },
		func() (int, error) { return f.WritevAt([][]byte{[]byte("AB"), []byte("CD")}, 3) },
	} {
		if n, err := write(); n != 3 || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %d %v, want 3 ENOSPC", n, err)
		}
	}
	if got := look(t, fs.Root()); got != "f=abcABC" {
		t.Errorf("got %q", got)
	}
	answer = unix.EIO
	if n, err := f.WriteAt([]byte("x"), 0); n != 0 || !errors.Is(err, unix.EIO) {
		t.Errorf("got %d %v, want 0 EIO", n, err)
	}
	answer = &faults.Partial{N: 1, Err: memfs.ErrCrashed}
	if n, err := f.WriteAt([]byte("xyz"), 0); n != 1 || !errors.Is(err, memfs.ErrCrashed) {
		t.Errorf("got %d %v, want 1 ErrCrashed", n, err)
	}
	if _, err := f.Stat(); !errors.Is(err, memfs.ErrCrashed) {
		t.Errorf("got %v, want ErrCrashed", err)
	}
	if got := look(t, fs.Kill().Root()); got != "f=xbcABC" {
		t.Errorf("after kill: got %q", got)
	}
}

// A crash wakes those that wait for a lock.
func TestCrashWakes(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	a, b := put(t, fs.Root(), "f", ""), put(t, fs.Root(), "f", "")
	must(t, a.LockWait(backing.LockExclusive))
	got := make(chan error)
	go func() { got <- b.LockWait(backing.LockExclusive) }()
	time.Sleep(10 * time.Millisecond)
	fs.FailAt(0)
	if err := a.Truncate(0); !errors.Is(err, memfs.ErrCrashed) {
		t.Errorf("got %v, want ErrCrashed", err)
	}
	if err := <-got; !errors.Is(err, memfs.ErrCrashed) {
		t.Errorf("got %v, want ErrCrashed", err)
	}
}
