package reverse

import (
	"context"
	"sync"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/bug"
)

// Where a call of the keysource takes longer than slowCall, and records are used one after the other, the keys of the next
// aheadSlots are asked for before they are needed, aheadCalls at once.
const (
	slowCall   = time.Millisecond
	aheadSlots = 64
	aheadNear  = 16 // slots between two that count as neighbours
	aheadCalls = 32
)

// ahead opens data keys before they are asked for. Records stand in the order in which a tool that sorts names reads their
// files.
type ahead struct {
	v *View

	mu     sync.Mutex // a leaf
	slow   bool       // the last call took its time
	tables map[uint64]aheadTable
}

type aheadTable struct {
	last uint32 // slot that was used last
	upTo uint32 // slots below were asked for
}

func (a *ahead) start(v *View) { a.v, a.tables = v, map[uint64]aheadTable{} }

// used notes that the key of the record at loc was needed, and how long the call for it took, 0 where there was none.
func (a *ahead) used(loc envelope.Locator, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if took > 0 {
		a.slow = took > slowCall
	}
	t := a.tables[loc.Table]
	near := t.last != 0 && loc.Slot > t.last-min(t.last, aheadNear) && loc.Slot < t.last+aheadNear
	t.last = loc.Slot
	end := loc.Slot + aheadSlots
	first := loc.Slot + 1
	if t.upTo > first && t.upTo < end+aheadSlots { // what was asked for goes on
		first = min(t.upTo, end)
	}
	if a.slow && near && end-first >= aheadSlots/2 {
		t.upTo = end
		a.v.wg.Go(func() { _ = bug.Guard(a.v.log, func() error { a.fetch(loc.Table, first, int(end-first)); return nil }) })
	}
	a.tables[loc.Table] = t
}

// fetch opens the keys of n records from first on.
func (a *ahead) fetch(table uint64, first uint32, n int) {
	b, size, err := a.v.sidecar.Slots(table, first, n)
	if err != nil {
		return
	}
	var wg bug.Group
	free := make(chan struct{}, aheadCalls)
	for i := 0; (i+1)*size <= len(b); i++ {
		r, err := envelope.ParseRecord(b[i*size : (i+1)*size])
		loc := envelope.Locator{Table: table, Slot: first + uint32(i)}
		if err != nil {
			continue
		}
		if at, ok := a.v.keys.locator(r.ID); !ok || at != loc || a.v.keys.has(r.ID) {
			continue
		}
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			ctx, cancel := context.WithTimeout(a.v.ctx, a.v.deadline)
			defer cancel()
			born := a.v.now()
			if fk, err := vault.OpenDataKey(ctx, a.v.ks, a.v.cfg.Volume, a.v.geo, r); err == nil {
				a.v.keys.keep(r.ID, dataKey{fk, loc, born})
			} // who needs it asks again, and tells
		})
	}
	wg.Wait()
}
