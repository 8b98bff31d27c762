package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Locker is the part of another process in a test of locks, which Locks starts: it takes one command a line and answers with an errno's name or "ok".
//
//	open PATH | flock sh|ex|un | fcntl rd|wr|un OFF LEN | ofd rd|wr|un OFF LEN
func Locker() {
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

// Locks holds that locks of all three kinds keep two processes apart, in ranges where they have ranges, and end with their process. files
// are one file, as each of the two sees it; env has the test program play Locker.
func Locks(t *testing.T, files [2]string, env string) {
	steps := []struct {
		who  int
		what string
		want string
	}{
		{0, "flock ex", "ok"}, {1, "flock sh", "EAGAIN"}, {1, "flock ex", "EAGAIN"}, {0, "flock sh", "ok"}, {1, "flock sh", "ok"},
		{0, "flock ex", "EAGAIN"}, {1, "flock un", "ok"}, {0, "flock ex", "ok"}, {0, "flock un", "ok"},
		{0, "flock sh", "ok"}, {1, "flock sh", "ok"}, {0, "flock ex", "EAGAIN"}, // which has lost the shared one by that
		{1, "flock ex", "ok"}, {0, "flock sh", "EAGAIN"}, {1, "flock un", "ok"},

		{0, "fcntl wr 0 100", "ok"}, {1, "fcntl wr 100 50", "ok"}, {1, "fcntl rd 99 1", "EAGAIN"}, {0, "fcntl wr 120 1", "EAGAIN"},
		{0, "fcntl rd 0 100", "ok"}, {1, "fcntl rd 0 10", "ok"}, {1, "fcntl wr 0 10", "EAGAIN"}, {0, "fcntl un 0 0", "ok"},
		{1, "fcntl wr 0 0", "ok"}, {0, "fcntl rd 1099511627776 1", "EAGAIN"}, {1, "fcntl un 0 0", "ok"},

		{0, "ofd wr 0 10", "ok"}, {1, "ofd wr 5 10", "EAGAIN"}, {1, "fcntl wr 5 10", "EAGAIN"}, {1, "ofd wr 10 10", "ok"},
		{0, "ofd un 0 0", "ok"}, {1, "ofd wr 0 0", "ok"}, {0, "fcntl rd 3 1", "EAGAIN"}, {0, "flock ex", "ok"}, {1, "ofd un 0 0", "ok"},
		{0, "flock un", "ok"}, {1, "flock ex", "ok"}, {1, "flock un", "ok"},

		{0, "fcntl wr 0 10", "ok"}, {1, "ofd wr 10 0", "ok"}, {1, "flock ex", "ok"}, // which end with their processes
	}
	t.Run("two", func(t *testing.T) {
		var ask [2]func(string) string
		for who := range ask {
			ask[who] = StartLocker(t, files[who], env)
		}
		for i, s := range steps {
			if got := ask[s.who](s.what); got != s.want {
				t.Errorf("step %d: %d %s: %s, want %s", i, s.who, s.what, got, s.want)
			}
		}
	})
	for _, file := range files {
		third := StartLocker(t, file, env)
		for _, lock := range []string{"flock ex", "fcntl wr 0 0", "fcntl un 0 0", "ofd wr 0 0", "ofd un 0 0", "flock un"} {
			got := third(lock)
			for end := time.Now().Add(10 * time.Second); got != "ok" && time.Now().Before(end); got = third(lock) {
				time.Sleep(2 * time.Millisecond) // the end of a process is told to a shared mount a moment later
			}
			if got != "ok" {
				t.Errorf("after the others' end, %s: %s: %s", file, lock, got)
			}
		}
	}
}

// StartLocker starts another process that has the file open, and returns how to ask it. env has the test program play
// Locker.
func StartLocker(t testing.TB, file, env string) (ask func(string) string) {
	t.Helper()
	check := func(err error, what string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), env)
	in, err := cmd.StdinPipe()
	check(err, "pipe")
	out, err := cmd.StdoutPipe()
	check(err, "pipe")
	check(cmd.Start(), "start")
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("locker: %v", err)
		}
	})
	answers := bufio.NewReader(out)
	ask = func(s string) string {
		_, err := io.WriteString(in, s+"\n")
		check(err, "asking "+s)
		a, err := answers.ReadString('\n')
		check(err, "asking "+s)
		return strings.TrimSpace(a)
	}
	if a := ask("open " + file); a != "ok" {
		t.Fatalf("open: %s", a)
	}
	return ask
}
