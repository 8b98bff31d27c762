package vault

import (
	"context"
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
	began := time.Now()
	defer func() { t.v.ahead.asked(loc, time.Since(began)) }()
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
