package sidecar

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Found is a record that a file of the vault names and that its slot does not hold: it comes from a backup.
type Found struct {
	Slot   uint32
	Record *envelope.Record
}

// damagedMark follows the name of a table whose header does not open and that another was put in the place of; then the
// time. Such a name means nothing.
const damagedMark = ".damaged-"

// Restore puts records, in the order of their slots, into the table of header h, which is made where it is missing; h is
// then its header, and else counts for nothing but its ID.
//
// It is the one exception from the rule that a slot that was zero is never anything else again. The rule keeps the
// records of deleted files from coming back; a file that names the record has not been deleted. So the caller has found,
// while nobody had the vault open for writing, a file of that id which names that slot, and goes on keeping others out.
//
// A slot that holds the record of the file by now, or one of a later version, is left as it stands; those slots are
// returned. Where a table's own header does not open, what else is in it is kept, and the old one stays under another
// name. As with [Sidecar.Replace] the table is old or new as a whole.
func (s *Sidecar) Restore(h envelope.TableHeader, records []Found) (left []uint32, err error) {
	if len(records) == 0 {
		return nil, nil
	}
	if h.Volume != s.volume {
		return nil, fmt.Errorf("%w: the key table is another vault's", envelope.ErrCorrupt)
	}
	err = s.Locked(func() (err error) {
		left, err = s.restore(h, records)
		return err
	})
	return left, err
}

func (s *Sidecar) restore(h envelope.TableHeader, records []Found) (left []uint32, err error) {
	old, now, err := s.openTable(h.ID, syscall.O_RDONLY)
	damaged := false
	switch {
	case err == nil:
		defer old.Close()
		h = now
	case errors.Is(err, envelope.ErrUnsupported) || !errors.Is(err, ErrNoRecord):
		return nil, err
	case !s.gone(h.ID) && !s.begun(h.ID):
		damaged = true
		if old, err = s.keys.Open(envelope.TableName(h.ID), syscall.O_RDONLY, 0); err != nil {
			return nil, err
		}
		defer old.Close()
		if h.SlotSize, err = guessSlotSize(old, h.SlotSize); err != nil {
			return nil, err
		}
	}
	var still []Change
	for _, r := range records {
		now, stays, err := holds(old, h, r)
		switch {
		case err != nil:
			return nil, err
		case stays && !(damaged && now != nil):
			left = append(left, r.Slot)
		case stays: // nobody could read it there
			still = append(still, Change{Slot: r.Slot, Record: now})
		default:
			still = append(still, Change{Slot: r.Slot, Record: r.Record})
		}
	}
	if len(still) == 0 {
		return left, nil
	}
	if damaged {
		if err := s.keepDamaged(h.ID); err != nil {
			return nil, err
		}
	}
	return left, s.rewrite(old, h, still)
}

// holds tells whether the slot of r is to be left as it is: it holds the record of that file, which is returned, or one of
// a later version.
func holds(old backing.File, h envelope.TableHeader, r Found) (now *envelope.Record, stays bool, err error) {
	if r.Slot == 0 {
		return nil, true, nil
	}
	if old == nil {
		return nil, false, nil
	}
	b := make([]byte, h.SlotSize)
	n, err := old.ReadAt(b, int64(r.Slot)*int64(h.SlotSize))
	if err != nil {
		return nil, false, err
	}
	now, err = envelope.ParseRecord(b[:n])
	switch {
	case err == nil && now.ID == r.Record.ID:
		return now, true, nil
	case errors.Is(err, envelope.ErrUnsupported):
		return nil, true, nil
	}
	return nil, false, nil
}

// guessSlotSize returns the slot size of a table whose header does not open: that by which most records do, or other
// where none does.
func guessSlotSize(f backing.File, other uint32) (uint32, error) {
	b := make([]byte, tableBytes*envelope.MaxSlotSize/envelope.MinSlotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil {
		return 0, err
	}
	most := 0
	for z := envelope.MinSlotSize; z <= envelope.MaxSlotSize; z *= 2 {
		found := 0
		for off := z; off+z <= n; off += z {
			if _, err := envelope.ParseRecord(b[off : off+z]); err == nil {
				found++
			}
		}
		if found > most {
			most, other = found, uint32(z)
		}
	}
	return other, nil
}

// keepDamaged keeps a table whose header does not open under another name too. Where there are no hard links that is a copy: a kill must
// not leave the table without its name.
func (s *Sidecar) keepDamaged(id uint64) error {
	name := envelope.TableName(id)
	kept := name + damagedMark + time.Now().UTC().Format("20060102T150405.000000000Z")
	if s.keys.Link(name, s.keys, kept) == nil {
		return nil
	}
	return backing.CopyFile(s.keys, kept, s.keys, name)
}
