package passphrase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Command runs a program and takes its standard output for the passphrase. argv is the program and its arguments; no
// shell sees it. Its standard error goes to stderr, which may be nil. The output is never part of an error.
func Command(argv []string, stderr io.Writer) Source {
	return func(ctx context.Context, _ Purpose) ([]byte, error) {
		if len(argv) == 0 || argv[0] == "" {
			return nil, errors.New("passphrase command is empty")
		}
		out := &boundedBuffer{buf: make([]byte, 0, bufferSize)}
		defer out.wipe()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdout = out
		cmd.Stderr = stderr
		cmd.WaitDelay = time.Second // a grandchild may hold the pipe open
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			if out.full {
				return nil, ErrTooLong
			}
			return nil, fmt.Errorf("passphrase command %s: %w", argv[0], err)
		}
		return trim(bytes.Clone(out.buf))
	}
}

// boundedBuffer keeps what is written to it in one allocation, and refuses more than that.
type boundedBuffer struct {
	buf  []byte
	full bool
}

// Write implements io.Writer.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if len(b.buf)+len(p) > cap(b.buf) {
		b.full = true
		return 0, ErrTooLong
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// ReadFrom implements io.ReaderFrom, so that os/exec reads straight into the buffer that is wiped.
func (b *boundedBuffer) ReadFrom(r io.Reader) (int64, error) {
	start := len(b.buf)
	for {
		n, err := r.Read(b.buf[len(b.buf):cap(b.buf)])
		b.buf = b.buf[:len(b.buf)+n]
		switch {
		case errors.Is(err, io.EOF):
			return int64(len(b.buf) - start), nil
		case err != nil:
			return int64(len(b.buf) - start), err
		case len(b.buf) == cap(b.buf):
			b.full = true
			return int64(len(b.buf) - start), ErrTooLong
		}
	}
}

// wipe overwrites the content.
func (b *boundedBuffer) wipe() { clear(b.buf[:cap(b.buf)]) }
