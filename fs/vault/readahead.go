package vault

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// Read-ahead of keys. Neighbouring records belong to files that were made together, which are often read together.
const (
	aheadSlots  = 64               // records that are fetched together: an extent of a key table
	aheadCalls  = 160              // calls under way at once
	aheadTables = 64               // tables that are watched
	aheadFirst  = 8 * aheadSlots   // keys fetched by guess, before any has proved useful
	aheadTrust  = 8                // keys more for each that was then asked for
	aheadKeep   = 45 * time.Second // less than a cache keeps a key that nobody asks for
	aheadPause  = 5 * time.Second  // after a failure

	slowRead = 2 * time.Millisecond // a keysource that answers faster needs no read-ahead
)

// readAhead has data keys decrypted before they are asked for, so that they are in the cache of the keysource by then. It
// does so only where the keysource is slow, and where the keys that were asked for stand near each other in their table:
// two of one extent fetch the extent; use of an extent fetches the next two; where that pattern has shown, one more key of a
// table fetches the rest of the table. What is fetched by guess is bounded by what has proved useful. It never
// fails anything.
type readAhead struct {
	v    *Vault
	most int // keys that may wait to be asked for; 0: no read-ahead

	mu      sync.Mutex // a leaf; never held across a call or a read
	tables  map[uint64]*aheadTable
	queue   []aheadKey
	calls   int       // workers
	fetched int       // keys fetched
	used    int       // of these, asked for since
	until   time.Time // no read-ahead before
}

// aheadTable is what was asked for in one key table.
type aheadTable struct {
	extents map[uint32]*aheadExtent
	fetched int
	last    time.Time
}

// aheadExtent is aheadSlots records.
type aheadExtent struct {
	asked     uint64 // a bit for each record that was asked for
	fetchedAt time.Time
	misses    int
}

// aheadKey is a key to fetch.
type aheadKey struct {
	id       envelope.FileID
	wrapping envelope.Wrapping
}

// asked notes that the key at loc was asked for, and how long the keysource took to answer.
func (a *readAhead) asked(loc envelope.Locator, took time.Duration) {
	if a.most == 0 {
		return
	}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	miss := took > slowRead
	t := a.tables[loc.Table]
	if t == nil {
		if !miss {
			return
		}
		t = a.watch(loc.Table)
	}
	t.last = now
	n, bit := loc.Slot/aheadSlots, uint64(1)<<(loc.Slot%aheadSlots)
	e := t.extent(n)
	if e.asked&bit == 0 {
		e.asked |= bit
		if a.isFetched(e, now) {
			a.used++
			a.v.counts.aheadUsed.Add(1)
		}
	}
	shown := a.used > aheadSlots && 2*a.used > a.fetched // the pattern, here or in another table
	if miss {
		e.misses++
		if e.misses >= 2 || shown {
			a.fetch(loc.Table, t, n, now, byDemand)
		}
	}
	if a.isFetched(e, now) {
		a.fetch(loc.Table, t, n+1, now, byGuess)
		a.fetch(loc.Table, t, n+2, now, byGuess)
	}
	if miss && (t.fetched > 1 || shown) {
		for i := range uint32(sidecar.TableSlots / aheadSlots) {
			a.fetch(loc.Table, t, i, now, byGuess)
		}
	}
}

// watch begins to note a table. a.mu is held.
func (a *readAhead) watch(id uint64) *aheadTable {
	if len(a.tables) >= aheadTables {
		oldest := id
		for i, t := range a.tables {
			if o := a.tables[oldest]; o == nil || t.last.Before(o.last) {
				oldest = i
			}
		}
		delete(a.tables, oldest)
	}
	t := &aheadTable{extents: map[uint32]*aheadExtent{}}
	a.tables[id] = t
	return t
}

// extent returns the n-th extent.
func (t *aheadTable) extent(n uint32) *aheadExtent {
	e := t.extents[n]
	if e == nil {
		e = &aheadExtent{}
		t.extents[n] = e
	}
	return e
}

// isFetched tells whether what was fetched of e can still be in the cache.
func (a *readAhead) isFetched(e *aheadExtent, now time.Time) bool {
	return !e.fetchedAt.IsZero() && now.Sub(e.fetchedAt) < aheadKeep
}

// evidence says why an extent is fetched.
type evidence int

// The two kinds of evidence.
const (
	byDemand evidence = iota // two of its keys were asked for
	byGuess                  // it is near to what was asked for
)

// fetch begins to fetch the n-th extent of a table, unless it was, or too much was fetched in vain. a.mu is held.
func (a *readAhead) fetch(id uint64, t *aheadTable, n uint32, now time.Time, why evidence) {
	e := t.extent(n)
	if a.isFetched(e, now) || now.Before(a.until) || a.v.ctx.Err() != nil {
		return
	}
	if a.fetched-a.used >= a.most || why == byGuess && a.fetched >= aheadFirst+aheadTrust*a.used {
		if a.fetched > 1<<20 { // what was long ago counts less
			a.fetched, a.used = a.fetched/2, a.used/2
		}
		return
	}
	e.fetchedAt, e.misses = now, 0
	t.fetched++
	a.fetched += aheadSlots
	a.used += bits.OnesCount64(e.asked) // these are not fetched
	skip := e.asked
	a.v.wg.Go(func() { _ = a.v.guarded(func() error { a.load(id, n, skip); return nil }) })
}

// load reads the records of an extent, but for those in skip, and queues their keys. What cannot be read is for who needs
// it to report.
func (a *readAhead) load(id uint64, n uint32, skip uint64) {
	b, slotSize, err := a.v.sidecar.Slots(id, n*aheadSlots, aheadSlots)
	if err != nil {
		return
	}
	var keys []aheadKey
	missing := 0
	for i := range aheadSlots {
		if skip>>i&1 != 0 {
			continue
		}
		missing++
		if n == 0 && i == 0 || (i+1)*slotSize > len(b) { // the table's header, its end
			continue
		}
		r, err := envelope.ParseRecord(b[i*slotSize : (i+1)*slotSize])
		if err != nil || len(r.Wrappings) == 0 || r.Wrappings[0].Kind != 0 {
			continue
		}
		w := r.Wrappings[0]
		w.Blob = append([]byte(nil), w.Blob...)
		keys = append(keys, aheadKey{r.ID, w})
		missing--
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used += missing // nothing is there to be used
	a.queue = append(a.queue, keys...)
	for a.calls < aheadCalls && a.calls < len(a.queue) {
		a.calls++
		a.v.wg.Go(a.worker)
	}
}

// worker fetches keys until there are none to fetch.
func (a *readAhead) worker() {
	for {
		a.mu.Lock()
		if len(a.queue) == 0 || a.v.ctx.Err() != nil {
			a.queue = nil
			a.calls--
			a.mu.Unlock()
			return
		}
		k := a.queue[0]
		a.queue = a.queue[1:]
		a.mu.Unlock()
		if err := a.v.guarded(func() error { return a.decrypt(k) }); err != nil {
			a.mu.Lock()
			a.used += len(a.queue) + 1
			a.queue = nil
			a.until = time.Now().Add(aheadPause)
			a.mu.Unlock()
		}
	}
}

// decrypt brings a key into the cache of the keysource, and a copy no further.
func (a *readAhead) decrypt(k aheadKey) error {
	ctx, cancel := context.WithTimeout(a.v.ctx, a.v.deadline)
	defer cancel()
	dk, err := a.v.ks.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: k.wrapping.Blob,
		EncryptionContext: envelope.FileContext(a.v.cfg.Volume, k.id), KeyID: keysource.KeyRef(k.wrapping.KeyARN)})
	if err != nil {
		return fmt.Errorf("read ahead: %w", err)
	}
	dk.Plaintext.Wipe()
	a.v.counts.aheadFetched.Add(1)
	return nil
}
