package shared_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

func pause() { time.Sleep(2 * time.Millisecond) }

// locks holds that locks keep programs on the two sides apart.
func locks(t *testing.T, p *pair, dir string) {
	lab.Locks(t, [2]string{p.path(0, dir, "file"), p.path(1, dir, "file")}, childEnv+"=locker")
	// What is locked can be read and written: locks are advice, here as everywhere.
	a, err := os.OpenFile(p.path(0, dir, "file"), os.O_RDWR, 0)
	check(t, err)
	defer a.Close()
	check(t, unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	check(t, os.WriteFile(p.path(1, dir, "file"), []byte("anything"), 0o666))
}

// lockWaits waits on one side for a lock of the other, gets it when that lets go, and can be interrupted before.
func lockWaits(t *testing.T, p *pair, dir string) {
	check(t, os.WriteFile(p.path(0, dir, "file"), nil, 0o666))
	for _, name := range []string{"flock", "ofd"} {
		lock := func(f *os.File, typ int16) error {
			if name == "flock" {
				return unix.Flock(int(f.Fd()), map[int16]int{unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[typ])
			}
			return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: typ})
		}
		a, err := os.OpenFile(p.path(0, dir, "file"), os.O_RDWR, 0)
		check(t, err)
		b, err := os.OpenFile(p.path(1, dir, "file"), os.O_RDWR, 0)
		check(t, err)
		check(t, lock(a, unix.F_WRLCK))
		got := make(chan error, 1)
		go func() { got <- lock(b, unix.F_WRLCK) }()
		select {
		case err := <-got:
			t.Fatalf("%s: a lock that the other side holds was given: %v", name, err)
		case <-time.After(200 * time.Millisecond):
		}
		check(t, lock(a, unix.F_UNLCK))
		select {
		case err := <-got:
			check(t, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the lock was let go of 10 s ago, and the other side still waits", name)
		}
		check(t, b.Close())
		check(t, lock(a, unix.F_WRLCK)) // closing lets go, in a moment
		check(t, a.Close())
	}
	// Two that hold flock(2) together and both want it alone: each lets go first, so that both get it in turn.
	var both [2]*os.File
	for side := range both {
		f, err := os.OpenFile(p.path(side, dir, "file"), os.O_RDWR, 0)
		check(t, err)
		defer f.Close()
		check(t, unix.Flock(int(f.Fd()), unix.LOCK_SH))
		both[side] = f
	}
	turns := make(chan error, len(both))
	for _, f := range both {
		go func() {
			turns <- errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_EX), unix.Flock(int(f.Fd()), unix.LOCK_UN))
		}()
	}
	for range both {
		select {
		case err := <-turns:
			check(t, err)
		case <-time.After(10 * time.Second):
			t.Fatal("two who want a lock alone that they hold together wait for each other")
		}
	}
	// A process that waits for a lock can be killed.
	a, err := os.OpenFile(p.path(0, dir, "file"), os.O_RDWR, 0)
	check(t, err)
	defer a.Close()
	check(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	cmd := exec.Command("flock", p.path(1, dir, "file"), "true")
	check(t, cmd.Start())
	time.Sleep(100 * time.Millisecond)
	check(t, cmd.Process.Kill())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("a process that waits for a lock of the other side cannot be killed")
	}
}
