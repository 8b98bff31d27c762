package vault

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
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

// tableWriter appends records to the table that this mount has begun.
type tableWriter struct {
	id       uint64
	f        backing.File
	slotSize int
	next     uint32
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

// write appends records to the tables, durably, and fills in the locators.
func (p *pool) write(made []bound, records []*envelope.Record) error {
	need := 0
	for _, r := range records {
		need = max(need, r.MarshaledSize())
	}
	slotSize, err := envelope.SlotSizeFor(need)
	if err != nil {
		return err
	}
	for len(records) > 0 {
		if p.table == nil || p.table.slotSize < slotSize || int(p.table.next)*p.table.slotSize >= tableSlots*512 {
			if err := p.begin(slotSize); err != nil {
				return err
			}
		}
		t := p.table
		n := min(len(records), tableSlots*512/t.slotSize-int(t.next))
		buf := make([]byte, n*t.slotSize)
		for i := range n {
			if err := records[i].Marshal(buf[i*t.slotSize : (i+1)*t.slotSize]); err != nil {
				return err
			}
			made[i].loc = envelope.Locator{Table: t.id, Slot: t.next + uint32(i)}
		}
		off := int64(t.next) * int64(t.slotSize)
		if _, err := t.f.WriteAt(buf, off); err != nil {
			if t.f.Truncate(off) != nil { // a full disk: what got there was never handed out
				p.abandon()
			}
			return err
		}
		if err := t.f.DataSync(); err != nil {
			p.abandon() // what an fsync has failed for is not to be trusted: go on in a new table
			return err
		}
		t.next += uint32(n)
		made, records = made[n:], records[n:]
	}
	return nil
}

// abandon ends the table being written. One that holds nothing goes.
func (p *pool) abandon() {
	t := p.table
	if t == nil {
		return
	}
	p.table = nil
	t.f.Close()
	p.mu.Lock()
	p.tableID = 0
	p.mu.Unlock()
	if t.next == 1 {
		p.v.keysDir.Unlink(envelope.TableName(t.id)) // harmless where it stays
	}
}

// begin makes a new table, durable with its name before the first record goes into it.
func (p *pool) begin(slotSize int) error {
	p.abandon()
	var id uint64
	for id == 0 {
		var b [8]byte
		rand.Read(b[:])
		id = binary.LittleEndian.Uint64(b[:])
	}
	f, err := p.v.keysDir.Open(envelope.TableName(id), syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	h := envelope.TableHeader{SlotSize: uint32(slotSize), ID: id, Volume: p.v.cfg.Volume, Created: p.v.now().UnixNano()}
	b := make([]byte, slotSize)
	if err = h.Marshal(b); err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		if err = f.Sync(); err == nil {
			err = p.v.keysDir.Sync()
		}
	}
	if err != nil {
		f.Close()
		p.v.keysDir.Unlink(envelope.TableName(id)) // may stay behind empty: harmless
		return err
	}
	p.table = &tableWriter{id: id, f: f, slotSize: slotSize, next: 1}
	p.mu.Lock()
	p.tableID = id
	p.mu.Unlock()
	return nil
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

// tables reads records.
type tables struct {
	v    *Vault
	mu   sync.Mutex
	open map[uint64]*table
}

type table struct {
	f        backing.File
	slotSize int64
	users    int
}

const tablesOpen = 64

// get returns table id with its file open; release gives it back.
func (t *tables) get(id uint64) (*table, error) {
	t.mu.Lock()
	if tb := t.open[id]; tb != nil {
		tb.users++
		t.mu.Unlock()
		return tb, nil
	}
	t.mu.Unlock()
	f, err := t.v.keysDir.Open(envelope.TableName(id), syscall.O_RDONLY, 0)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) {
			return nil, fmt.Errorf("%w: key table %s is missing from .kmsfs/keys", ErrNoKey, envelope.TableName(id))
		}
		return nil, err
	}
	b := make([]byte, envelope.MaxSlotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil {
		f.Close()
		return nil, err
	}
	h, err := envelope.ParseTableHeader(b[:n])
	if err == nil && (h.ID != id || h.Volume != t.v.cfg.Volume) {
		err = fmt.Errorf("%w: it is another vault's table or another table's copy", envelope.ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: key table %s: %w", ErrNoKey, envelope.TableName(id), err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tb := t.open[id]; tb != nil {
		f.Close()
		tb.users++
		return tb, nil
	}
	if len(t.open) >= tablesOpen {
		for k, o := range t.open {
			if o.users == 0 {
				o.f.Close()
				delete(t.open, k)
				break
			}
		}
	}
	tb := &table{f: f, slotSize: int64(h.SlotSize), users: 1}
	t.open[id] = tb
	return tb, nil
}

func (t *tables) release(tb *table) {
	t.mu.Lock()
	tb.users--
	t.mu.Unlock()
}

// forget closes table id where it is open and unused, before it is deleted.
func (t *tables) forget(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tb := t.open[id]; tb != nil && tb.users == 0 {
		tb.f.Close()
		delete(t.open, id)
	}
}

func (t *tables) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, tb := range t.open {
		tb.f.Close()
		delete(t.open, id)
	}
}

// record reads the record at loc, which must be that of file id.
func (t *tables) record(loc envelope.Locator, id envelope.FileID) (*envelope.Record, error) {
	tb, err := t.get(loc.Table)
	if err != nil {
		return nil, err
	}
	defer t.release(tb)
	b := make([]byte, tb.slotSize)
	n, err := tb.f.ReadAt(b, int64(loc.Slot)*tb.slotSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if loc.Slot == 0 || n < len(b) {
		return nil, fmt.Errorf("%w: key table %s ends before slot %d", ErrNoKey, envelope.TableName(loc.Table), loc.Slot)
	}
	r, err := envelope.ParseRecord(b)
	if err == nil && r.ID != id {
		err = fmt.Errorf("%w: the record is another file's", envelope.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: key table %s slot %d: %w", ErrNoKey, envelope.TableName(loc.Table), loc.Slot, err)
	}
	return r, nil
}

// fileKey unwraps the data key of file id, whose record is at loc.
func (t *tables) fileKey(ctx context.Context, loc envelope.Locator, id envelope.FileID) (*envelope.FileKey, error) {
	r, err := t.record(loc, id)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, w := range r.Wrappings {
		if w.Kind != 0 {
			errs = append(errs, fmt.Errorf("%w: wrapping kind %d", envelope.ErrUnsupported, w.Kind))
			continue
		}
		dk, err := t.v.ks.Decrypt(ctx, keysource.DecryptInput{
			CiphertextBlob:    w.Blob,
			EncryptionContext: envelope.FileContext(t.v.cfg.Volume, id),
			KeyID:             keysource.KeyRef(w.KeyARN),
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), id, t.v.geo)
		dk.Plaintext.Wipe()
		if err == nil {
			err = r.Verify(fk)
		}
		if err == nil {
			return fk, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrNoKey, errors.Join(errs...))
}
