package fs

import (
	"context"
	"errors"
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrFrozen: the mount is frozen already.
var ErrFrozen = errors.New("the mount is frozen")

// gate lets the requests that change something through, or holds them.
type gate struct {
	mu   sync.Mutex    // a leaf
	busy int           // requests that are through
	shut chan struct{} // nil: open; else closed when it opens
	idle chan struct{} // closed when busy comes to 0, where somebody waits for that
}

// tryEnter goes through where the gate is open.
func (g *gate) tryEnter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		return false
	}
	g.busy++
	return true
}

// enter waits until the gate opens, or gone is closed, and goes through.
func (g *gate) enter(gone <-chan struct{}) {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.busy++
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		select {
		case <-shut:
		case <-gone:
			g.mu.Lock()
			g.busy++
			g.mu.Unlock()
			return
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy--; g.busy == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// close shuts the gate and waits for those that are through. Where ctx ends first it is open again.
func (g *gate) close(ctx context.Context) (open func(), err error) {
	g.mu.Lock()
	if g.shut != nil {
		g.mu.Unlock()
		return nil, ErrFrozen
	}
	shut := make(chan struct{})
	g.shut = shut
	idle := make(chan struct{})
	if g.busy == 0 {
		close(idle)
	} else {
		g.idle = idle
	}
	g.mu.Unlock()
	open = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		close(shut)
		g.shut, g.idle = nil, nil
	})
	select {
	case <-idle:
		return open, nil
	case <-ctx.Done():
		open()
		return nil, ctx.Err()
	}
}

// Freeze waits for the requests under way that change something, and holds those that come until thaw is called, which
// may be called more than once. Where ctx ends before all have ended, nothing is held and the error is that of ctx. Reading goes
// on. A caller that is held cannot be killed until then.
func (s *Server) Freeze(ctx context.Context) (thaw func(), err error) { return s.gate.close(ctx) }

// changes tells whether a request changes what is in the vault.
func changes(h *fuse.InHeader) bool {
	switch h.Opcode {
	case opSetAttr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink, opWrite, opSetXAttr, opRemoveXAttr, opCreate, opIoctl,
		opFallocate, opRename2, opCopyRange, opTmpfile, opCopyRange64:
		return true
	case opOpen:
		return (*fuse.OpenIn)(unsafe.Pointer(h)).Flags&unix.O_TRUNC != 0
	}
	return false
}
