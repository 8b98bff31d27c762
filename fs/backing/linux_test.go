package backing_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/backingtest"
)

func TestContractOldKernel(t *testing.T) {
	backingtest.Run(t, func(t *testing.T) backing.Dir {
		d, err := backing.OpenDirOldKernel(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	})
}

func TestContractShared(t *testing.T) {
	backingtest.Run(t, func(t *testing.T) backing.Dir {
		d, err := backing.OpenDirShared(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	})
}

// TestLocks holds that the locks of two owners exclude each other where they overlap, that those of flock(2), of fcntl(2) and of
// LockWait do not, and that an owner's end lets go of all.
func TestLocks(t *testing.T) {
	d := openDir(t, t.TempDir())
	file, err := d.Open("file", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var owners [2]*backing.Locks
	for i := range owners {
		if owners[i], err = file.(interface {
			Locks() (*backing.Locks, error)
		}).Locks(); err != nil {
			t.Fatal(err)
		}
	}
	ranged := func(start, end int64) backing.RangeLock { return backing.RangeLock{Start: start, End: end} }
	all := ranged(0, backing.RangeMost)
	for i, s := range []struct {
		owner int
		lock  backing.RangeLock
		want  error
	}{
		{0, all, nil}, {1, ranged(100, 101), unix.EAGAIN}, {1, backing.Flocked(backing.LockShared), nil},
		{0, backing.Flocked(backing.LockExclusive), unix.EAGAIN}, {0, backing.Flocked(backing.LockShared), nil},
		{1, ranged(backing.RangeMost-1, backing.RangeMost), unix.EAGAIN},
	} {
		if err := owners[s.owner].Take(s.lock); err != s.want {
			t.Errorf("step %d: %v, want %v", i, err, s.want)
		}
	}
	if err := file.LockWait(backing.LockExclusive); err != nil {
		t.Error(err)
	}
	if c, found, err := owners[1].Conflict(ranged(5, 6)); err != nil || !found || c != all {
		t.Errorf("what is in the way: %v, %v, %v", c, found, err)
	}
	if err := owners[0].LetGo(ranged(5, 6)); err != nil {
		t.Error(err)
	}
	if _, found, err := owners[1].Conflict(ranged(5, 6)); err != nil || found {
		t.Errorf("what is in the way of nothing: %v, %v", found, err)
	}
	if err := owners[0].Close(); err != nil {
		t.Error(err)
	}
	if err := owners[1].Take(all); err != nil {
		t.Errorf("after the end of the other owner: %v", err)
	}
	if err := owners[1].Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{"file": unix.ENOTDIR, "nothing": unix.ENOENT, "link": nil, "": nil} {
		d, err := backing.OpenDir(filepath.Join(dir, path))
		if err != want {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
		if err == nil {
			_ = d.Close()
		}
	}
}

// descriptors counts the open descriptors of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	return len(list)
}

// Neither success nor failure leaves a descriptor open.
func TestNoDescriptorLeaks(t *testing.T) {
	before := descriptors(t)
	t.Run("contract", func(t *testing.T) {
		backingtest.Run(t, func(t *testing.T) backing.Dir { return openDir(t, t.TempDir()) })
	})
	for range 50 { // goroutines of the runtime may hold one for a moment
		if descriptors(t) <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d descriptors before, %d after", before, descriptors(t))
}

// Open of a FIFO wakes nobody who waits at its other end.
func TestOpenDoesNotTouch(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir)
	if err := d.Mknod("fifo", unix.S_IFIFO|0o600, 0); err != nil {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() {
		fd, err := unix.Open(filepath.Join(dir, "fifo"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		woken <- err
		if err == nil {
			_ = unix.Close(fd)
		}
	}()
	time.Sleep(20 * time.Millisecond)
	for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR | unix.O_CREAT} {
		if _, err := d.Open("fifo", flags, 0o600); err != unix.EINVAL {
			t.Errorf("got %v, want EINVAL", err)
		}
	}
	select {
	case err := <-woken:
		t.Errorf("the writer was woken: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	fd, err := unix.Open(filepath.Join(dir, "fifo"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	<-woken
	_ = unix.Close(fd)
}

// A bound check of every length in what getdents64 gives: no input may panic.
func FuzzParseDirents(f *testing.F) {
	entry := append(make([]byte, 16), 32, 0, 8, 'n', 'a', 'm', 'e', 0, 0, 0, 0, 0, 0, 0, 0, 0)
	f.Add(entry)
	f.Add(append(entry, entry...))
	f.Add(entry[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := backing.ParseDirents(b, func(e backing.Entry) bool { return len(e.Name) < 100 })
		if err != nil && err != unix.EIO {
			t.Errorf("got %v", err)
		}
	})
}

// The cost of the calls that every open of a small file makes.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "abcdefghijklmnop"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	d, err := backing.OpenDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			f, err := d.Open("abcdefghijklmnop", unix.O_RDWR, 0)
			if err != nil {
				b.Fatal(err)
			}
			_ = f.Close()
		}
	})
	b.Run("OpenStat", func(b *testing.B) {
		for b.Loop() {
			f, _, err := d.OpenStat("abcdefghijklmnop", unix.O_RDWR, 0)
			if err != nil {
				b.Fatal(err)
			}
			_ = f.Close()
		}
	})
	b.Run("StatAt", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.StatAt("abcdefghijklmnop"); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := d.SetxattrAt("abcdefghijklmnop", "user.a", []byte("value"), 0); err != nil {
		b.Skipf("needs user xattrs: %v", err)
	}
	buf := make([]byte, 100)
	b.Run("GetxattrAt", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.GetxattrAt("abcdefghijklmnop", "user.a", buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
