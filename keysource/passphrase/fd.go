package passphrase

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// FD reads the passphrase from a file descriptor to its end, once: the Source closes it, and a second call fails.
func FD(fd int) Source {
	return func(ctx context.Context, _ Purpose) ([]byte, error) {
		buf := make([]byte, bufferSize)
		defer clear(buf)
		n, err := readFD(ctx, fd, buf, untilEnd)
		_ = unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("passphrase from file descriptor %d: %w", fd, err)
		}
		return trim(buf[:n])
	}
}

// readEnd says where readFD stops.
type readEnd int

// The ends.
const (
	untilEnd readEnd = iota
	untilLine
)

// pollMillis is how soon a wait for input notices that its context ended.
const pollMillis = 100

// readFD fills buf from fd until the end of the file, of the line or of buf.
func readFD(ctx context.Context, fd int, buf []byte, end readEnd) (int, error) {
	n := 0
	for n < len(buf) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		ready, err := unix.Poll(fds, pollMillis)
		if errors.Is(err, unix.EINTR) || err == nil && ready == 0 {
			continue
		}
		if err != nil {
			return 0, err
		}
		m, err := unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n += m
		if m == 0 || end == untilLine && buf[n-1] == '\n' {
			break
		}
	}
	return n, nil
}
