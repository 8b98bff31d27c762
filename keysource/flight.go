package keysource

import (
	"context"
	"errors"
	"time"

	"github.com/zeebo/blake3"
)

// quickCall is how long a call below takes at most where waking another goroutine for it would cost as much.
const quickCall = time.Millisecond

// errGaveUp tells that the caller whose call it was gave up.
var errGaveUp = errors.New("gave up")

// flight is one Decrypt below that several callers may wait for. It runs in a goroutine of the cache, so that the
// caller who came first can give up without failing the others; when the last one has given up it is cancelled, unless it
// is kept. Where the last call below was quick it runs in the goroutine of the caller who came first; if that one gives up,
// the others make a call of their own.
// All fields but name, done and cancel are guarded by Cache.mu.
type flight struct {
	name    cacheKey
	done    chan struct{} // closed when result and err are set
	cancel  context.CancelFunc
	waiters int
	ended   bool
	kept    bool // goes on without waiters
	result  DecryptResult
	err     error
}

// flightKey names a flight. Unlike an entry, a flight is only shared by callers who name the CMK in the same way, or
// one would get the refusal meant for another.
func flightKey(key cacheKey, ref KeyRef) cacheKey {
	if ref == "" || ref.IsAlias() {
		return key // the key already tells these apart
	}
	return blake3.Sum256(append(key[:], ref...))
}

// join returns the flight for in, started if there is none. The caller holds c.mu, and then,
// without it, calls run, unless that is nil, and wait.
func (c *Cache) join(ctx context.Context, key cacheKey, in DecryptInput) (f *flight, run func()) {
	name := flightKey(key, in.KeyID)
	if f := c.flights[name]; f != nil {
		f.waiters++
		c.stats.Joined++
		return f, nil
	}
	c.stats.Misses++
	f = &flight{name: name, done: make(chan struct{}), waiters: 1}
	c.flights[name] = f
	if c.quick && c.entries[key] == nil { // who has an old key must be able to leave with it
		flightCtx, cancel := context.WithCancel(ctx)
		f.cancel = cancel
		generation := c.generation
		c.wg.Add(1) // before c.closed is set: it is under c.mu
		return f, func() {
			defer c.wg.Done()
			c.fly(flightCtx, f, key, in, generation)
		}
	}
	// The values of the first caller's context go along, its end does not.
	flightCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	generation := c.generation
	// The caller may change its slices and its map once it has given up.
	in.CiphertextBlob = append([]byte(nil), in.CiphertextBlob...)
	in.EncryptionContext = in.EncryptionContext.Clone()
	c.wg.Go(func() { c.fly(flightCtx, f, key, in, generation) })
	return f, nil
}

// fly makes the call of a flight, and cancels its context.
func (c *Cache) fly(ctx context.Context, f *flight, key cacheKey, in DecryptInput, generation uint64) {
	defer f.cancel()
	defer context.AfterFunc(c.ctx, f.cancel)()
	began := time.Now()
	result, err := c.inner.Decrypt(ctx, in)
	quick := err == nil && time.Since(began) < quickCall
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quick = quick
	c.forget(f)
	c.learn(f, key, in, err, generation)
	if err == nil {
		c.insert(key, in.KeyID, result, generation)
	}
	f.result, f.err, f.ended = result, err, true
	if f.waiters == 0 {
		result.Plaintext.Wipe()
	}
	close(f.done)
}

// wait returns the flight's answer with a plaintext of the caller's own, or ctx's error. Where the answer is long in
// coming, or is that the keysource cannot be reached, a key in its grace serves instead.
func (c *Cache) wait(ctx context.Context, f *flight, key cacheKey, ref KeyRef) (DecryptResult, error) {
	select {
	case <-f.done: // no timer for what was quick
	default:
		patience, stop := context.WithTimeout(ctx, c.cfg.GraceWait)
		defer stop()
		select {
		case <-f.done:
		case <-patience.Done():
			if r, ok := c.leave(ctx, f, key, ref); ok {
				return r, nil
			}
			select {
			case <-f.done:
			case <-ctx.Done():
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if !f.ended {
		if f.waiters == 0 && !f.kept {
			f.cancel()
			c.forget(f)
		}
		return DecryptResult{}, ctx.Err()
	}
	if f.err != nil {
		if c.closed {
			return DecryptResult{}, ErrClosed
		}
		if errors.Is(f.err, context.Canceled) && ctx.Err() == nil {
			return DecryptResult{}, errGaveUp
		}
		if unreachable(f.err) {
			if r, ok := c.stale(key, ref); ok {
				return r, nil
			}
		}
		return DecryptResult{}, f.err
	}
	result := f.result.clone()
	if f.waiters == 0 {
		f.result.Plaintext.Wipe()
	}
	return result, nil
}

// leave takes a key in its grace rather than wait on for a flight that has not landed. The flight goes on, to bring the
// key for later.
func (c *Cache) leave(ctx context.Context, f *flight, key cacheKey, ref KeyRef) (DecryptResult, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.ended || ctx.Err() != nil || c.closed {
		return DecryptResult{}, false
	}
	c.markDown()
	r, ok := c.stale(key, ref)
	if ok {
		f.waiters--
		f.kept = true
	}
	return r, ok
}

// forget takes a flight out of the way, so that the next caller starts one of its own rather than join one that has
// landed or is cancelled. The caller holds c.mu.
func (c *Cache) forget(f *flight) {
	if c.flights[f.name] == f {
		delete(c.flights, f.name)
	}
}
