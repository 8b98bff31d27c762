package sidecar

import (
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// TableSlots is how many slots of the smallest size, its header included, a table has that is made here: 1 MiB.
const (
	TableSlots = 2048
	tableBytes = TableSlots * envelope.MinSlotSize
)

// Writer appends records to a table of its own. Its methods are called by one goroutine at a time, but for Table.
type Writer struct {
	s        *Sidecar
	now      func() time.Time
	id       atomic.Uint64
	f        backing.File
	slotSize int
	next     uint32
}

// NewWriter returns a Writer, which makes a table at the first Append. now is the clock that its tables are dated with.
func (s *Sidecar) NewWriter(now func() time.Time) *Writer { return &Writer{s: s, now: now} }

// Table returns the id of the table that the writer will go on in, 0 for none.
func (w *Writer) Table() uint64 { return w.id.Load() }

// Append makes records durable, with one sync where they go into one table, and returns where they stand, in their
// order. Where it fails none of them is to be used; those in the table before, if any, stay there unused.
func (w *Writer) Append(records []*envelope.Record) (locs []envelope.Locator, err error) {
	need := 0
	for _, r := range records {
		need = max(need, r.MarshaledSize())
	}
	slotSize, err := envelope.SlotSizeFor(need)
	if err != nil {
		return nil, err
	}
	err = w.s.Locked(func() error {
		if w.f != nil && !w.named() {
			w.forget()
		}
		for len(records) > 0 {
			if w.f == nil || w.slotSize < slotSize || int(w.next)*w.slotSize >= tableBytes {
				if err := w.begin(slotSize); err != nil {
					return err
				}
			}
			n := min(len(records), tableBytes/w.slotSize-int(w.next))
			if err := w.write(records[:n]); err != nil {
				return err
			}
			for i := range n {
				locs = append(locs, envelope.Locator{Table: w.id.Load(), Slot: w.next + uint32(i)})
			}
			w.next += uint32(n)
			records = records[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return locs, nil
}

// named tells whether the open table is the one that has its name: a rewrap elsewhere puts another in its place, an
// erasure elsewhere removes it when it is empty.
func (w *Writer) named() bool {
	st, err := w.f.Stat()
	if err != nil || st.Nlink == 0 {
		return false
	}
	at, err := w.s.keys.StatAt(envelope.TableName(w.id.Load()))
	return err == nil && at.Ino == st.Ino && at.Dev == st.Dev
}

// write puts records behind those in the table.
func (w *Writer) write(records []*envelope.Record) error {
	buf := make([]byte, len(records)*w.slotSize)
	for i, r := range records {
		if err := r.Marshal(buf[i*w.slotSize : (i+1)*w.slotSize]); err != nil {
			return err
		}
	}
	off := int64(w.next) * int64(w.slotSize)
	if _, err := w.f.WriteAt(buf, off); err != nil {
		if w.f.Truncate(off) != nil { // a full disk: what got there was never handed out
			w.abandon()
		}
		return err
	}
	if err := w.f.DataSync(); err != nil {
		w.abandon() // what an fsync has failed for is not to be trusted: go on in a new table
		return err
	}
	return nil
}

// Close ends the table being written. One that holds nothing goes.
func (w *Writer) Close() {
	if w.f == nil {
		return
	}
	if w.next > 1 {
		w.forget()
		return
	}
	_ = w.s.Locked(func() error { w.abandon(); return nil }) // harmless where it stays
	w.forget()
}

// forget ends the table being written.
func (w *Writer) forget() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
	w.id.Store(0)
}

// abandon ends the table being written and removes it where it holds nothing. Locked.
func (w *Writer) abandon() {
	if w.f == nil {
		return
	}
	id, empty := w.id.Load(), w.next == 1 && w.named()
	w.forget()
	if empty {
		w.s.keys.Unlink(envelope.TableName(id)) // harmless where it stays
	}
}

// begin makes a new table, durable with its name before the first record goes into it. Locked.
func (w *Writer) begin(slotSize int) error {
	w.abandon()
	var id uint64
	for id == 0 {
		var b [8]byte
		rand.Read(b[:])
		id = binary.LittleEndian.Uint64(b[:])
	}
	name := envelope.TableName(id)
	f, err := w.s.keys.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	like, err := w.s.keys.Stat()
	if err == nil {
		err = own(f, like)
	}
	h := envelope.TableHeader{SlotSize: uint32(slotSize), ID: id, Volume: w.s.volume, Created: w.now().UnixNano()}
	b := make([]byte, slotSize)
	if err == nil {
		err = h.Marshal(b)
	}
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		if err = f.Sync(); err == nil {
			err = w.s.keys.Sync()
		}
	}
	if err != nil {
		f.Close()
		w.s.keys.Unlink(name) // may stay behind empty: harmless
		return err
	}
	w.f, w.slotSize, w.next = f, slotSize, 1
	w.id.Store(id)
	return nil
}
