package mount_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// locker is another process: it takes one command a line and answers with an errno's name or "ok".
//
//	open PATH | flock sh|ex|un | fcntl rd|wr|un OFF LEN | ofd rd|wr|un OFF LEN
func locker() {
	fd := -1
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var verb, kind string
		var off, n int64
		_, _ = fmt.Sscan(in.Text(), &verb, &kind, &off, &n) // fewer words are fine
		var err error
		switch verb {
		case "open":
			fd, err = unix.Open(kind, unix.O_RDWR|unix.O_CREAT, 0o644)
		case "flock":
			err = unix.Flock(fd, map[string]int{"sh": unix.LOCK_SH, "ex": unix.LOCK_EX, "un": unix.LOCK_UN}[kind]|unix.LOCK_NB)
		case "fcntl", "ofd":
			how := map[string]int{"fcntl": unix.F_SETLK, "ofd": unix.F_OFD_SETLK}[verb]
			lock := unix.Flock_t{Start: off, Len: n,
				Type: map[string]int16{"rd": unix.F_RDLCK, "wr": unix.F_WRLCK, "un": unix.F_UNLCK}[kind]}
			err = unix.FcntlFlock(uintptr(fd), how, &lock)
		}
		answer := "ok"
		if err != nil {
			answer = unix.ErrnoName(err.(syscall.Errno))
		}
		fmt.Println(answer)
	}
}

// startLocker starts another process that has the file open, and returns how to ask it.
func startLocker(t *testing.T, file string) (ask func(string) string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=locker")
	in, err := cmd.StdinPipe()
	check(t, err, "pipe")
	out, err := cmd.StdoutPipe()
	check(t, err, "pipe")
	check(t, cmd.Start(), "start")
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("locker: %v", err)
		}
	})
	answers := bufio.NewReader(out)
	ask = func(s string) string {
		_, err := io.WriteString(in, s+"\n")
		check(t, err, "asking "+s)
		a, err := answers.ReadString('\n')
		check(t, err, "asking "+s)
		return strings.TrimSpace(a)
	}
	if a := ask("open " + file); a != "ok" {
		t.Fatalf("open: %s", a)
	}
	return ask
}

// TestLocks holds that locks of all three kinds keep two processes apart, in ranges where they have ranges, and end
// with their process.
func TestLocks(t *testing.T) {
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
		{0, "ofd un 0 0", "ok"}, {1, "ofd wr 0 0", "ok"}, {0, "fcntl rd 3 1", "EAGAIN"}, {0, "flock ex", "ok"},
	}
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		file := m.Dir + "/file"
		t.Run("two", func(t *testing.T) {
			ask := []func(string) string{startLocker(t, file), startLocker(t, file)}
			for i, s := range steps {
				if got := ask[s.who](s.what); got != s.want {
					t.Errorf("step %d: %d %s: %s, want %s", i, s.who, s.what, got, s.want)
				}
			}
		})
		third := startLocker(t, file) // the two are gone, and held locks when they went
		for _, lock := range []string{"flock ex", "fcntl wr 0 0", "ofd un 0 0"} {
			if got := third(lock); got != "ok" {
				t.Errorf("after the others' end: %s: %s", lock, got)
			}
		}
	})
}
