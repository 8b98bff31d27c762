package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"kmsfs/keysource"
)

// UnixPrefix begins the address of a unix socket.
const UnixPrefix = "unix:"

// socketMode is that of a unix socket: who may connect must still sign.
const socketMode = 0o660

// Listener is where a server listens, with TLS or without.
type Listener struct {
	net.Listener
	tls *tls.Config // nil is without
}

// Listen listens on HOST:PORT or unix:PATH. Without TLS the host must be this machine's loopback. A unix socket that a
// server left behind is replaced, one that answers is not.
func Listen(address string, config *tls.Config) (*Listener, error) {
	if path, ok := strings.CutPrefix(address, UnixPrefix); ok {
		l, err := listenUnix(path)
		if err != nil {
			return nil, err
		}
		return &Listener{l, config}, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errAddress("%q is not HOST:PORT or unix:PATH", address)
	}
	if ip := net.ParseIP(host); config == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, errNoTLS(address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return Inherit(l, config)
}

// Inherit is a Listener of one that is listening already. Without TLS it must be on this machine's loopback or a unix
// socket. After an error l is closed.
func Inherit(l net.Listener, config *tls.Config) (*Listener, error) {
	if at, tcp := l.Addr().(*net.TCPAddr); config == nil && tcp && !at.IP.IsLoopback() {
		return nil, errors.Join(errNoTLS(l.Addr().String()), l.Close())
	}
	return &Listener{l, config}, nil
}

// errNoTLS is for an address that others can reach, without TLS.
func errNoTLS(address string) error {
	return keysource.WithHint(errAddress("%s is not this machine's loopback, and there is no TLS", address),
		"give --tls-cert and --tls-key, or listen on 127.0.0.1 or a unix socket")
}

// listenUnix listens on a unix socket.
func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && stale(path) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// stale tells whether path is a socket that nobody listens on.
func stale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// errAddress is for an address that cannot be listened on.
func errAddress(format string, args ...any) error {
	return keysource.NewError("", "", keysource.CodeValidation, fmt.Sprintf(format, args...))
}

// limit is l with at most as many open connections as there are slots. TLS is above the limit: net/http wants to see its
// connections.
func (l *Listener) limit(slots chan struct{}, open prometheus.Gauge) net.Listener {
	limited := &limitedListener{Listener: l.Listener, slots: slots, open: open, closed: make(chan struct{})}
	if l.tls == nil {
		return limited
	}
	return tls.NewListener(limited, l.tls)
}

// limitedListener accepts connections while there are slots.
type limitedListener struct {
	net.Listener
	slots  chan struct{}
	open   prometheus.Gauge
	closed chan struct{}
	once   sync.Once
}

// Accept waits for a slot, then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	l.open.Inc()
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { l.open.Dec(); <-l.slots })}, nil
}

// Close ends Accept.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives its slot back when it is closed.
type limitedConn struct {
	net.Conn
	release func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
