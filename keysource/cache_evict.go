package keysource

import (
	"container/list"
	"time"
)

// Purge wipes every kept key, and forgets refusals. Calls that are under way are answered but not kept.
func (c *Cache) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for c.recent.Len() > 0 {
		c.evict(c.recent.Back())
	}
	clear(c.refusals)
	c.downUntil = time.Time{}
}

// insert keeps a copy of result, which was asked for with the CMK named ref, unless there was a purge since generation. The
// caller holds c.mu.
func (c *Cache) insert(key cacheKey, ref KeyRef, result DecryptResult, generation uint64) {
	if c.closed || generation != c.generation {
		return
	}
	if old := c.entries[key]; old != nil {
		c.evict(old)
	}
	for c.recent.Len() >= c.cfg.MaxCount {
		c.evict(c.recent.Back())
	}
	now := c.cfg.Clock.Now()
	c.entries[key] = c.recent.PushFront(&cacheEntry{key: key, ref: ref, result: result.clone(), born: now, lastAsked: now})
}

// evict forgets and wipes an entry. The caller holds c.mu; since a key is copied out under the same lock, nobody reads
// what is wiped.
func (c *Cache) evict(el *list.Element) {
	e := c.recent.Remove(el).(*cacheEntry)
	delete(c.entries, e.key)
	e.result.Plaintext.Wipe()
	c.stats.Evicted++
}

// fresh tells whether an entry may be served without a word of the keysource.
func (c *Cache) fresh(e *cacheEntry, now time.Time) bool {
	return now.Sub(e.born) < c.cfg.MaxAge && now.Sub(e.lastAsked) < c.cfg.MaxIdle &&
		(c.cfg.MaxUses <= 0 || e.uses < c.cfg.MaxUses)
}

// servable tells whether an entry may be served at all: fresh, or in its grace where the keysource is out of reach. Then
// idle keys stay too. A refusal of its CMK ends the grace of a key.
func (c *Cache) servable(e *cacheEntry, now time.Time) bool {
	if now.Sub(e.lastAsked) >= c.cfg.MaxIdle && !now.Before(c.downUntil) {
		return false
	}
	return c.fresh(e, now) || !e.noGrace && now.Sub(e.born) < c.cfg.MaxAge+c.cfg.Grace
}

// sweepLoop wipes what is past its time, until Close.
func (c *Cache) sweepLoop() {
	interval := max(min(c.cfg.MaxAge, c.cfg.MaxIdle)/4, 10*time.Millisecond)
	for c.cfg.Clock.Sleep(c.ctx, interval) == nil {
		c.sweep()
	}
}

// sweep wipes what is past its time.
func (c *Cache) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Clock.Now()
	for _, el := range c.entries {
		if !c.servable(el.Value.(*cacheEntry), now) {
			c.evict(el)
		}
	}
	for key, r := range c.refusals {
		if !now.Before(r.until) {
			delete(c.refusals, key)
		}
	}
}
