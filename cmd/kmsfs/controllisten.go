package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long a new daemon waits for one that is about to end and has the same mountpoint, and between two looks at it.
const (
	controlWait = 3 * time.Second
	controlLook = 50 * time.Millisecond
)

// controlLock is the file in the directory that is locked from the check of a socket to its making.
const controlLock = "lock"

// controlListener accepts only connections of its own user and of root; others are closed unheard.
type controlListener struct {
	*net.UnixListener
	uid int
}

// listenControl listens at path, in a directory that makeControlDir checked. The socket of a daemon that died is
// replaced, that of a living one is not, and nothing that is no socket. Close removes the socket.
func listenControl(ctx context.Context, path string, uid int) (*controlListener, error) {
	ctx, cancel := context.WithTimeout(ctx, controlWait)
	defer cancel()
	for {
		l, err := tryListenControl(path, uid)
		if !errors.Is(err, errBusy) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(controlLook):
		}
	}
}

// tryListenControl answers errBusy where another daemon listens or is about to.
func tryListenControl(path string, uid int) (*controlListener, error) {
	unlock, err := lockControlDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeDeadSocket(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // the directory keeps others out until then
		l.Close()
		return nil, err
	}
	return &controlListener{l, uid}, nil
}

// lockControlDir keeps other daemons of the user from making sockets until unlock is called.
func lockControlDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, controlLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, faultf(errBusy, "%s: another daemon begins to listen", dir)
		}
		return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return func() { f.Close() }, nil
}

// removeDeadSocket removes the socket at path where nobody listens any more.
func removeDeadSocket(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return faultf(errBusy, "%s: another daemon listens", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED): // such as EAGAIN: it lives and is slow
		return faultf(errBusy, "%s: %w", path, err)
	}
	return os.Remove(path)
}

// Accept is that of net.Listener.
func (l *controlListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUser(c); err == nil && (uid == 0 || uid == l.uid) {
			return c, nil
		}
		c.Close()
	}
}

// peerUser is the user at the other end, unix(7) SO_PEERCRED.
func peerUser(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}
