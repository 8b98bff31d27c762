package main

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// controlListener accepts only connections of its own user and of root; others are closed unheard.
type controlListener struct {
	*net.UnixListener
	uid int
}

// listenControl listens at path, in a directory that makeControlDir checked. The socket of a daemon that died is
// replaced, that of a living one is not. Close removes the socket.
func listenControl(path string, uid int) (*controlListener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: another daemon listens", path)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
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
