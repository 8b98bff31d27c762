package keysource

import (
	"context"
	"time"
)

// Clock is the time as decorators and key stores see it, so that tests can move it. Implementations are safe for
// concurrent use.
type Clock interface {
	// Now is the present time.
	Now() time.Time
	// Sleep waits for d and returns nil, or returns ctx's error as soon as ctx ends.
	Sleep(ctx context.Context, d time.Duration) error
}

// SystemClock is the real time. The zero value is ready.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// Sleep implements Clock.
func (SystemClock) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
