package awskmstest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Mode is what a Proxy does to connections.
type Mode int

// The modes.
const (
	// Pass hands everything on.
	Pass Mode = iota
	// Cut closes each connection at once.
	Cut
	// Hang takes what it gets and answers nothing.
	Hang
	// Truncate closes a connection after the first 40 bytes of an answer.
	Truncate
	// Garbage answers what is not HTTP.
	Garbage
)

// Proxy stands between a client and a server and does what its mode says. Connections that are open change with it.
type Proxy struct {
	// Addr is where it listens, host and port.
	Addr string

	target string
	wg     sync.WaitGroup

	mu    sync.Mutex
	mode  Mode
	conns map[net.Conn]struct{}
}

// NewProxy makes a proxy for the server at target, host and port, until the end of the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, conns: map[net.Conn]struct{}{}}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.Set(Cut)
		p.wg.Wait()
	})
	return p
}

// Set changes the mode. Connections that were made under another mode are closed, but for Hang, under which they stay and
// hang.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	if m == Hang {
		return
	}
	for c := range p.conns {
		c.Close()
	}
}

// Mode is the mode now.
func (p *Proxy) Mode() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// hold notes a connection, so that Set can close it. false: it is closed already.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == Cut {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// release closes a connection.
func (p *Proxy) release(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

// serve handles one connection of a client.
func (p *Proxy) serve(c net.Conn) {
	if !p.hold(c) {
		return
	}
	defer p.release(c)
	switch p.Mode() {
	case Garbage:
		b := make([]byte, 1024)
		_, _ = c.Read(b)
		_, _ = c.Write([]byte("\x00\xff not HTTP at all \r\n\r\n"))
		return
	case Hang:
		_, _ = io.Copy(io.Discard, c)
		return
	}
	s, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	if !p.hold(s) {
		return
	}
	defer p.release(s)
	p.wg.Go(func() {
		defer p.release(s)
		p.copy(s, c)
	})
	if p.Mode() == Truncate {
		_, _ = io.CopyN(c, s, 40)
		return
	}
	p.copy(c, s)
}

// copy hands bytes on, and keeps them back under Hang.
func (p *Proxy) copy(to io.Writer, from io.Reader) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && p.Mode() != Hang {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
