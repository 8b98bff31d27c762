package sidecar

import (
	"cmp"
	"errors"
	"slices"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Of fallocate(2).
const (
	fallocKeepSize  = 1
	fallocPunchHole = 2
)

// Zero erases the records at locs, table by table, and gives their space back: empty pages are punched out, and tables
// without records removed. A table for which keep is true keeps its space: somebody appends to it. It returns those that
// are to be tried again; a record whose table is gone is not.
func (s *Sidecar) Zero(locs []envelope.Locator, keep func(table uint64) bool) (left []envelope.Locator, err error) {
	locs = slices.Clone(locs)
	slices.SortFunc(locs, func(a, b envelope.Locator) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Slot, b.Slot))
	})
	var errs []error
	for len(locs) > 0 {
		n := 1
		for n < len(locs) && locs[n].Table == locs[0].Table {
			n++
		}
		id := locs[0].Table
		if err := s.Locked(func() error { return s.zeroTable(id, locs[:n], keep(id)) }); err != nil {
			errs = append(errs, err)
			if !errors.Is(err, ErrNoRecord) { // it is not that the table is gone
				left = append(left, locs[:n]...)
			}
		}
		locs = locs[n:]
	}
	return left, errors.Join(errs...)
}

func (s *Sidecar) zeroTable(id uint64, locs []envelope.Locator, keep bool) error {
	f, h, err := s.openTable(id, syscall.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	slotSize := int64(h.SlotSize)
	zeros := make([]byte, slotSize)
	for _, l := range locs {
		off := int64(l.Slot) * slotSize
		if l.Slot == 0 || off+slotSize > st.Size { // it is not there; to write would make it
			continue
		}
		if _, err := f.WriteAt(zeros, off); err != nil {
			return err
		}
	}
	if keep || st.Size > TableSlots*envelope.MaxSlotSize { // or of another make, and larger than is read here
		return nil
	}
	return s.giveBack(f, id, slotSize, st.Size)
}

// giveBack removes a table that holds nothing, or punches out its empty pages.
func (s *Sidecar) giveBack(f backing.File, id uint64, slotSize, size int64) error {
	whole := make([]byte, size)
	n, err := f.ReadAt(whole, 0)
	if err != nil {
		return err
	}
	whole = whole[:n]
	if envelope.IsZero(whole[min(n, int(slotSize)):]) {
		s.drop(id, nil)
		return s.keys.Unlink(envelope.TableName(id))
	}
	for page := int64(envelope.BlockSize); page+envelope.BlockSize <= int64(n); page += envelope.BlockSize {
		end := page
		for end+envelope.BlockSize <= int64(n) && envelope.IsZero(whole[end:end+envelope.BlockSize]) {
			end += envelope.BlockSize
		}
		if end > page {
			f.Allocate(fallocKeepSize|fallocPunchHole, page, end-page) // space only: failing is harmless
			page = end
		}
	}
	return nil
}
