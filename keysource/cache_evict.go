package keysource

import (
	"container/list"
	"time"
)

// Purge wipes every kept key. Calls that are under way are answered but not kept.
func (c *Cache) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for c.recent.Len() > 0 {
		c.evict(c.recent.Back())
	}
}

// currentGeneration is the number of purges so far.
func (c *Cache) currentGeneration() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// insert keeps a copy of result unless there was a purge since generation. The caller holds c.mu.
func (c *Cache) insert(key cacheKey, result DecryptResult, generation uint64) {
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
	c.entries[key] = c.recent.PushFront(&cacheEntry{key, result.clone(), now, now})
}

// evict forgets and wipes an entry. The caller holds c.mu; since a key is copied out under the same lock, nobody reads
// what is wiped.
func (c *Cache) evict(el *list.Element) {
	e := c.recent.Remove(el).(*cacheEntry)
	delete(c.entries, e.key)
	e.result.Plaintext.Wipe()
	c.stats.Evicted++
}

// expired tells whether an entry is past its time.
func (c *Cache) expired(e *cacheEntry, now time.Time) bool {
	return now.Sub(e.born) >= c.cfg.MaxAge || now.Sub(e.lastAsked) >= c.cfg.MaxIdle
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
		if c.expired(el.Value.(*cacheEntry), now) {
			c.evict(el)
		}
	}
}
