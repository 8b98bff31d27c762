package sidecar

import (
	"errors"
	"fmt"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// table is an open key table. A table that was replaced under its name is open as it was until nobody uses it.
type table struct {
	f        backing.File
	slotSize int64
	users    int
	dropped  bool // no longer in Sidecar.open: closed by the last user
}

const tablesOpen = 64

// get returns table id with its file open; release gives it back.
func (s *Sidecar) get(id uint64) (*table, error) {
	s.mu.Lock()
	tb := s.open[id]
	if tb != nil {
		tb.users++
	}
	s.mu.Unlock()
	if tb != nil {
		st, err := tb.f.Stat()
		if err == nil && st.Nlink > 0 {
			return tb, nil
		}
		s.drop(id, tb)
		s.release(tb)
		if err != nil && !errors.Is(err, syscall.ESTALE) {
			return nil, err
		}
	}
	f, h, err := s.openTable(id, syscall.O_RDONLY)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if tb := s.open[id]; tb != nil {
		f.Close()
		tb.users++
		return tb, nil
	}
	if len(s.open) >= tablesOpen {
		for k, o := range s.open {
			if o.users == 0 {
				o.f.Close()
				delete(s.open, k)
				break
			}
		}
	}
	tb = &table{f: f, slotSize: int64(h.SlotSize), users: 1}
	s.open[id] = tb
	return tb, nil
}

func (s *Sidecar) release(tb *table) {
	s.mu.Lock()
	tb.users--
	last := tb.dropped && tb.users == 0
	s.mu.Unlock()
	if last {
		tb.f.Close()
	}
}

// drop forgets tb, so that the next get opens table id by its name; nil: whatever is open of it.
func (s *Sidecar) drop(id uint64, tb *table) {
	s.mu.Lock()
	now := s.open[id]
	if now == nil || tb != nil && now != tb {
		s.mu.Unlock()
		return
	}
	delete(s.open, id)
	now.dropped = true
	unused := now.users == 0
	s.mu.Unlock()
	if unused {
		now.f.Close()
	}
}

// Record reads the record at loc, which must be that of file id. It fails with ErrNoRecord, or as the backing does.
func (s *Sidecar) Record(loc envelope.Locator, id envelope.FileID) (*envelope.Record, error) {
	b, slotSize, err := s.Slots(loc.Table, loc.Slot, 1)
	if err != nil {
		return nil, err
	}
	if loc.Slot == 0 || len(b) < slotSize {
		return nil, fmt.Errorf("%w: key table %s ends before slot %d", ErrNoRecord, envelope.TableName(loc.Table), loc.Slot)
	}
	r, err := envelope.ParseRecord(b)
	if err == nil && r.ID != id {
		err = fmt.Errorf("%w: the record is another file's", envelope.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: key table %s slot %d: %w", ErrNoRecord, envelope.TableName(loc.Table), loc.Slot, err)
	}
	return r, nil
}

// Reread is Record, of the table that has the name now: one that is kept open may have been replaced where the file
// system does not tell.
func (s *Sidecar) Reread(loc envelope.Locator, id envelope.FileID) (*envelope.Record, error) {
	s.drop(loc.Table, nil)
	return s.Record(loc, id)
}

// Slots reads up to n slots of a table from the first on, as they stand on the disk: fewer at the table's end.
func (s *Sidecar) Slots(table uint64, first uint32, n int) (b []byte, slotSize int, err error) {
	tb, err := s.get(table)
	if err != nil {
		return nil, 0, err
	}
	defer s.release(tb)
	b = make([]byte, int64(n)*tb.slotSize)
	k, err := tb.f.ReadAt(b, int64(first)*tb.slotSize)
	return b[:k], int(tb.slotSize), err
}
