package fs

import (
	"context"
	"sync"
	"time"
)

// opContext bounds one operation by a deadline and by the kernel's interrupt. Most operations never wait for anything
// that takes one; only the first call of Done starts a timer, which finish ends.
type opContext struct {
	context.Context
	interrupt <-chan struct{} // closed when the kernel interrupts the request
	end       time.Time

	mu    sync.Mutex
	done  chan struct{}
	ended chan struct{}
	err   error
}

// Deadline returns when the operation gives up.
func (c *opContext) Deadline() (time.Time, bool) { return c.end, true }

// Done returns a channel that is closed when the operation has to give up.
func (c *opContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done, c.ended = make(chan struct{}), make(chan struct{})
		go c.wait()
	}
	return c.done
}

func (c *opContext) wait() {
	t := time.NewTimer(time.Until(c.end))
	defer t.Stop()
	err := context.Canceled
	select {
	case <-t.C:
		err = context.DeadlineExceeded
	case <-c.interrupt:
	case <-c.ended:
	}
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

// Err says whether the operation has to give up, and why.
func (c *opContext) Err() error {
	select {
	case <-c.interrupt:
		return context.Canceled
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !time.Now().Before(c.end) {
		return context.DeadlineExceeded
	}
	return c.err
}

// finish ends the timer.
func (c *opContext) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		close(c.ended)
	}
}

// begin returns the context of one operation; finish must be called at its end.
func (b *base) begin(interrupt <-chan struct{}) *opContext {
	return &opContext{Context: context.Background(), interrupt: interrupt, end: time.Now().Add(b.deadline)}
}
