package keysource

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/zeebo/blake3"
)

// CacheConfig bounds a [Cache]. The zero value is the default described at each field.
type CacheConfig struct {
	// MaxAge is how long a key is served after the keysource answered it: how late a disabled CMK or a changed policy
	// is noticed. 0 is 5 min.
	MaxAge time.Duration
	// MaxIdle is how long a key is kept that nobody asks for; 0 is 1 min.
	MaxIdle time.Duration
	// MaxCount is how many keys are kept, the least recently used going first; 0 is 16384.
	MaxCount int
	// MaxUses is how often a key is served before it is asked for again; 0 is without end.
	MaxUses int64
	// Grace is how long past MaxAge or MaxUses a key is served on while the keysource cannot be reached; not when it
	// refuses the key. 0 is 15 min, negative is none.
	Grace time.Duration
	// GraceWait is how long a call waits for the keysource before it takes a key in its grace; 0 is 2 s.
	GraceWait time.Duration
	// RefusalAge is how long a refusal (denied, disabled, not found) is answered again without asking; 0 is 3 s, negative
	// is not at all.
	RefusalAge time.Duration
	// Clock is the time; nil is SystemClock.
	Clock Clock
}

// withDefaults fills in the defaults.
func (c CacheConfig) withDefaults() CacheConfig {
	setDefault(&c.MaxAge, 5*time.Minute)
	setDefault(&c.MaxIdle, time.Minute)
	setDefault(&c.MaxCount, 16384)
	setDefault(&c.GraceWait, 2*time.Second)
	if c.Grace == 0 {
		c.Grace = 15 * time.Minute
	}
	if c.RefusalAge == 0 {
		c.RefusalAge = 3 * time.Second
	}
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	return c
}

// Cache is a Keysource that keeps the plaintext data keys of Decrypt and GenerateDataKey for a while, by wrapped key
// and encryption context. Concurrent calls for one key become one call below (see flight.go). Every caller gets a copy
// of its own; what leaves the cache is wiped. Keys past their time are wiped by a goroutine that Close waits for, not only
// when somebody asks. While the keysource below cannot be reached, keys are served on for a while (grace.go). Refusals are
// remembered for some seconds (refusal.go), other errors not. No lock is held across a call below.
type Cache struct {
	inner Keysource
	cfg   CacheConfig

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the sweeper and the flights

	mu         sync.Mutex // guards what follows; a leaf: nothing else is locked or called under it
	entries    map[cacheKey]*list.Element
	recent     *list.List // of *cacheEntry, the most recently used first
	flights    map[cacheKey]*flight
	refusals   map[cacheKey]refusal
	downUntil  time.Time // until then the keysource counts as out of reach, for keys in their grace
	quick      bool      // the last call of Decrypt below was
	generation uint64    // counts purges, so that an answer from before a purge is not kept after it
	closed     bool
	stats      CacheStats
}

// CacheStats counts since the cache was made.
type CacheStats struct {
	// Hits were answered from the cache, Misses by a call below, Joined by the call of somebody else.
	Hits, Misses, Joined uint64
	// Evicted keys left for age, idleness, uses or count.
	Evicted uint64
	// Stale were answered from the cache in the grace of a key, Refused with a refusal that was remembered.
	Stale, Refused uint64
	// Count is the number of keys kept now.
	Count int
}

// cacheKey is the BLAKE3 hash of wrapped key, context and alias.
type cacheKey [32]byte

// cacheEntry is one plaintext data key that the cache owns.
type cacheEntry struct {
	key       cacheKey
	ref       KeyRef // how the caller named the CMK whose call brought it; may be empty
	result    DecryptResult
	born      time.Time
	lastAsked time.Time
	uses      int64
	noGrace   bool // its CMK was refused since
}

// NewCache decorates inner, which the Cache owns from then on: Close closes it.
func NewCache(inner Keysource, cfg CacheConfig) *Cache {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cache{
		inner: inner, cfg: cfg.withDefaults(), ctx: ctx, cancel: cancel,
		entries: make(map[cacheKey]*list.Element), recent: list.New(), flights: make(map[cacheKey]*flight),
		refusals: make(map[cacheKey]refusal),
	}
	c.wg.Go(c.sweepLoop)
	return c
}

// keyOf names the cached answer of in. A key id or ARN is left out, so that a caller that names the CMK shares the
// entry of one that does not, and is compared at each hit instead. What an alias means only the keysource knows.
func keyOf(in DecryptInput) cacheKey {
	var array [1024]byte
	b := binary.BigEndian.AppendUint32(array[:0], uint32(len(in.CiphertextBlob)))
	b = append(b, in.CiphertextBlob...)
	b = in.EncryptionContext.AppendCanonical(b)
	if in.KeyID.IsAlias() {
		b = append(b, in.KeyID...)
	}
	return blake3.Sum256(b)
}

// Decrypt implements Keysource.
func (c *Cache) Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error) {
	if err := ctx.Err(); err != nil {
		return DecryptResult{}, err
	}
	// What no keysource would take is not worth a hash.
	if len(in.CiphertextBlob) > MaxCiphertextBlobSize || in.EncryptionContext.CanonicalSize() > MaxContextSize {
		return passThrough(c, func() (DecryptResult, error) { return c.inner.Decrypt(ctx, in) })
	}
	key := keyOf(in)
	for {
		result, f, run, err := c.lookup(ctx, key, in)
		if err != nil || f == nil {
			return result, err
		}
		if run != nil {
			run()
		}
		if result, err = c.wait(ctx, f, key, in.KeyID); err != errGaveUp {
			return result, err
		} else if run != nil {
			return result, context.Canceled // it was the call's own end, not another caller's
		}
	}
}

// answers tells whether a kept result may serve a caller that named the CMK as ref.
func answers(result DecryptResult, ref KeyRef) bool {
	return ref == "" || ref.Matches(result.KeyID) || ref.IsAlias()
}

// lookup returns a copy of a kept key, or the flight that will bring it, which the caller then runs, where there is a run,
// and waits for.
func (c *Cache) lookup(ctx context.Context, key cacheKey, in DecryptInput) (r DecryptResult, f *flight, run func(), err error) {
	now := c.cfg.Clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return r, nil, nil, ErrClosed
	}
	el := c.entries[key]
	if el != nil {
		e := el.Value.(*cacheEntry)
		switch {
		case !c.servable(e, now):
			c.evict(el)
			el = nil
		case c.fresh(e, now) && answers(e.result, in.KeyID):
			c.stats.Hits++
			return c.serve(el, now), nil, nil, nil
		}
	}
	if len(c.refusals) > 0 {
		err := c.refused(now, flightKey(key, in.KeyID), cmkKey(opDecrypt, in.KeyID), policyKey(opDecrypt, in.KeyID, in.EncryptionContext))
		if err != nil {
			return r, nil, nil, err
		}
	}
	if el != nil && now.Before(c.downUntil) && answers(el.Value.(*cacheEntry).result, in.KeyID) {
		c.stats.Stale++
		return c.serve(el, now), nil, nil, nil
	}
	f, run = c.join(ctx, key, in)
	return r, f, run, nil
}

// serve copies the key out. The caller holds c.mu.
func (c *Cache) serve(el *list.Element, now time.Time) DecryptResult {
	e := el.Value.(*cacheEntry)
	e.lastAsked = now
	e.uses++
	c.recent.MoveToFront(el)
	return e.result.clone()
}

// clone copies the result with a plaintext of its own.
func (r DecryptResult) clone() DecryptResult {
	r.Plaintext = r.Plaintext.Clone()
	return r
}

// GenerateDataKey implements Keysource. The new key is kept, since what is written is often read next.
func (c *Cache) GenerateDataKey(ctx context.Context, in GenerateDataKeyInput) (DataKey, error) {
	cmk, policy := cmkKey(opGenerate, in.KeyID), policyKey(opGenerate, in.KeyID, in.EncryptionContext)
	c.mu.Lock()
	generation, err := c.generation, c.refused(c.cfg.Clock.Now(), cmk, policy)
	c.mu.Unlock()
	if err != nil {
		return DataKey{}, err
	}
	k, err := passThrough(c, func() (DataKey, error) { return c.inner.GenerateDataKey(ctx, in) })
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		switch {
		case refusesCMK(err):
			c.endGrace(err, in.KeyID)
			c.refuse(cmk, err, generation)
		case errors.Is(err, ErrDenied):
			c.refuse(policy, err, generation)
		}
		return DataKey{}, err
	}
	key := keyOf(DecryptInput{CiphertextBlob: k.CiphertextBlob, EncryptionContext: in.EncryptionContext})
	c.insert(key, in.KeyID, DecryptResult{Plaintext: k.Plaintext, KeyID: k.KeyID, KeyMaterialID: k.KeyMaterialID}, generation)
	return k, nil
}

// ReEncrypt implements Keysource; it is passed through.
func (c *Cache) ReEncrypt(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	return passThrough(c, func() (ReEncryptResult, error) { return c.inner.ReEncrypt(ctx, in) })
}

// DescribeKey implements Keysource; it is passed through.
func (c *Cache) DescribeKey(ctx context.Context, key KeyRef) (KeyMetadata, error) {
	return passThrough(c, func() (KeyMetadata, error) { return c.inner.DescribeKey(ctx, key) })
}

// passThrough makes a call below unless the cache is closed.
func passThrough[T any](c *Cache, call func() (T, error)) (T, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		var zero T
		return zero, ErrClosed
	}
	return call()
}

// Stats returns the counters.
func (c *Cache) Stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Count = c.recent.Len()
	return s
}

// Close implements Keysource: it wipes the cache, ends the calls under way and closes the keysource below.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.Purge()
	return c.inner.Close()
}
