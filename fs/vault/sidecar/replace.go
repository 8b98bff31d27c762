package sidecar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Change is a record that is to take the place of another.
type Change struct {
	Slot   uint32
	Seen   []byte // the slot as it stood when Record was made from it
	Record *envelope.Record
}

// Replace puts the records of changes, which are in the order of their slots, into table id. The new table is written
// aside, synced and renamed into place: after a crash it is old or new as a whole. The slots grow where a record needs it
// and never shrink; slot numbers stay. A slot that does not hold what was seen any more is left as it stands: a slot that
// is empty stays empty. Those slots are returned. Where there is an error nothing was changed, unless the error came with
// the sync of the directory: the table may then be old or new after a crash.
func (s *Sidecar) Replace(id uint64, changes []Change) (left []uint32, err error) {
	if len(changes) == 0 {
		return nil, nil
	}
	err = s.Locked(func() (err error) {
		left, err = s.replace(id, changes)
		return err
	})
	return left, err
}

func (s *Sidecar) replace(id uint64, changes []Change) (left []uint32, err error) {
	old, h, err := s.openTable(id, syscall.O_RDONLY)
	if err != nil {
		if errors.Is(err, ErrNoRecord) && s.gone(id) { // all of its records are erased
			for _, c := range changes {
				left = append(left, c.Slot)
			}
			return left, nil
		}
		return nil, err
	}
	defer old.Close()
	z := int(h.SlotSize)
	var still []Change
	for _, c := range changes {
		b := make([]byte, z)
		n, err := old.ReadAt(b, int64(c.Slot)*int64(z))
		if err != nil {
			return nil, err
		}
		if c.Slot != 0 && n == z && sameRecord(b, c.Seen) {
			still = append(still, c)
		} else {
			left = append(left, c.Slot)
		}
	}
	if len(still) == 0 {
		return left, nil
	}
	return left, s.rewrite(old, h, still)
}

// rewrite puts a table with the changes in the place of old, which has header h and is nil where there is none: written
// aside, synced, renamed.
func (s *Sidecar) rewrite(old backing.File, h envelope.TableHeader, changes []Change) error {
	z := int(h.SlotSize)
	for _, c := range changes {
		need, err := envelope.SlotSizeFor(c.Record.MarshaledSize())
		if err != nil {
			return err
		}
		h.SlotSize = max(h.SlotSize, uint32(need))
	}
	name := envelope.TableName(h.ID) + aside
	if err := s.keys.Unlink(name); err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	like, err := s.keys.Stat()
	mode := uint32(0o600)
	if old != nil && err == nil {
		like, err = old.Stat()
		mode = like.Mode & 0o777
	}
	if err != nil {
		return err
	}
	f, err := s.keys.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err = own(f, like); err == nil {
		err = f.Chmod(mode) // whatever the umask
	}
	if err == nil {
		if err = copyTable(f, old, h, z, changes); err == nil {
			err = f.Sync()
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = s.keys.Rename(name, s.keys, envelope.TableName(h.ID), 0)
	}
	if err != nil {
		s.keys.Unlink(name) // may stay behind: it means nothing
		return err
	}
	s.drop(h.ID, nil)
	return s.keys.Sync()
}

// sameRecord tells whether two slots, perhaps of different sizes, hold the same record.
func sameRecord(a, b []byte) bool {
	const used = 6
	if len(a) < envelope.MinSlotSize || len(b) < envelope.MinSlotSize {
		return false
	}
	n := int(binary.LittleEndian.Uint16(a[used:]))
	if n <= used || n > min(len(a), len(b))-envelope.TagSize || !bytes.Equal(a[:n], b[:n]) {
		return false
	}
	_, err := envelope.ParseRecord(a)
	return err == nil
}

// copyTable writes to f the table in old, whose slots have z bytes, under header h and with the changes, some of which may
// be behind its end. A nil old is empty.
func copyTable(f, old backing.File, h envelope.TableHeader, z int, changes []Change) error {
	grown, end := int(h.SlotSize), int64(0)
	if n := len(changes); n > 0 {
		end = int64(changes[n-1].Slot) + 1
	}
	from := make([]byte, partSlots*z)
	for first := int64(0); ; first += partSlots {
		n, err := 0, error(nil)
		if old != nil {
			if first > 0 { // the header is written whatever there is
				at, more := backing.NextData(old, first*int64(z))
				if !more && len(changes) == 0 {
					break
				}
				next := at / int64(z)
				if len(changes) > 0 && (!more || next > int64(changes[0].Slot)) {
					next = int64(changes[0].Slot)
				}
				first = max(first, next/partSlots*partSlots)
			}
			n, err = old.ReadAt(from, first*int64(z))
		}
		if err != nil {
			return err
		}
		slots := max((n+z-1)/z, int(min(end-first, partSlots)))
		to := make([]byte, slots*grown)
		for i := range slots {
			slot := to[i*grown : (i+1)*grown]
			was := from[min(i*z, n):min((i+1)*z, n)]
			switch {
			case first == 0 && i == 0:
				err = h.Marshal(slot)
			case len(changes) > 0 && int64(changes[0].Slot) == first+int64(i):
				err = changes[0].Record.Marshal(slot)
				changes = changes[1:]
			default:
				envelope.MoveSlot(slot, was)
			}
			if err != nil {
				return err
			}
		}
		if err := writeFull(f, to, first*int64(grown)); err != nil {
			return err
		}
		if slots < partSlots {
			break
		}
	}
	if len(changes) > 0 {
		return fmt.Errorf("%d changes are not in the order of their slots", len(changes))
	}
	return nil
}

// writeFull writes b but for the pages of zeros at its end and within it, which stay holes; the file is as long as if it
// had.
func writeFull(f backing.File, b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	if err := f.Truncate(off + int64(len(b))); err != nil {
		return err
	}
	for at := 0; at < len(b); {
		end := at
		for end < len(b) && !envelope.IsZero(b[end:min(end+envelope.BlockSize, len(b))]) {
			end = min(end+envelope.BlockSize, len(b))
		}
		if end > at {
			if _, err := f.WriteAt(b[at:end], off+int64(at)); err != nil {
				return err
			}
		}
		at = min(end+envelope.BlockSize, len(b))
	}
	return nil
}
