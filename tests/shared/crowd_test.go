package shared_test

import (
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crowd has more programs wait for a lock on one side than that mount answers requests at once. The one who has the lock lets
// go of it all the same, the mount is used meanwhile, and each of them gets it.
func crowd(t *testing.T, p *pair, dir string) {
	const many = 80
	path := p.path(0, dir, "file")
	check(t, os.WriteFile(path, nil, 0o666))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	check(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	var waiters []*exec.Cmd
	for range many {
		c := exec.Command("flock", path, "true")
		check(t, c.Start())
		waiters = append(waiters, c)
	}
	time.Sleep(time.Second)
	used := make(chan error, 1)
	go func() { used <- os.WriteFile(p.path(0, dir, "other"), []byte("other"), 0o600) }()
	select {
	case err := <-used:
		check(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the mount does not answer while programs wait for a lock")
		check(t, p.mounts[0].Kill()) // nothing else ends what waits in it
	}
	var wg sync.WaitGroup
	let := make(chan error, 1)
	go func() { let <- unix.Flock(int(f.Fd()), unix.LOCK_UN) }()
	select {
	case err := <-let:
		check(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the lock cannot be let go of")
		check(t, p.mounts[0].Kill())
	}
	for _, c := range waiters {
		wg.Go(func() {
			if err := c.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
