package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault/sidecar"
)

// The stock of keys: the first, and the largest that demand makes it grow to.
const (
	poolFirst = 32
	poolMost  = 512
)

// How many calls of the keysource are under way at once where it takes its time, and how long one takes that does.
const (
	poolCalls = 64
	slowCall  = 500 * time.Microsecond
)

// Records are made durable together. How long the writer waits for more of them: while somebody waits for a key, and while
// nobody does; and how many are enough.
const (
	gatherBriefly = 500 * time.Microsecond
	gatherCalmly  = 20 * time.Millisecond
	gatherEnough  = 256
)

// bound is a data key whose record is durable in the sidecar, ready to encrypt a file.
type bound struct {
	id  envelope.FileID
	loc envelope.Locator
	key *envelope.FileKey

	from  *pool
	gen   int       // of the pool when it was ordered
	born  time.Time // when it was ordered
	epoch uint64    // of the vault then
}

// made is a data key whose record is not durable yet.
type made struct {
	bound
	record *envelope.Record
}

// pool makes data keys ahead of need. Workers ask the keysource for them, several at once where it is slow; the writer
// makes the records of those that have come durable with one fdatasync and only then hands them out, so that creating a file
// costs neither a call nor a sync. A worker that hangs holds up its own key alone.
type pool struct {
	v   *Vault
	key string // the CMK, "" for the vault's own

	mu       sync.Mutex // guards what follows; never held across a call, a write or a sync
	ready    []bound
	made     []made
	stock    int           // how many to have at hand and under way
	todo     int           // keys that no worker has begun
	calls    int           // keys that a worker is making, one each
	slow     bool          // calls take longer than slowCall
	writing  bool          // the writer runs
	waiters  int           // in take
	changed  chan struct{} // closed and made anew when a key is ready or making has ended
	err      error         // of the last key that failed, nil after one that did not
	last     time.Time     // when keys were last ordered
	closed   bool
	gen      int   // counts drains: a key of before is given up
	label    label // of the newest key
	hurry    chan struct{}
	stopping chan struct{}
	wg       sync.WaitGroup // workers and writer

	table *sidecar.Writer // the writer's own, but for its Table
}

// errPoolClosed is what take answers once the pool is closed.
var errPoolClosed = errors.New("the vault is closed")

// start makes the pool ready for use.
func (p *pool) start(v *Vault, key string) {
	p.v, p.key, p.stock, p.table = v, key, poolFirst, v.sidecar.NewWriter(v.now)
	p.changed, p.hurry, p.stopping = make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
}

// take returns a key. It waits for the keysource only where none is ready.
func (p *pool) take(ctx context.Context) (bound, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ordered := false
	for {
		if p.closed {
			return bound{}, fmt.Errorf("%w: %w", ErrNoKey, errPoolClosed)
		}
		if n := len(p.ready); n > 0 {
			b := p.ready[0] // in the order of their records, so that files made together have neighbours
			p.ready[0] = bound{}
			p.ready = p.ready[1:]
			if age := p.v.keyMaxAge; age > 0 && p.v.now().Sub(b.born) > age { // its CMK may have been disabled since
				b.key.Wipe()
				p.v.keeper.erase(b.loc)
				continue
			}
			if n-1+p.coming() <= p.stock/2 && p.err == nil {
				p.order()
			}
			return b, nil
		}
		if p.coming() == 0 {
			if ordered && p.err != nil {
				return bound{}, fmt.Errorf("%w: %w", ErrNoKey, p.err)
			}
			p.order()
		}
		ordered = true
		wait := p.changed
		p.waiters++
		p.mu.Unlock()
		p.hurryUp()
		var err error
		select {
		case <-wait:
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", ErrNoKey, ctx.Err())
		}
		p.mu.Lock()
		p.waiters--
		if err != nil {
			return bound{}, err
		}
	}
}

// coming is how many keys are on their way. p.mu is held.
func (p *pool) coming() int {
	n := p.todo + p.calls + len(p.made)
	if p.writing {
		n++
	}
	return n
}

// put gives back a key that encrypted nothing.
func (p *pool) put(b bound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && b.gen == p.gen {
		p.ready = append(p.ready, b)
		p.announce()
		return
	}
	b.key.Wipe()
	p.v.keeper.erase(b.loc)
}

// drain gives up the keys at hand and under way, which are not to encrypt anything any more, and erases their records.
func (p *pool) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drainLocked()
}

func (p *pool) drainLocked() {
	ready, unwritten := p.ready, p.made
	p.ready, p.made = nil, nil
	p.gen++
	p.announce() // who waits orders anew
	for _, b := range ready {
		b.key.Wipe()
		p.v.keeper.erase(b.loc)
	}
	for _, m := range unwritten {
		m.key.Wipe()
	}
}

// order has keys made to fill the stock, which grows with demand; a single one after a failure, to see whether all is well
// again. p.mu is held.
func (p *pool) order() {
	now := p.v.now()
	if now.Sub(p.last) < time.Second {
		p.stock = min(2*p.stock, poolMost)
	} else if now.Sub(p.last) > time.Minute {
		p.stock = max(p.stock/2, poolFirst)
	}
	p.last = now
	p.todo += max(p.stock-len(p.ready)-p.coming(), 1)
	if p.err != nil {
		p.todo = 1
	}
	p.work()
}

// work starts workers for what is to be done: one, or many where the keysource is slow. p.mu is held.
func (p *pool) work() {
	most := 1
	if p.slow {
		most = poolCalls
	}
	for p.todo > 0 && p.calls < most && !p.closed {
		p.todo--
		p.calls++
		p.wg.Go(p.worker)
	}
}

// worker makes keys while there are some to make.
func (p *pool) worker() {
	for more := true; more; {
		began := time.Now()
		p.mu.Lock()
		gen := p.gen
		p.mu.Unlock()
		born, epoch := p.v.now(), p.v.epoch.Load()
		ctx, cancel := context.WithTimeout(p.v.ctx, p.v.deadline)
		var m made
		err := p.v.guarded(func() (err error) { m, err = p.v.newKey(ctx, p.key); return err })
		cancel()
		m.from, m.gen, m.born, m.epoch = p, gen, born, epoch
		more = p.deliver(m, err, time.Since(began) > slowCall)
	}
}

// deliver takes in what a worker has made, and says whether it is to make another. Where a key failed, no more are begun:
// those that wait are told when the last one under way has ended.
func (p *pool) deliver(m made, err error, slow bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	if err != nil {
		p.todo = 0
		p.v.counts.keyFailures.Add(1)
		if len(p.ready) > 0 && p.v.ctx.Err() == nil { // else who waits for a key reports it
			p.v.log.Warn("no new data keys", "err", err)
		}
	} else if is := labelOf(m.record); m.gen == p.gen && p.label != is && p.label != (label{}) {
		p.drainLocked() // the CMK was rotated, or its alias has moved: what was ordered before is of the older one
		p.label, m.gen = is, p.gen
		p.accept(m, slow)
	} else if m.gen != p.gen {
		m.key.Wipe() // drained meanwhile; one that is wanted is made instead
		p.todo++
	} else {
		p.label = is
		p.accept(m, slow)
	}
	if p.todo > 0 && !p.closed {
		p.todo--
		p.work()
		return true
	}
	p.calls--
	if p.calls == 0 || len(p.made) >= gatherEnough {
		p.hurryUp()
	}
	if p.coming() == 0 {
		p.announce()
	}
	return false
}

// accept takes in a key whose record is to be written. p.mu is held.
func (p *pool) accept(m made, slow bool) {
	p.slow = slow
	p.v.counts.keysMade.Add(1)
	p.made = append(p.made, m)
	if !p.writing {
		p.writing = true
		p.wg.Go(p.writer)
	}
}

// hurryUp has the writer write what there is.
func (p *pool) hurryUp() {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
}

// announce wakes who waits in take. p.mu is held.
func (p *pool) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// writer makes records durable until there are none.
func (p *pool) writer() {
	for {
		p.gather()
		p.mu.Lock()
		batch := p.made
		p.made = nil
		if len(batch) == 0 {
			p.writing = false
			if p.coming() == 0 {
				p.announce()
			}
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		err := p.v.guarded(func() error { return p.write(batch) })
		p.mu.Lock()
		for _, m := range batch {
			if err != nil {
				m.key.Wipe()
			} else if m.gen != p.gen {
				m.key.Wipe()
				p.v.keeper.erase(m.loc)
			} else {
				p.ready = append(p.ready, m.bound)
			}
		}
		if err != nil {
			p.err = fmt.Errorf("write key records: %w", err)
			p.todo = 0
		}
		p.announce()
		p.mu.Unlock()
	}
}

// write makes the records of batch durable and fills in the locators.
func (p *pool) write(batch []made) error {
	records := make([]*envelope.Record, len(batch))
	for i, m := range batch {
		records[i] = m.record
	}
	locs, err := p.table.Append(records)
	if err != nil {
		return err
	}
	for i, loc := range locs {
		batch[i].loc = loc
	}
	return nil
}

// gather waits for more records to make durable at once: not for long while somebody waits, and not at all where no more
// are coming or enough are there.
func (p *pool) gather() {
	for deadline := time.Now().Add(gatherCalmly); ; {
		p.mu.Lock()
		wait := time.Until(deadline)
		if p.waiters > 0 {
			wait = min(wait, gatherBriefly)
			deadline = time.Now().Add(wait)
		}
		enough := p.todo+p.calls == 0 || len(p.made) >= gatherEnough || p.closed
		p.mu.Unlock()
		if enough || wait <= 0 {
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			return
		case <-p.hurry:
			t.Stop()
		case <-p.stopping:
			t.Stop()
			return
		}
	}
}

// close stops the pool and erases the keys that were never used. The vault's context has ended, and with it the calls under
// way.
func (p *pool) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.todo = 0
	close(p.stopping)
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
	ready := p.ready
	p.ready = nil
	p.announce()
	p.mu.Unlock()
	for _, b := range ready {
		b.key.Wipe()
		p.v.keeper.erase(b.loc)
	}
	p.table.Close()
}
