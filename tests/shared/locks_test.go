package shared_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

func pause() { time.Sleep(2 * time.Millisecond) }

// locks holds that locks of all three kinds keep programs on the two sides apart, in ranges where they have ranges.
func locks(t *testing.T, p *pair, dir string) {
	steps := []struct {
		who  int
		what string
		want string
	}{
		{0, "flock ex", "ok"}, {1, "flock sh", "EAGAIN"}, {1, "flock ex", "EAGAIN"}, {0, "flock sh", "ok"}, {1, "flock sh", "ok"},
		{0, "flock ex", "EAGAIN"}, {1, "flock un", "ok"}, {0, "flock ex", "ok"}, {0, "flock un", "ok"},

		{0, "fcntl wr 0 100", "ok"}, {1, "fcntl wr 100 50", "ok"}, {1, "fcntl rd 99 1", "EAGAIN"}, {0, "fcntl wr 120 1", "EAGAIN"},
		{0, "fcntl rd 0 100", "ok"}, {1, "fcntl rd 0 10", "ok"}, {1, "fcntl wr 0 10", "EAGAIN"}, {0, "fcntl un 0 0", "ok"},
		{1, "fcntl wr 0 0", "ok"}, {0, "fcntl rd 1099511627776 1", "EAGAIN"}, {1, "fcntl un 0 0", "ok"},

		{0, "ofd wr 0 10", "ok"}, {1, "ofd wr 5 10", "EAGAIN"}, {1, "fcntl wr 5 10", "EAGAIN"}, {1, "ofd wr 10 10", "ok"},
		{0, "ofd un 0 0", "ok"}, {1, "ofd wr 0 0", "ok"}, {0, "fcntl rd 3 1", "EAGAIN"}, {0, "flock ex", "ok"}, {1, "ofd un 0 0", "ok"},
		{0, "flock un", "ok"}, {1, "flock ex", "ok"}, {1, "flock un", "ok"}, {0, "fcntl wr 0 0", "ok"}, {1, "flock ex", "ok"},
	}
	check(t, os.WriteFile(p.path(0, dir, "file"), []byte("something"), 0o666))
	t.Run("two", func(t *testing.T) {
		var ask [2]func(string) string
		for side := range ask {
			ask[side] = lab.StartLocker(t, p.path(side, dir, "file"), childEnv+"=locker")
		}
		for i, s := range steps {
			if got := ask[s.who](s.what); got != s.want {
				t.Errorf("step %d: side %d %s: %s, want %s", i, s.who, s.what, got, s.want)
			}
		}
		// What is locked can be read and written: locks are advice, here as everywhere.
		check(t, os.WriteFile(p.path(0, dir, "file"), []byte("anything"), 0o666))
	})
	for side := range p.mounts { // the two are gone, and held locks when they went
		third := lab.StartLocker(t, p.path(side, dir, "file"), childEnv+"=locker")
		for _, lock := range []string{"flock ex", "fcntl wr 0 0", "fcntl un 0 0", "ofd wr 0 0", "ofd un 0 0", "flock un"} {
			got := third(lock)
			for end := time.Now().Add(2 * time.Second); got != "ok" && time.Now().Before(end); got = third(lock) {
				pause() // the end of a process is told to the mount a moment later
			}
			if got != "ok" {
				t.Errorf("after the others' end, side %d: %s: %s", side, lock, got)
			}
		}
	}
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
