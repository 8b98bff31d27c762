package vault

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"kmsfs/fs/backing"
)

// noting is a stored file that notes what was written to it since it was last synced. Where a sync fails the kernel takes what
// it could not write for written, and the next sync finds nothing to do: what was written before is then read and
// written once more by the next sync, before it syncs.
type noting struct {
	backing.File
	written atomic.Uint64 // writes done
	synced  atomic.Uint64 // of those, known durable
	failed  atomic.Uint64 // syncs that failed
	shared  bool

	syncing sync.Mutex   // held by a sync: the kernel tells of a failure once, and who syncs beside would not hear of it
	writing sync.RWMutex // held for writing while what was lost is written once more, for reading by other writes

	mu    sync.Mutex
	dirty spans       // written since the last sync began
	lost  spans       // what a sync has failed for
	have  atomic.Bool // lost is not empty
}

// note wraps bf, new or found: what is found may hold writes of others that are not durable.
func note(bf backing.File, a age) backing.File {
	n := &noting{File: bf, shared: a == shared}
	n.written.Store(1)
	if a == found {
		n.dirty = spans{{0, foundMost}}
	}
	return n
}

// noteAgain wraps bf, which was opened beside was and takes its place, with what was knows.
func noteAgain(bf, was backing.File) backing.File {
	old := was.(*noting)
	old.syncing.Lock() // one under way may be told of a failure that bf is not told of
	defer old.syncing.Unlock()
	old.mu.Lock()
	defer old.mu.Unlock()
	n := &noting{File: bf, shared: old.shared, dirty: slices.Clone(old.dirty), lost: slices.Clone(old.lost)}
	n.written.Store(old.written.Load() + 1)
	n.failed.Store(old.failed.Load())
	n.have.Store(len(n.lost) > 0)
	return n
}

// age says where a stored file comes from.
type age uint8

const (
	found   age = iota // it was there
	created            // by us
	shared             // others may write to it, or only they: nothing is written again, which might be older than what they wrote
)

// age is a, or shared.
func (v *Vault) age(a age) age {
	if v.shared || v.readOnly {
		return shared
	}
	return a
}

// foundMost bounds what is written once more of a file that was not written to here.
const foundMost = 256 << 20

// WriteAt writes, as File.WriteAt. A write counts when it is done: before, nobody was told of it.
func (n *noting) WriteAt(p []byte, off int64) (int, error) {
	n.writing.RLock()
	defer n.writing.RUnlock()
	defer n.wrote(off, int64(len(p)))
	return n.File.WriteAt(p, off)
}

// WritevAt writes, as File.WritevAt.
func (n *noting) WritevAt(bufs [][]byte, off int64) (int, error) {
	n.writing.RLock()
	defer n.writing.RUnlock()
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	defer n.wrote(off, int64(size))
	return n.File.WritevAt(bufs, off)
}

// Truncate changes the size, as File.Truncate.
func (n *noting) Truncate(size int64) error {
	n.writing.RLock()
	defer n.writing.RUnlock()
	defer n.wrote(max(size-1, 0), 1) // of the last page what is past the end becomes zeros
	return n.File.Truncate(size)
}

// Allocate reserves or gives back space, as File.Allocate.
func (n *noting) Allocate(mode uint32, off, length int64) error {
	n.writing.RLock()
	defer n.writing.RUnlock()
	defer n.wrote(off, length)
	return n.File.Allocate(mode, off, length)
}

// DataSync makes the content durable, as File.DataSync.
func (n *noting) DataSync() error { return n.sync(syncsData) }

// Sync makes content and attributes durable, as File.Sync.
func (n *noting) Sync() error { return n.sync(syncsAll) }

type syncs uint8

const (
	syncsData syncs = iota
	syncsAll
)

func (n *noting) wrote(off, size int64) {
	n.mu.Lock()
	n.dirty = n.dirty.with(span{off, off + size})
	n.mu.Unlock()
	n.written.Add(1)
}

func (n *noting) sync(what syncs) error {
	want := n.written.Load()
	n.syncing.Lock()
	defer n.syncing.Unlock()
	if what == syncsData && n.synced.Load() >= want { // by the one before
		return nil
	}
	if n.have.Load() {
		if err := n.writeAgain(); err != nil {
			n.failed.Add(1)
			return err
		}
	}
	n.mu.Lock()
	taken, written := n.dirty, n.written.Load()
	n.dirty = nil
	n.mu.Unlock()
	call := n.File.DataSync
	if what == syncsAll {
		call = n.File.Sync
	}
	err := call()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		for _, s := range taken {
			if !n.shared {
				n.lost = n.lost.with(s)
			}
		}
		n.have.Store(len(n.lost) > 0)
		n.failed.Add(1)
		return err
	}
	n.lost = nil
	n.have.Store(false)
	n.synced.Store(written)
	return nil
}

// writeAgain writes what was lost as it reads now: in memory it may still be as it was written.
func (n *noting) writeAgain() error {
	n.writing.Lock()
	defer n.writing.Unlock()
	n.mu.Lock()
	lost := slices.Clone(n.lost)
	n.mu.Unlock()
	buf := make([]byte, writeMost)
	for _, s := range lost {
		for off := s.from; off < s.to; {
			data, err := n.File.Seek(off, SeekData)
			if errors.Is(err, syscall.ENXIO) || err == nil && data >= s.to {
				break
			}
			if err == nil {
				off = max(off, data)
			}
			got, err := n.File.ReadAt(buf[:min(int64(len(buf)), s.to-off)], off)
			if err != nil {
				return err
			}
			if got == 0 {
				break
			}
			if _, err := n.File.WriteAt(buf[:got], off); err != nil {
				return err
			}
			off += int64(got)
		}
	}
	return nil
}

// clean says whether a sync would find nothing of the content to do.
func clean(bf backing.File) bool {
	n, ok := bf.(*noting)
	return ok && n.synced.Load() == n.written.Load()
}

// failures returns how many syncs of bf have failed. The kernel tells of a failure once, whoever asks.
func failures(bf backing.File) uint64 {
	if n, ok := bf.(*noting); ok {
		return n.failed.Load()
	}
	return 0
}

// lossy says whether a sync of bf has failed and none has succeeded since.
func lossy(bf backing.File) bool {
	n, ok := bf.(*noting)
	return ok && n.have.Load()
}

// plainFile returns what note wrapped.
func plainFile(bf backing.File) backing.File {
	if n, ok := bf.(*noting); ok {
		return n.File
	}
	return bf
}

// span is a part of a file, in stored bytes.
type span struct{ from, to int64 }

// spans are parts of a file.
type spans []span

// spansMost is how many parts are told apart.
const spansMost = 256

// with returns ss and s. Neighbours are joined when there are too many.
func (ss spans) with(s span) spans {
	if k := len(ss) - 1; k >= 0 && s.from <= ss[k].to && s.to >= ss[k].from { // as sequential writes are
		ss[k] = span{min(ss[k].from, s.from), max(ss[k].to, s.to)}
		return ss
	}
	if len(ss) == spansMost {
		slices.SortFunc(ss, func(a, b span) int { return int(min(max(a.from-b.from, -1), 1)) })
		for i := range spansMost / 2 {
			a, b := ss[2*i], ss[2*i+1]
			ss[i] = span{a.from, max(a.to, b.to)}
		}
		ss = ss[:spansMost/2]
	}
	return append(ss, s)
}
