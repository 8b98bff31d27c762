package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// start starts a file system in the foreground, and waits for its mount on dir.
func start(t *testing.T, dir string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	check(t, cmd.Start(), "start")
	for end := time.Now().Add(30 * time.Second); !mounted(dir); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not mount", cmd)
		}
	}
	return cmd
}

// inTime fails the test where f takes long.
func inTime(t *testing.T, what string, f func() error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		check(t, err, what)
	case <-time.After(20 * time.Second):
		t.Errorf("%s hangs", what)
	}
}

// TestHungDisk keeps a vault on a file system that stops answering. What needs it waits, what does not goes on, and all that waits
// succeeds when it answers again. A daemon that was killed while it unmounts ends then.
func TestHungDisk(t *testing.T) {
	lab.NeedRoot(t)
	if !lab.IsKMSFS() {
		t.Skip("is about the daemon of kmsfs")
	}
	kmsfs, loopback := lab.Binary(t, "cmd/kmsfs"), lab.Binary(t, "tests/loopback")
	dir := lab.Dir(t)
	below, disk := lab.Subdir(t, dir, "below", 0o755), lab.Subdir(t, dir, "disk", 0o755)
	point, keys := lab.Subdir(t, dir, "mount", 0o755), filepath.Join(dir, "keys")
	slow := start(t, disk, loopback, below, disk)
	answers := func(yes bool) {
		t.Helper()
		signal := map[bool]syscall.Signal{true: syscall.SIGCONT, false: syscall.SIGSTOP}[yes]
		check(t, slow.Process.Signal(signal), "signal")
		for !yes && !stopped(t, slow.Process.Pid) { // else it may take one more request, whose caller cannot be killed
		}
	}
	t.Cleanup(func() {
		answers(true)
		for _, d := range []string{point, disk} {
			_ = unix.Unmount(d, unix.MNT_FORCE|unix.MNT_DETACH) // what is left of a test that has failed
		}
		_ = slow.Process.Signal(syscall.SIGTERM)
		_ = slow.Wait()
	})
	mount := func() *exec.Cmd {
		t.Helper()
		return start(t, point, kmsfs, "mount", "--init", "--foreground", "--key-store", keys, disk+"/vault", point)
	}
	text := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	cached := filepath.Join(point, "cached")

	daemon := mount()
	const waiting = 10
	for i := range waiting {
		check(t, os.WriteFile(fmt.Sprint(point, "/file", i), text, 0o644), "write")
	}
	read := func() error { // without stat(2), which asks for the time of access
		got := make([]byte, len(text))
		fd, err := unix.Open(cached, unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.Pread(fd, got, 0)
			err = errors.Join(err, unix.Close(fd))
		}
		if err == nil && !bytes.Equal(got, text) {
			err = errors.New("it reads as something else")
		}
		return err
	}
	check(t, os.WriteFile(cached, text, 0o644), "write")
	check(t, read(), "read") // so that the kernel knows all of it
	answers(false)
	ended := make(chan error, waiting)
	for i := range waiting {
		go func() {
			f, err := os.OpenFile(fmt.Sprint(point, "/file", i), os.O_RDWR|syscall.O_DIRECT, 0)
			if err == nil {
				_, err = f.WriteAt(text, 4096)
				err = errors.Join(err, f.Sync(), f.Close())
			}
			ended <- err
		}()
	}
	inTime(t, "reading what is cached", read)
	inTime(t, "what the daemon answers by itself", func() error {
		if _, err := unix.Getxattr(point, "user.kmsfs.none", nil); !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("there is an attribute: %v", err)
		}
		return nil
	})
	select {
	case err := <-ended:
		t.Errorf("a sync of a disk that does not answer: %v", err)
	default:
	}
	answers(true)
	for range waiting {
		inTime(t, "what has waited", func() error { return <-ended })
	}
	check(t, daemon.Process.Signal(syscall.SIGTERM), "signal")
	inTime(t, "the end", daemon.Wait)

	for name, end := range map[string]func(d *exec.Cmd) error{
		"two signals": func(d *exec.Cmd) error { return d.Process.Signal(syscall.SIGTERM) },
		"kill":        func(d *exec.Cmd) error { return d.Process.Kill() },
	} {
		daemon := mount()
		check(t, os.WriteFile(cached, text, 0o644), "write") // which the kernel has not written yet
		answers(false)
		check(t, daemon.Process.Signal(syscall.SIGTERM), "signal")
		time.Sleep(time.Second) // it now unmounts, and the kernel writes; were it not so, less would be tested
		check(t, end(daemon), "signal")
		answers(true) // until then the kernel keeps a process whose files are on such a disk
		inTime(t, name+": the end", func() error {
			if err := daemon.Wait(); name == "kill" && err == nil {
				return errors.New("it was not killed")
			}
			return nil
		})
		_ = unix.Unmount(point, unix.MNT_DETACH) // where it had not got so far
	}
	daemon = mount()
	got, err := os.ReadFile(cached)
	if err != nil || len(got) != 0 && len(got) != len(text) {
		t.Errorf("after all of that %d bytes are read, %v", len(got), err)
	}
	check(t, daemon.Process.Signal(syscall.SIGTERM), "signal")
	inTime(t, "the last end", daemon.Wait)
}

// stopped says whether all threads of a process are stopped.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	check(t, err, "threads")
	for _, name := range threads {
		stat, err := os.ReadFile(name)
		if err == nil && !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return len(threads) > 0
}
