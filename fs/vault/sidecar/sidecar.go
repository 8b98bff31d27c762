// Package sidecar is the key tables of a vault (envelope/FORMAT.md, "Key tables"): it reads, scans, appends, erases and
// replaces records. It needs no key and asks no keysource, so that what moves wrapped keys about needs no vault key.
//
// Start with [Open]. A reader takes [Sidecar.Record] or [Sidecar.Scan]; a mount appends with a [Writer] and erases with
// [Sidecar.Zero]; a rewrap changes records with [Sidecar.Replace]; what a backup has of them comes back by [Sidecar.Restore].
//
// It guarantees that a record that Append, Replace or Restore has returned for is durable, that a table is old or new as a
// whole after a crash during Replace or Restore, and that a slot that was zero is never anything else again, but by Restore.
// Whoever writes holds .kmsfs/keys.lock, which excludes other processes and hosts, for the time of the writes alone; who
// only reads touches no lock and writes nothing. It does not make zeroing durable: the caller's next syncfs does.
//
// Lock order: the writer's lock (Locked), then mu. All methods are safe for concurrent use, but those of Writer.
package sidecar

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Names in the control directory.
const (
	keysName = "keys"
	lockName = "keys.lock"
	aside    = ".new" // behind the name of a table that is being replaced
)

// ErrNoRecord is the error for a record that is not there to be read: its table is missing or another's, or the record
// is erased, damaged or of a later version. Errors of the backing file system come as they are.
var ErrNoRecord = errors.New("sidecar: no record")

// Sidecar is the key tables of one vault.
type Sidecar struct {
	ctl    backing.Dir // the caller's
	keys   backing.Dir // nil: there are no tables, and none can be made
	volume envelope.VolumeID

	writing  sync.Mutex   // held by Locked
	lockFile backing.File // nil until needed; guarded by writing

	mu   sync.Mutex
	open map[uint64]*table
}

// Open opens the key tables below ctl, the directory .kmsfs, which stays the caller's and outlives the Sidecar.
func Open(ctl backing.Dir, volume envelope.VolumeID) (*Sidecar, error) {
	keys, err := ctl.OpenDir(keysName)
	if err != nil {
		return nil, fmt.Errorf(".kmsfs/%s: %w", keysName, err)
	}
	return &Sidecar{ctl: ctl, keys: keys, volume: volume, open: map[uint64]*table{}}, nil
}

// Close lets go of everything. No other call may be under way.
func (s *Sidecar) Close() {
	for id, tb := range s.open {
		tb.f.Close()
		delete(s.open, id)
	}
	if s.lockFile != nil {
		s.lockFile.Close()
	}
	if s.keys != nil {
		s.keys.Close()
	}
}

// Empty is Open where there is no directory of key tables, for a reader: it has no records.
func Empty(ctl backing.Dir, volume envelope.VolumeID) *Sidecar {
	return &Sidecar{ctl: ctl, volume: volume, open: map[uint64]*table{}}
}

// Tables returns the ids of the key tables, ascending. Other names in the directory mean nothing.
func (s *Sidecar) Tables() ([]uint64, error) {
	var ids []uint64
	if s.keys == nil {
		return nil, nil
	}
	err := s.keys.ReadDir(func(e backing.Entry) bool {
		if id, ok := envelope.ParseTableName(e.Name); ok {
			ids = append(ids, id)
		}
		return true
	})
	slices.Sort(ids)
	return ids, err
}

// noRecord is err, or an ErrNoRecord of a table.
func noRecord(id uint64, err error) error {
	return fmt.Errorf("%w: key table %s: %w", ErrNoRecord, envelope.TableName(id), err)
}

// header reads the header of table id from f.
func (s *Sidecar) header(f backing.File, id uint64) (envelope.TableHeader, error) {
	b := make([]byte, envelope.MaxSlotSize)
	n, err := f.ReadAt(b, 0)
	if err != nil {
		return envelope.TableHeader{}, err
	}
	h, err := envelope.ParseTableHeader(b[:n])
	if err == nil && (h.ID != id || h.Volume != s.volume) {
		err = fmt.Errorf("%w: it is another vault's table or another table's copy", envelope.ErrCorrupt)
	}
	if err != nil {
		return envelope.TableHeader{}, noRecord(id, err)
	}
	return h, nil
}

// openTable opens table id by its name.
func (s *Sidecar) openTable(id uint64, flags int) (backing.File, envelope.TableHeader, error) {
	var f backing.File
	err := error(syscall.ENOENT)
	if s.keys != nil {
		f, err = s.keys.Open(envelope.TableName(id), flags, 0)
	}
	if err != nil {
		if errors.Is(err, syscall.ENOENT) {
			err = fmt.Errorf("%w: key table %s is missing from .kmsfs/keys", ErrNoRecord, envelope.TableName(id))
		} else if backing.OtherKind(err) {
			err = noRecord(id, err)
		}
		return nil, envelope.TableHeader{}, err
	}
	h, err := s.header(f, id)
	if err != nil {
		f.Close()
		return nil, envelope.TableHeader{}, err
	}
	return f, h, nil
}
