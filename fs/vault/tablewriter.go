package vault

import (
	"crypto/rand"
	"encoding/binary"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// tableSlots is how many records a table of the smallest slots takes, its header included: 1 MiB.
const tableSlots = 2048

// tableWriter appends records to the table that this mount has begun.
type tableWriter struct {
	id       uint64
	f        backing.File
	slotSize int
	next     uint32
}

// write appends the records of batch to the tables, durably, and fills in the locators.
func (p *pool) write(batch []made) error {
	need := 0
	for _, m := range batch {
		need = max(need, m.record.MarshaledSize())
	}
	slotSize, err := envelope.SlotSizeFor(need)
	if err != nil {
		return err
	}
	for len(batch) > 0 {
		if p.table == nil || p.table.slotSize < slotSize || int(p.table.next)*p.table.slotSize >= tableSlots*512 {
			if err := p.begin(slotSize); err != nil {
				return err
			}
		}
		t := p.table
		n := min(len(batch), tableSlots*512/t.slotSize-int(t.next))
		buf := make([]byte, n*t.slotSize)
		for i := range n {
			if err := batch[i].record.Marshal(buf[i*t.slotSize : (i+1)*t.slotSize]); err != nil {
				return err
			}
			batch[i].loc = envelope.Locator{Table: t.id, Slot: t.next + uint32(i)}
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
		batch = batch[n:]
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
