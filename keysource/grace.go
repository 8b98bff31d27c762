package keysource

import (
	"context"
	"errors"
	"time"
)

// downFor is how long the keysource counts as out of reach after a call that it did not answer. Until then keys in their
// grace are served at once; then one caller finds out anew.
const downFor = 5 * time.Second

// unreachable tells an error that says nothing of the key: the keysource gave no answer.
func unreachable(err error) bool {
	return Retryable(err) || errors.Is(err, context.DeadlineExceeded)
}

// learn notes what the end of a flight says of the keysource and of the key. The caller holds c.mu.
func (c *Cache) learn(f *flight, key cacheKey, in DecryptInput, err error, generation uint64) {
	ref := in.KeyID
	switch {
	case err == nil:
		c.downUntil = time.Time{}
	case unreachable(err):
		c.markDown()
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
	default: // a refusal: what the key was before does not count any more
		c.downUntil = time.Time{}
		if el := c.entries[key]; el != nil && answers(el.Value.(*cacheEntry).result, ref) {
			c.evict(el)
		}
		switch {
		case refusesCMK(err):
			c.refuse(cmkKey(opDecrypt, ref), err, generation)
			c.refuse(f.name, err, generation)
		case errors.Is(err, ErrDenied):
			c.refuse(policyKey(opDecrypt, ref, in.EncryptionContext), err, generation)
			c.refuse(f.name, err, generation)
		}
	}
}

// markDown notes that the keysource did not answer. The caller holds c.mu.
func (c *Cache) markDown() { c.downUntil = c.cfg.Clock.Now().Add(downFor) }

// stale returns a copy of a key in its grace, if there is one for ref. The caller holds c.mu.
func (c *Cache) stale(key cacheKey, ref KeyRef) (DecryptResult, bool) {
	el, now := c.entries[key], c.cfg.Clock.Now()
	if el == nil || !c.servable(el.Value.(*cacheEntry), now) || !answers(el.Value.(*cacheEntry).result, ref) {
		return DecryptResult{}, false
	}
	c.stats.Stale++
	return c.serve(el, now), true
}
