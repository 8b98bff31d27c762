package rewrap

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// pacer says when a call may be made. What the keysource throttles halves the rate; each second without grows it by a
// twentieth of what it was when it was throttled last, up to the ceiling.
type pacer struct {
	ceiling  rate.Limit
	patience time.Duration
	limiter  *rate.Limiter

	mu        sync.Mutex
	failing   time.Time  // since when no call has succeeded; zero: the last one has
	halved    time.Time  // when the rate was last halved
	grown     time.Time  // when it last grew
	step      rate.Limit // by how much it grows
	window    time.Time  // since when count counts
	count     int        // calls that succeeded
	perSecond rate.Limit // what was reached lately
}

// How fast the rate is halved and grows, and the longest wait after one failure.
const (
	halveEvery = time.Second
	growEvery  = time.Second
	pauseMost  = 5 * time.Second
	pauseFirst = 50 * time.Millisecond
)

func newPacer(rps float64, patience time.Duration) *pacer {
	ceiling, burst := rate.Inf, 1
	if rps > 0 {
		ceiling = rate.Limit(rps)
		burst = max(int(rps/20), 1)
	}
	now := time.Now()
	return &pacer{ceiling: ceiling, patience: patience, limiter: rate.NewLimiter(ceiling, burst), window: now, grown: now}
}

// wait returns when a call may be made.
func (p *pacer) wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return p.limiter.Wait(ctx)
}

// succeeded notes a call that was answered.
func (p *pacer) succeeded() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failing = time.Time{}
	p.count++
	if d := now.Sub(p.window); d >= 200*time.Millisecond {
		p.perSecond = rate.Limit(float64(p.count) / d.Seconds())
		p.window, p.count = now, 0
	}
	if l := p.limiter.Limit(); l < p.ceiling && now.Sub(p.grown) >= growEvery {
		p.grown = now
		p.limiter.SetLimit(min(l+p.step, p.ceiling))
	}
}

// answered notes a call that was refused: the keysource is there.
func (p *pacer) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failing = time.Time{}
}

// throttled halves the rate, for all that is throttled within a second once.
func (p *pacer) throttled() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.halved) < halveEvery {
		return
	}
	l := p.limiter.Limit()
	if p.perSecond > 0 {
		l = min(l, p.perSecond) // what was reached, and not what would have been allowed
	}
	if l == rate.Inf {
		l = 100
	}
	p.halved, p.grown = now, now
	p.step = max(l/20, 1)
	p.limiter.SetLimit(max(l/2, 1))
}

// failed notes a call that failed for a while, and tells whether nothing has succeeded for too long.
func (p *pacer) failed() (hopeless bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing.IsZero() {
		p.failing = time.Now()
	}
	return time.Since(p.failing) > p.patience
}

// pause waits after a failed attempt, counted from 0, at least as long as the keysource asked for, within bounds.
func (p *pacer) pause(ctx context.Context, attempt int, asked time.Duration) error {
	d := pauseFirst << min(attempt, 10)
	d = time.Duration(rand.Float64() * float64(min(d, pauseMost)))
	t := time.NewTimer(max(d, min(asked, pauseMost)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
