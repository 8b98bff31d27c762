package vault

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"kmsfs/envelope"
	"kmsfs/keysource"
)

// tableSlots is how many records a table of the smallest slots takes, its header included: 1 MiB.
const tableSlots = 2048

// Batches of keys: the first, and the largest that demand makes them grow to.
const (
	poolFirst = 32
	poolMost  = 1024
)

// bound is a data key whose record is durable in the sidecar, ready to encrypt a file.
type bound struct {
	id  envelope.FileID
	loc envelope.Locator
	key *envelope.FileKey
}

// pool makes data keys ahead of need: it asks the keysource for them, writes their records, makes those durable with
// one fdatasync a batch, and only then hands them out, so that creating a file costs neither a call nor a sync.
type pool struct {
	v *Vault

	mu      sync.Mutex
	ready   []bound
	batch   int           // size of the next batch
	filling chan struct{} // closed when the batch under way is done; nil when none is
	err     error         // of the last batch
	last    time.Time     // when the last batch was asked for
	closed  bool
	tableID uint64 // of the table being written

	// The writer's own: only the one filling goroutine uses them.
	table *tableWriter
}

// take returns a key. It waits for the keysource only where none is ready.
func (p *pool) take(ctx context.Context) (bound, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return bound{}, fmt.Errorf("%w: the vault is closed", ErrNoKey)
		}
		if n := len(p.ready); n > 0 {
			b := p.ready[n-1]
			p.ready[n-1] = bound{}
			p.ready = p.ready[:n-1]
			if n-1 <= p.batch/2 && p.filling == nil {
				p.fill()
			}
			p.mu.Unlock()
			return b, nil
		}
		if p.filling == nil {
			p.fill()
		}
		wait := p.filling
		p.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return bound{}, fmt.Errorf("%w: %w", ErrNoKey, ctx.Err())
		}
		p.mu.Lock()
		err := p.err
		empty := len(p.ready) == 0
		p.mu.Unlock()
		if err != nil && empty {
			return bound{}, fmt.Errorf("%w: %w", ErrNoKey, err)
		}
	}
}

// put gives back a key that encrypted nothing.
func (p *pool) put(b bound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.ready = append(p.ready, b)
		return
	}
	p.v.keeper.erase(b.loc)
}

// fill starts a batch; p.mu is held.
func (p *pool) fill() {
	now := p.v.now()
	if now.Sub(p.last) < time.Second {
		p.batch = min(2*p.batch, poolMost)
	} else if now.Sub(p.last) > time.Minute {
		p.batch = max(p.batch/2, poolFirst)
	}
	p.last = now
	n := p.batch
	done := make(chan struct{})
	p.filling = done
	p.v.wg.Add(1)
	go func() {
		defer p.v.wg.Done()
		ctx, cancel := context.WithTimeout(p.v.ctx, p.v.deadline)
		defer cancel()
		made, err := p.make(ctx, n)
		if err != nil {
			p.v.log.Error("no new data keys", "err", err)
		}
		p.mu.Lock()
		p.ready = append(p.ready, made...)
		p.err = err
		p.filling = nil
		p.mu.Unlock()
		close(done)
	}()
}

// make generates up to n keys and makes their records durable.
func (p *pool) make(ctx context.Context, n int) ([]bound, error) {
	v := p.v
	made := make([]bound, 0, n)
	records := make([]*envelope.Record, 0, n)
	var failed error
	for range n {
		var id envelope.FileID
		rand.Read(id[:])
		dk, err := v.ks.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{
			KeyID:             keysource.KeyRef(v.cfg.Key),
			EncryptionContext: envelope.FileContext(v.cfg.Volume, id),
			NumberOfBytes:     envelope.KeySize,
		})
		if err != nil {
			failed = err
			break
		}
		fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), id, v.geo)
		dk.Plaintext.Wipe()
		if err != nil {
			failed = err
			break
		}
		made = append(made, bound{id: id, key: fk})
		records = append(records, envelope.NewRecord(fk, id, v.now().UnixNano(), []envelope.Wrapping{{
			ContextVersion: 1, KeyARN: dk.KeyID, KeyMaterialID: dk.KeyMaterialID, Blob: dk.CiphertextBlob,
		}}))
	}
	if len(made) == 0 {
		return nil, failed
	}
	if err := p.write(made, records); err != nil {
		for _, b := range made {
			b.key.Wipe()
		}
		return nil, fmt.Errorf("write key records: %w", err)
	}
	return made, nil // what was made serves, even where the keysource failed later
}

// close stops the pool and erases the keys that were never used.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	wait := p.filling
	p.mu.Unlock()
	if wait != nil {
		<-wait
	}
	p.mu.Lock()
	ready := p.ready
	p.ready = nil
	p.mu.Unlock()
	for _, b := range ready {
		b.key.Wipe()
		p.v.keeper.erase(b.loc)
	}
	p.abandon()
}

