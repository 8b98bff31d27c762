package sidecar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// ScanOptions is what to scan, and how. The zero value is everything, one table at a time.
type ScanOptions struct {
	Parallel      int // tables read at once; 0: 1
	Shard, Shards int // the tables whose id modulo Shards is Shard; Shards 0: all
}

// Has says whether table id is of the shard.
func (o ScanOptions) Has(id uint64) bool {
	return o.Shards <= 1 || id%uint64(o.Shards) == uint64(o.Shard)
}

// Part is a key table, or part of one that is larger than usual, as it stood on the disk at one time.
type Part struct {
	Table    uint64
	SlotSize int
	Created  int64  // of the table, ns since 1970
	First    uint32 // number of the first slot
	Last     bool   // nothing of the table follows
	// Err is why the table cannot be read, or not from here on; there is then nothing else.
	Err error

	raw []byte
}

// Raw is the slots of the part as they stand, which stay the Part's.
func (p *Part) Raw() []byte { return p.raw }

// NewPart returns a part of a table of header h that has come from elsewhere: its slots from first on.
func NewPart(h envelope.TableHeader, first uint32, raw []byte) *Part {
	return &Part{Table: h.ID, SlotSize: int(h.SlotSize), Created: h.Created, First: first, raw: raw}
}

// Entry is a slot that is not empty.
type Entry struct {
	Loc    envelope.Locator
	Record *envelope.Record // nil with Err
	Err    error            // envelope.ErrCorrupt or envelope.ErrUnsupported
	// Raw is the slot as it stands, which stays the Part's.
	Raw []byte
}

// Entries are the slots of the part that are not empty, in order.
func (p *Part) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := 0; i*p.SlotSize < len(p.raw); i++ {
			e := Entry{Loc: envelope.Locator{Table: p.Table, Slot: p.First + uint32(i)}}
			if e.Loc.Slot == 0 {
				continue
			}
			e.Raw = p.raw[i*p.SlotSize : min((i+1)*p.SlotSize, len(p.raw))]
			if envelope.IsZero(e.Raw) {
				continue
			}
			if len(e.Raw) < p.SlotSize {
				e.Err = fmt.Errorf("%w: the key table ends within the slot", envelope.ErrCorrupt)
			} else {
				e.Record, e.Err = envelope.ParseRecord(e.Raw)
			}
			if !yield(e) {
				return
			}
		}
	}
}

// Scan calls f for every part of every key table, o.Parallel at once, those of one table in order and by one goroutine. A
// table that is removed meanwhile, or that a crash cut short before its header, is left out; damage is told in Part.Err and Entry.Err and ends nothing. It ends with
// the first error of f, that of ctx, or that of reading the directory, and panics where f has.
func (s *Sidecar) Scan(ctx context.Context, o ScanOptions, f func(*Part) error) error {
	ids, err := s.Tables()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan uint64)
	wg := bug.Group{Stop: func() { cancel(bug.Err) }}
	for range max(o.Parallel, 1) {
		wg.Go(func() {
			for id := range next {
				if err := s.ScanTable(ctx, id, f); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, id := range ids {
		if !o.Has(id) {
			continue
		}
		select {
		case next <- id:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// ScanTable is Scan of one table.
func (s *Sidecar) ScanTable(ctx context.Context, id uint64, f func(*Part) error) error {
	file, h, err := s.openTable(id, syscall.O_RDONLY)
	if err != nil {
		if errors.Is(err, ErrNoRecord) && (s.gone(id) || s.begun(id)) {
			return nil
		}
		return f(&Part{Table: id, Last: true, Err: err})
	}
	defer file.Close()
	for first := uint32(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := partSlots * int64(h.SlotSize)
		if at, more := backing.NextData(file, int64(first)*int64(h.SlotSize)); !more || at/part >= 1<<32/partSlots {
			first = 1<<32 - partSlots // where no slot is, or none that can be named
		} else {
			first = uint32(at/part) * partSlots
		}
		p := &Part{Table: id, SlotSize: int(h.SlotSize), Created: h.Created, First: first}
		p.raw, err = readSettled(file, h, first)
		if err != nil {
			return f(&Part{Table: id, SlotSize: int(h.SlotSize), Created: h.Created, First: first, Last: true, Err: err})
		}
		p.Last = len(p.raw) < partSlots*int(h.SlotSize)
		if err := f(p); err != nil || p.Last {
			return err
		}
		if first += partSlots; first == 0 {
			return f(&Part{Table: id, SlotSize: int(h.SlotSize), Created: h.Created, Last: true, Err: fmt.Errorf("%w: more than 2^32 slots", envelope.ErrCorrupt)})
		}
	}
}

// partSlots is how many slots a Part has at most.
const partSlots = TableSlots

// gone tells whether table id has been removed.
func (s *Sidecar) gone(id uint64) bool {
	if s.keys == nil {
		return true
	}
	_, err := s.keys.StatAt(envelope.TableName(id))
	return errors.Is(err, syscall.ENOENT)
}

// begun tells whether table id is one that a crash cut short before its header: there was nothing in it.
func (s *Sidecar) begun(id uint64) bool {
	f, err := s.keys.Open(envelope.TableName(id), syscall.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, envelope.MaxSlotSize+1)
	n, err := f.ReadAt(b, 0)
	return err == nil && n < len(b) && envelope.IsZero(b[:n])
}

// What is read while it is being written can look damaged. It is then read again, so often and after so long.
const (
	settleTries = 4
	settleAfter = 5 * time.Millisecond
)

// readSettled reads slots from first on.
func readSettled(f backing.File, h envelope.TableHeader, first uint32) ([]byte, error) {
	z := int64(h.SlotSize)
	for try := 0; ; try++ {
		b := make([]byte, partSlots*z)
		n, err := f.ReadAt(b, int64(first)*z)
		if err != nil {
			return nil, err
		}
		b = b[:n]
		if try == settleTries || settled(b, int(z)) {
			return b, nil
		}
		time.Sleep(settleAfter)
	}
}

// settled tells whether all slots but the first hold something that makes sense. (A header is never written twice.)
func settled(b []byte, slotSize int) bool {
	p := Part{SlotSize: slotSize, raw: b}
	for e := range p.Entries() {
		if errors.Is(e.Err, envelope.ErrCorrupt) {
			return false
		}
	}
	return true
}
