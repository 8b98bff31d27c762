package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

// channelEnv names the environment variable with the descriptor of the daemon's end of the channel.
const channelEnv = "KMSFS_CHANNEL_FD"

// The messages of the channel. Each is one packet, its kind in the first byte.
const (
	msgPlan   = 'P' // to the daemon: a mountPlan
	msgAsk    = 'A' // from the daemon: the purpose of a passphrase, one byte
	msgSecret = 'S' // to the daemon: the passphrase
	msgNone   = 'N' // to the daemon: a failure; there is no passphrase
	msgFail   = 'F' // from the daemon: a failure; it ends
	msgReady  = 'R' // from the daemon: the mount answers
)

// maxMessage is the largest message in bytes: a plan has some paths.
const maxMessage = 128 << 10

// failure is an error that crosses the channel: its kind is the row of the exit table.
type failure struct {
	Code int
	Text string
	Hint string
}

// Error implements error.
func (f *failure) Error() string { return f.Text }

// Is finds the kinds of the failure's row, so that exitOf finds the row.
func (f *failure) Is(target error) bool {
	for _, e := range exitTable() {
		if e.code == f.Code && len(e.errs) > 0 {
			return e.errs[0] == target
		}
	}
	return false
}

// channel is one end of a pair of sockets, of type SOCK_SEQPACKET.
type channel struct{ conn net.Conn }

// newChannel returns one end, and the other as a file for a child.
func newChannel() (*channel, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "channel")
	c, err := fileChannel(os.NewFile(uintptr(pair[0]), "channel"))
	if err != nil {
		theirs.Close()
	}
	return c, theirs, err
}

// inheritChannel is the child's end, from the value of channelEnv.
func inheritChannel(fd string) (*channel, error) {
	n, err := strconv.ParseUint(fd, 10, 16)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("%s=%s is not a descriptor", channelEnv, fd)
	}
	if _, err := unix.FcntlInt(uintptr(n), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("%s=%s: %w", channelEnv, fd, err)
	}
	return fileChannel(os.NewFile(uintptr(n), "channel"))
}

func fileChannel(f *os.File) (*channel, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return &channel{conn}, nil
}

// send sends one message.
func (c *channel) send(kind byte, body []byte) error {
	b := append([]byte{kind}, body...)
	defer clear(b)
	_, err := c.conn.Write(b)
	return err
}

// sendJSON sends v, which holds no secret.
func (c *channel) sendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.send(kind, b)
}

// sendFailure sends err with its exit code and hint.
func (c *channel) sendFailure(kind byte, err error) error {
	return c.sendJSON(kind, newFailure(err))
}

// receive waits for a message. The caller clears the body of a secret.
func (c *channel) receive(ctx context.Context) (kind byte, body []byte, err error) {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	b := make([]byte, maxMessage)
	n, err := c.conn.Read(b)
	switch {
	case ctx.Err() != nil:
		return 0, nil, ctx.Err()
	case err != nil:
		return 0, nil, err
	case n == 0:
		return 0, nil, io.EOF
	}
	return b[0], b[1:n], nil
}

// readFailure is the error in a msgFail or msgNone.
func readFailure(body []byte) error {
	f := &failure{}
	if err := json.Unmarshal(body, f); err != nil {
		return fmt.Errorf("message of the other process: %w", err)
	}
	return keysource.WithHint(f, f.Hint)
}

// passphrase asks the parent.
func (c *channel) passphrase(ctx context.Context, purpose passphrase.Purpose) ([]byte, error) {
	if err := c.send(msgAsk, []byte{byte(purpose)}); err != nil {
		return nil, err
	}
	kind, body, err := c.receive(ctx)
	switch {
	case err != nil:
		return nil, err
	case kind == msgSecret:
		return body, nil
	case kind == msgNone:
		return nil, readFailure(body)
	}
	return nil, errors.New("unexpected answer to the question for a passphrase")
}

// close ends the channel; the other end then reads io.EOF.
func (c *channel) close() { c.conn.Close() }
