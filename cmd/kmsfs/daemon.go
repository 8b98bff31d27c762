package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// daemon is the life of a mount in the background; fd is its end of the channel. The parent tells of what fails before
// the mount answers; the log of what fails after.
func (a *app) daemon(fd string) int {
	for _, name := range []string{channelEnv, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} { // a service is what systemd has started
		_ = os.Unsetenv(name)
	}
	signal.Ignore(syscall.SIGHUP)
	c, err := inheritChannel(fd)
	if err != nil {
		a.report(err)
		return exitOf(err).code
	}
	defer c.close()
	ready := false
	err = a.serveFor(c, &ready)
	if err != nil && !ready {
		_ = c.sendFailure(msgFail, err) // the parent may be gone
	}
	return exitOf(err).code
}

// serveFor serves the mount that the parent asks for, and sets ready once the parent knows that it answers.
func (a *app) serveFor(c *channel, ready *bool) error {
	p, err := c.readPlan(context.Background())
	if err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	log, file, err := openLog(a.stderr, p)
	if err != nil {
		return err
	}
	defer file.Close()
	err = a.serve(p, c.passphrase, log, func() error {
		if err := c.send(msgReady, nil); err != nil {
			return fmt.Errorf("the process that mounts is gone: %w", err)
		}
		*ready = true
		c.close()
		return a.leaveTerminal(file)
	})
	if err != nil && *ready {
		log.Error("mount ended with an error", "err", err)
	}
	return err
}

// openLog returns the log of a mount and the file it goes to, or an empty file where it goes to stderr.
func openLog(stderr io.Writer, p mountPlan) (*slog.Logger, *os.File, error) {
	level := slog.LevelWarn
	if p.Debug {
		level = slog.LevelDebug
	}
	var file *os.File
	if p.LogFile != "" {
		f, err := os.OpenFile(p.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, nil, hintf(err, "--log-file names a file in a directory that exists and that you can write to")
		}
		file, stderr = f, f
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})), file, nil
}

// leaveTerminal points the standard descriptors to /dev/null, and standard error to the log file where there is one.
// A standard error that is the journal's stays.
func (a *app) leaveTerminal(logFile *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	stderr := int(null.Fd())
	switch {
	case logFile != nil:
		stderr = int(logFile.Fd())
	case isJournal(a.env("JOURNAL_STREAM"), 2):
		stderr = 2
	}
	for to, from := range []int{int(null.Fd()), int(null.Fd()), stderr} {
		if from == to {
			continue
		}
		if err := unix.Dup3(from, to, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}

// isJournal tells whether fd is the socket that systemd.exec(5) names in JOURNAL_STREAM, as device:inode.
func isJournal(stream string, fd int) bool {
	dev, ino, ok := strings.Cut(stream, ":")
	var st unix.Stat_t
	if !ok || unix.Fstat(fd, &st) != nil {
		return false
	}
	return dev == strconv.FormatUint(st.Dev, 10) && ino == strconv.FormatUint(st.Ino, 10)
}
