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

	"golang.org/x/sys/unix"
)

// Locker is the part of another process in a test of locks, which StartLocker starts: it takes one command a line and answers with an errno's name or "ok".
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
