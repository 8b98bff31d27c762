package backingtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

func testReadDir(t *testing.T, d backing.Dir) {
	equal(t, "empty", len(names(t, d)), 0)
	put(t, d, "file", "")
	ok(t, d.Mkdir("dir", 0o700))
	ok(t, d.Symlink("x", "link"))
	ok(t, d.Mknod("fifo", unix.S_IFIFO|0o600, 0))
	seen := 0
	ok(t, d.ReadDir(func(e backing.Entry) bool {
		seen++
		st := stat(t, d, e.Name) // other calls are allowed here
		equal(t, "ino of "+e.Name, e.Ino, st.Ino)
		if e.Kind != 0 {
			equal(t, "kind of "+e.Name, e.Kind, st.Mode&unix.S_IFMT)
		}
		return true
	}))
	equal(t, "entries", seen, 4)
	seen = 0
	ok(t, d.ReadDir(func(backing.Entry) bool { seen++; return false }))
	equal(t, "stopped after", seen, 1)
	equal(t, "from the start again", strings.Join(names(t, d), " "), "dir fifo file link")
	ok(t, d.ReadDir(func(e backing.Entry) bool {
		if e.Name == "dir" {
			ok(t, d.Rmdir(e.Name))
		} else {
			ok(t, d.Unlink(e.Name))
		}
		return true
	}))
	equal(t, "emptied while reading", len(names(t, d)), 0)
}

func testReadDirConcurrent(t *testing.T, d backing.Dir) {
	const n = 3000 // more than one buffer of getdents64
	name := func(i int) string { return fmt.Sprintf("%0100d", i) }
	for i := range n {
		ok(t, d.Mknod(name(i), unix.S_IFREG|0o600, 0))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			seen := map[string]bool{}
			err := d.ReadDir(func(e backing.Entry) bool { seen[e.Name] = true; return true })
			if err != nil || len(seen) != n {
				t.Errorf("got %d names and %v, want %d", len(seen), err, n)
			}
		})
	}
	wg.Wait()
}

func testLock(t *testing.T, d backing.Dir) {
	a, err := d.Lock("lock", backing.LockExclusive)
	ok(t, err)
	equal(t, "mode", stat(t, d, "lock").Mode, unix.S_IFREG|0o600)
	fails(t, "a second", lockErr(d.Lock("lock", backing.LockExclusive)), unix.EWOULDBLOCK)
	fails(t, "a shared one beside it", lockErr(d.Lock("lock", backing.LockShared)), unix.EWOULDBLOCK)
	_, err = a.WriteAt([]byte("held"), 0)
	ok(t, err)
	ok(t, a.Close())
	b, err := d.Lock("lock", backing.LockShared)
	ok(t, err)
	c, err := d.Lock("lock", backing.LockShared)
	ok(t, err)
	fails(t, "an exclusive one beside two", lockErr(d.Lock("lock", backing.LockExclusive)), unix.EWOULDBLOCK)
	ok(t, b.Close())
	fails(t, "an exclusive one beside one", lockErr(d.Lock("lock", backing.LockExclusive)), unix.EWOULDBLOCK)
	ok(t, c.Close())
	a, err = d.Lock("lock", backing.LockExclusive)
	ok(t, err)
	equal(t, "content", content(t, a), "held")
	ok(t, a.Close())
}

func testLockWait(t *testing.T, d backing.Dir) {
	a, b := open(t, d, "f", unix.O_CREAT), open(t, d, "f", 0)
	ok(t, a.LockWait(backing.LockShared))
	ok(t, b.LockWait(backing.LockShared))
	ok(t, b.Unlock())
	ok(t, a.LockWait(backing.LockExclusive)) // in place of the shared one
	ok(t, a.LockWait(backing.LockExclusive))
	got := make(chan error)
	var released atomic.Bool
	go func() {
		err := b.LockWait(backing.LockShared)
		if err == nil && !released.Load() {
			err = errors.New("got a lock that another holds")
		}
		got <- err
	}()
	time.Sleep(20 * time.Millisecond)
	released.Store(true)
	ok(t, a.Unlock())
	ok(t, <-got)
	ok(t, b.Close()) // lets go of it
	ok(t, a.LockWait(backing.LockExclusive))
	ok(t, a.Unlock())
	ok(t, a.Unlock())
	ro, err := d.Open("f", unix.O_RDONLY, 0)
	ok(t, err)
	fails(t, "exclusive lock of a file open for reading", ro.LockWait(backing.LockExclusive), unix.EBADF)
	ok(t, ro.LockWait(backing.LockShared))
	ok(t, ro.Close())
}

func testUse(t *testing.T, d backing.Dir) {
	a, b := open(t, d, "f", unix.O_CREAT), open(t, d, "f", 0)
	inUse := func(f backing.File, want bool) {
		t.Helper()
		got, err := f.InUse()
		ok(t, err)
		if got != want {
			t.Errorf("in use: %v, want %v", got, want)
		}
	}
	inUse(a, false)
	ok(t, a.Use())
	inUse(a, false)
	inUse(b, true)
	ok(t, b.LockWait(backing.LockExclusive)) // another lock
	ok(t, b.Unlock())
	ok(t, b.Use())
	inUse(a, true)
	ok(t, a.Close())
	inUse(b, false)
	ok(t, b.Close())
}

func testSync(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	_, err := f.WriteAt(pattern(100), 0)
	ok(t, err)
	ok(t, f.DataSync())
	ok(t, f.Sync())
	ok(t, d.Sync())
	ok(t, d.SyncFS())
	f.WillNeed(0, 100)
	f.WillNeed(-1, -1)
}

func testStatfs(t *testing.T, d backing.Dir) {
	st, err := d.Statfs()
	ok(t, err)
	if st.Bsize == 0 || st.Namelen == 0 || st.Type == 0 || st.Bfree > st.Blocks {
		t.Errorf("statfs: %+v", st)
	}
}
