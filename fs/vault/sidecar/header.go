package sidecar

import (
	"errors"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// MendHeader makes the header of table id anew where it is damaged: all that is in it follows from the name of the file, the
// volume and the records, which have checksums of their own. It returns how many records the table has; 0 where the header is in
// order, another vault's or of a later version, or where there is no record to tell the size of the slots by. The table is old or new as
// a whole, and the old one stays under another name, which means nothing.
func (s *Sidecar) MendHeader(id uint64) (records int, err error) {
	err = s.Locked(func() error {
		records, err = s.mendHeader(id)
		return err
	})
	return records, err
}

func (s *Sidecar) mendHeader(id uint64) (int, error) {
	old, err := s.keys.Open(envelope.TableName(id), syscall.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer old.Close()
	h, records, err := s.lostHeader(old, id)
	if err != nil || records == 0 {
		return 0, err
	}
	if err := s.keepDamaged(id); err != nil {
		return 0, err
	}
	return records, s.rewrite(old, h, nil)
}

// Mendable returns how many records a table has whose header MendHeader would make anew.
func (s *Sidecar) Mendable(id uint64) (records int, err error) {
	f, err := s.keys.Open(envelope.TableName(id), syscall.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	_, records, err = s.lostHeader(f, id)
	return records, err
}

// lostHeader is the header that the table in f has lost, and how many records say so.
func (s *Sidecar) lostHeader(f backing.File, id uint64) (h envelope.TableHeader, records int, err error) {
	b := make([]byte, envelope.MaxSlotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil {
		return h, 0, err
	}
	if _, err := envelope.ParseTableHeader(b[:n]); !errors.Is(err, envelope.ErrCorrupt) {
		return h, 0, nil
	}
	h = envelope.TableHeader{ID: id, Volume: s.volume}
	if h.SlotSize, err = guessSlotSize(f, 0); err != nil || h.SlotSize == 0 {
		return h, 0, err
	}
	z := int64(h.SlotSize)
	for off := z; ; off += z {
		at, more := backing.NextData(f, off)
		if !more {
			return h, records, nil
		}
		off = at / z * z
		n, err := f.ReadAt(b[:z], off)
		if err != nil || n < int(z) {
			return h, records, err
		}
		if r, err := envelope.ParseRecord(b[:z]); err == nil {
			if records == 0 || r.Created < h.Created {
				h.Created = r.Created
			}
			records++
		}
	}
}
