package keysource

import (
	"context"
	"errors"
	"slices"
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
		var cmk KeyRef
		if el := c.entries[key]; el != nil && answers(el.Value.(*cacheEntry).result, ref) {
			cmk = KeyRef(el.Value.(*cacheEntry).result.KeyID)
			c.evict(el)
		}
		if refusesCMK(err) || errors.Is(err, ErrDenied) {
			c.endGrace(err, ref, cmk)
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

// endGrace takes their grace from all keys under the CMK that err refuses, which is named by any of refs or by err: what is
// past its age goes, what is fresh goes when its age is over. The caller holds c.mu.
func (c *Cache) endGrace(err error, refs ...KeyRef) {
	if e, ok := errors.AsType[*Error](err); ok {
		refs = append(refs, KeyRef(e.KeyID))
	}
	now := c.cfg.Clock.Now()
	for _, el := range c.entries {
		e := el.Value.(*cacheEntry)
		switch {
		case !slices.ContainsFunc(refs, e.of):
		case c.fresh(e, now):
			e.noGrace = true
		default:
			c.evict(el)
		}
	}
}

// of tells whether the key is under the CMK that ref names: by its id or ARN, or as who asked for the key named it.
func (e *cacheEntry) of(ref KeyRef) bool {
	return ref != "" && (ref == e.ref || ref.Matches(e.result.KeyID))
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
