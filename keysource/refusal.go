package keysource

import (
	"errors"
	"time"

	"github.com/zeebo/blake3"
)

// refusal is what the keysource answered, so that it need not be asked again for some seconds.
type refusal struct {
	err   error
	until time.Time
}

// maxRefusals bounds how many refusals are remembered.
const maxRefusals = 4096

// operation tells the calls on one CMK apart: who may not generate may decrypt.
type operation byte

// The operations whose refusals are remembered.
const (
	opDecrypt operation = iota
	opGenerate
)

// cmkKey names the refusals of all calls of one kind on one CMK, as the caller names it. Empty for a caller that names
// none.
func cmkKey(op operation, ref KeyRef) cacheKey {
	if ref == "" {
		return cacheKey{}
	}
	return blake3.Sum256(append([]byte{byte(op)}, ref...))
}

// policyKey names the denials of all calls of one kind on one CMK that no policy can tell apart: policies have conditions on
// the encryption context, but none goes by the random id of a file.
func policyKey(op operation, ref KeyRef, ec Context) cacheKey {
	if ref == "" {
		return cacheKey{}
	}
	common := make(Context, len(ec))
	for name, value := range ec {
		if name != FileContextName {
			common[name] = value
		}
	}
	b := common.AppendCanonical([]byte{byte(op), 0}) // 0: no reference begins so
	return blake3.Sum256(append(b, ref...))
}

// refusesCMK tells an error that holds for the CMK whatever is asked of it.
func refusesCMK(err error) bool {
	return errors.Is(err, ErrDisabled) || errors.Is(err, ErrInvalidState) || errors.Is(err, ErrNotFound)
}

// refused returns a remembered refusal under one of keys. The caller holds c.mu.
func (c *Cache) refused(now time.Time, keys ...cacheKey) error {
	for _, key := range keys {
		if r, ok := c.refusals[key]; ok && now.Before(r.until) {
			c.stats.Refused++
			return r.err
		}
	}
	return nil
}

// refuse remembers err under key unless there was a purge since generation. The caller holds c.mu.
func (c *Cache) refuse(key cacheKey, err error, generation uint64) {
	if c.cfg.RefusalAge < 0 || key == (cacheKey{}) || c.closed || generation != c.generation {
		return
	}
	if len(c.refusals) >= maxRefusals {
		clear(c.refusals)
	}
	c.refusals[key] = refusal{err, c.cfg.Clock.Now().Add(c.cfg.RefusalAge)}
}
