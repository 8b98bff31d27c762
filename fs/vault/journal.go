package vault

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// A journal file holds this much before the other one is begun, and what is in it is put in place.
const segmentMost = 32 << 20

// prepareBy is how far ahead a journal file is filled with zeros: a sync that changes neither its size nor its extents
// costs the disk one write, not a transaction of the file system.
const prepareBy = 1 << 20

// journalNames are the two files of the journal; heldPrefix begins the name of one that waits for a key.
const (
	journalDirName = "journal"
	journalAside   = "new" // one that is being written to take the place of another
	heldPrefix     = "held."
)

func journalNames() [2]string { return [2]string{"0", "1"} }

// journal holds what replaces durable ciphertext until it is durable itself (FORMAT.md, Journal). A chunk that is written
// over goes into it and into memory, and stands as before in its file; fsync(2) then syncs the journal alone. A while
// later, at segmentMost, or where an operation needs the file as it is to be, the journal is made durable and the chunks
// are put in place: whatever the machine's death leaves of that, the journal mends.
//
// Only exclusive mounts have one, where it can be made: see [file.logs].
//
// Lock order: running, file.mu, syncing, mu. Nothing waits for room while it holds a file: room is reserved before.
type journal struct {
	v *Vault

	running sync.Mutex // held while a segment is retired
	syncing sync.Mutex // held while a journal file is synced

	mu     sync.Mutex
	cond   *sync.Cond // something was reserved, given back or retired
	dir    backing.Dir
	segs   [2]*segment
	active *segment // nil: none is begun
	epoch  uint64
	seq    uint64
	failed error  // why the last retirement failed
	tries  uint64 // counts retirements, done or failed
	off    bool   // no journal: shared, read-only
	ended  bool   // the vault is being closed
	shut   bool   // nothing is begun: what was found is not in place yet, or the vault is being closed
	buf    []byte
	wake   chan struct{}
	stop   chan struct{}
}

// segment is one file of the journal. journal.mu guards it.
type segment struct {
	f        backing.File
	epoch    uint64
	pos      int64  // where the next record goes
	tail     []byte // what stands before it in its page
	prepared int64  // what is written, if with zeros
	durable  int64  // what is synced
	reserved int64  // promised to writers
	writers  int    // that hold a promise
	files    map[*file]struct{}
	used     bool   // from its beginning to the end of its retirement
	inPlace  bool   // all that stands in it is durable in its place: it is only to be made void
	lost     uint64 // Vault.losses when it was begun
	bad      error  // a sync has failed: see rewrite
}

// logged is the place of a record.
type logged struct {
	s     *segment
	epoch uint64
	end   int64
}

// start begins the work of a journal for v.
func (j *journal) start(v *Vault, every time.Duration) {
	j.v = v
	j.cond = sync.NewCond(&j.mu)
	j.segs = [2]*segment{{}, {}}
	j.wake = make(chan struct{}, 1)
	j.stop = make(chan struct{})
	j.off, j.shut = v.shared || v.readOnly, true
	if j.off {
		return
	}
	v.wg.Add(1)
	go func() {
		defer v.wg.Done()
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				j.logFailure(v.guarded(func() error { return j.checkpoint(evenActive) }))
			case <-j.wake:
				j.logFailure(v.guarded(func() error { return j.checkpoint(fullOnly) }))
			case <-j.stop:
				return
			}
		}
	}()
}

func (j *journal) logFailure(err error) {
	if err != nil {
		j.v.log.Error("the journal cannot be put in place; it will be tried again", "err", err)
	}
}

// admit lets files be begun, once what was found is in place.
func (j *journal) admit() {
	j.mu.Lock()
	j.shut = false
	j.mu.Unlock()
}

// follow makes the epochs to come later than those of the files that were found.
func (j *journal) follow(found []journalFile) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, x := range found {
		j.epoch = max(j.epoch, x.epoch)
	}
}

// room is a promise of space in a segment: whoever holds it may add records. s is nil where there is no journal.
type room struct {
	j    *journal
	s    *segment
	need int64
}

// roomFor is what writing n bytes may add to the journal.
func (j *journal) roomFor(n int) int64 {
	c := int(j.v.geo.ChunkSize())
	chunk := envelope.JournalRecord{Kind: envelope.JournalChunk, Data: make([]byte, 0)}
	per := chunk.Size() + c + envelope.SectorSize
	return int64(n/c+3)*int64(per) + 3*envelope.BlockSize + envelope.JournalRecordMax/8
}

// reserve promises room for need bytes of records; ok is false where there is none before something is put in place. Where
// no journal file can be had (a full disk), the room has no segment, and the caller writes in the slow and careful way.
func (j *journal) reserve(need int64) (r room, ok bool) {
	r = room{j: j, need: need}
	if j.off {
		return r, true
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.shut || j.distrusted() {
		return r, false
	}
	if !j.takes(j.active, need) {
		free := j.free()
		if free == nil {
			return r, false
		}
		if err := j.begin(free); err != nil {
			j.v.log.Warn("no journal: what is written over is synced at once", "err", err)
			return r, true
		}
		if j.active != nil {
			j.hurry()
		}
		j.active = free
	}
	j.active.reserved += need
	j.active.writers++
	r.s = j.active
	return r, true
}

// filesFactor is of how many files a journal file may hold something, in the number that may be open otherwise: they stay open.
const filesFactor = 4

// takes says whether need more bytes may go into s. One that is empty takes anything. j.mu is held.
func (j *journal) takes(s *segment, need int64) bool {
	switch {
	case s == nil || s.bad != nil:
		return false
	case s.pos+s.reserved == envelope.JournalHeaderSize:
		return true
	}
	return s.pos+s.reserved+need <= segmentMost && len(s.files)+s.writers < filesFactor*j.v.files.max
}

// free returns a segment that can be begun, nil where both are in use. j.mu is held.
func (j *journal) free() *segment {
	for _, s := range j.segs {
		if !s.used {
			return s
		}
	}
	return nil
}

// distrusted says whether a sync has failed of what is not in place yet: nothing is added that would depend on it. j.mu is held.
func (j *journal) distrusted() bool {
	for _, s := range j.segs {
		if s.used && s.bad != nil {
			return true
		}
	}
	return false
}

// wait returns when there may be room, or when another attempt to make some has failed. No lock is held.
func (j *journal) wait(need int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for begun := j.tries; j.distrusted() || !j.takes(j.active, need) && j.free() == nil; {
		if j.tries != begun && j.failed != nil {
			return j.failed
		}
		j.hurry()
		j.cond.Wait()
	}
	return nil
}

// giveBack ends the promise, and returns a room without a segment.
func (r room) giveBack() room {
	if r.s == nil {
		return r
	}
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	r.s.reserved -= r.need
	if r.s.writers--; r.s.writers == 0 {
		r.j.cond.Broadcast()
	}
	return room{j: r.j}
}

func (j *journal) hurry() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// begin makes s an empty journal of a new epoch. The file's name is durable before anything depends on it. j.mu is held.
func (j *journal) begin(s *segment) error {
	if s.f == nil || s.bad != nil {
		if err := j.open(s); err != nil {
			return err
		}
	}
	b := j.v.keys.MarshalJournalHeader(envelope.JournalHeader{Epoch: j.epoch + 1, Volume: j.v.cfg.Volume})
	if _, err := s.f.WriteAt(append(b[:], make([]byte, envelope.BlockSize-len(b))...), 0); err != nil {
		return err
	}
	s.tail = append(s.tail[:0], b[:]...)
	j.epoch++
	s.epoch, s.pos, s.durable, s.used, s.lost = j.epoch, envelope.JournalHeaderSize, 0, true, j.v.losses()
	s.prepared = max(s.prepared, s.pos)
	s.files = map[*file]struct{}{}
	return nil
}

// nameOf returns the name of the file of s.
func (j *journal) nameOf(s *segment) string {
	if s == j.segs[1] {
		return journalNames()[1]
	}
	return journalNames()[0]
}

// open makes the file of s anew. j.mu is held.
func (j *journal) open(s *segment) error {
	if j.dir == nil {
		d, err := openMade(j.v.ctlDir, journalDirName)
		if err != nil {
			return err
		}
		j.dir = d
	}
	name := j.nameOf(s)
	if s.f != nil {
		s.f.Close()
		s.f = nil
	}
	if err := j.dir.Unlink(name); err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	f, err := j.dir.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := j.dir.Sync(); err != nil {
		f.Close()
		return err
	}
	s.f, s.bad, s.prepared, s.durable = f, nil, 0, 0
	return nil
}

// openMade opens a directory, making it, durably, where there is none.
func openMade(in backing.Dir, name string) (backing.Dir, error) {
	d, err := in.OpenDir(name)
	if !errors.Is(err, syscall.ENOENT) {
		return d, err
	}
	if err := in.Mkdir(name, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, err
	}
	if err := in.Sync(); err != nil {
		return nil, err
	}
	return in.OpenDir(name)
}

// add appends records of f, in this order and at once, within the room that f has. f.mu is held for writing.
func (j *journal) add(f *file, rr ...envelope.JournalRecord) error {
	s := f.room.s
	j.mu.Lock()
	_, known := s.files[f]
	j.mu.Unlock()
	if !known { // f.mu is held: nobody else adds it
		if !j.has(f) {
			f.moves = j.v.moves.Load()
		}
		if place := j.v.placeOf(f.n); place != nil {
			rr = append([]envelope.JournalRecord{{Kind: envelope.JournalPlace, ID: f.id, Place: place}}, rr...)
		}
		f.hold()
	}
	err := bug.Err
	defer func() {
		if err != nil && !known {
			f.release()
		}
	}()
	err = j.addLocked(f, s, rr)
	return err
}

// addLocked is add under j.mu.
func (j *journal) addLocked(f *file, s *segment, rr []envelope.JournalRecord) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.write(s, rr); err != nil {
		return err
	}
	s.files[f] = struct{}{}
	f.logged = logged{s: s, epoch: s.epoch, end: s.pos}
	return nil
}

// void adds, behind the record at l, one that makes those of id before it void; l is empty where that one is gone.
func (j *journal) void(l logged, id envelope.FileID) (logged, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !l.s.used || l.s.epoch != l.epoch {
		return logged{}, nil
	}
	err := j.write(l.s, []envelope.JournalRecord{{Kind: envelope.JournalForget, ID: id}})
	return logged{s: l.s, epoch: l.epoch, end: l.s.pos}, err
}

// lost notes that f has lost its last name, so that nobody looks for it but where it was: the deletion may not be durable when the
// note is. Where names have changed since its first record, but by the caller's moves, that would not find it. It is a hint, and
// durable when it happens to be.
func (j *journal) lost(f *file, moves uint64) {
	if j.off || f.moves+moves != j.v.moves.Load() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segs {
		if _, in := s.files[f]; in && j.active != nil {
			j.write(j.active, []envelope.JournalRecord{{Kind: envelope.JournalPlace, ID: f.id}})
			return
		}
	}
}

// write appends records to s, in whole pages: a part of one would be read first where it is no longer in memory. j.mu is
// held.
func (j *journal) write(s *segment, rr []envelope.JournalRecord) error {
	if s.bad != nil {
		return s.bad
	}
	size := 0
	for i := range rr {
		size += rr[i].Size()
	}
	from := s.pos - int64(len(s.tail))
	end := s.pos + int64(size)
	length := int(roundPage(end) - from)
	if cap(j.buf) < length {
		j.buf = make([]byte, length)
	}
	b := j.buf[:length]
	clear(b[copy(b, s.tail)+size:])
	seq := j.seq
	for i, at := 0, len(s.tail); i < len(rr); i++ {
		seq++
		rr[i].Seq = seq
		n := rr[i].Size()
		j.v.keys.MarshalJournalRecord(b[at:at+n], s.epoch, from+int64(at), &rr[i])
		at += n
	}
	if _, err := s.f.WriteAt(b, from); err != nil {
		j.seq += 1 << 32 // what got there of these must not be taken for what follows the next record
		return fmt.Errorf("journal: %w", err)
	}
	page := end &^ (envelope.BlockSize - 1)
	s.tail = append(s.tail[:0], b[page-from:end-from]...)
	j.seq, s.pos = seq, end
	if end > s.prepared && s.durable > 0 && end-s.durable < prepareBy/4 { // it is synced often
		from, to := roundPage(end), (end+prepareBy)/prepareBy*prepareBy
		if _, err := s.f.WriteAt(make([]byte, to-from), from); err == nil { // only speed depends on it
			s.prepared = to
		}
	}
	return nil
}

func roundPage(n int64) int64 { return (n + envelope.BlockSize - 1) &^ (envelope.BlockSize - 1) }

// sync makes what stands before l.end durable, and the other file as far as it is older; where a sync of that one has failed,
// only if it has something of f (nil: of any file).
func (j *journal) sync(l logged, f *file) error {
	if l.s == nil {
		return nil
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	for _, s := range j.segs {
		j.mu.Lock()
		if !s.used || s.inPlace || l.s.epoch != l.epoch || s.epoch > l.epoch {
			j.mu.Unlock()
			continue
		}
		bf, epoch, to, end, bad := s.f, s.epoch, s.pos, s.pos, s.bad
		_, has := s.files[f]
		if s == l.s {
			end = l.end
		}
		done := s.durable >= end
		j.mu.Unlock()
		if done || bad != nil && s != l.s && f != nil && !has {
			continue
		}
		if bad == nil {
			bad = bf.DataSync()
		}
		j.mu.Lock()
		switch {
		case s.epoch != epoch || s.f != bf: // begun anew meanwhile
		case bad != nil:
			s.bad = bad
			j.hurry()
		default:
			s.durable = max(s.durable, to)
		}
		j.mu.Unlock()
		if bad != nil {
			return fmt.Errorf("journal: %w", bad)
		}
	}
	return nil
}

// which says what checkpoint puts in place.
type which uint8

const (
	fullOnly   which = iota // files of the journal that are full
	evenActive              // the one that is being written, too
)

// checkpoint puts what stands in the journal in place.
func (j *journal) checkpoint(w which) error {
	if j.off {
		return nil
	}
	j.running.Lock()
	defer j.running.Unlock()
	if j.closed() { // what is left is for the next mount
		return nil
	}
	var errs []error
	if err := j.rewriteBad(); err != nil {
		errs = append(errs, err)
	}
	for range j.segs {
		if len(errs) > 0 {
			break
		}
		j.mu.Lock()
		if w == evenActive && j.active != nil && j.active.pos > envelope.JournalHeaderSize && j.free() != nil {
			j.active = nil // what comes next begins the other one
		}
		var s *segment
		for _, o := range j.segs {
			if o.used && o != j.active && (s == nil || o.epoch < s.epoch) {
				s = o
			}
		}
		j.mu.Unlock()
		if s == nil {
			break
		}
		if err := j.retire(s); err != nil {
			errs = append(errs, err)
		}
	}
	err := errors.Join(errs...)
	j.mu.Lock()
	j.failed = err
	j.tries++
	j.cond.Broadcast()
	j.mu.Unlock()
	return err
}

// makeDurable is sync for all files, once more where it fails. j.running is held, and no lock of a file.
func (j *journal) makeDurable(l logged) error {
	if j.sync(l, nil) == nil {
		return nil
	}
	return j.rewriteBad()
}

// rewriteBad writes once more the files of the journal of which a sync has failed, the newest first: what it has of a chunk is
// later than what the other has. j.running is held, and no lock of a file.
func (j *journal) rewriteBad() error {
	for {
		j.mu.Lock()
		var s *segment
		for _, o := range j.segs {
			if o.used && o.bad != nil && (s == nil || o.epoch > s.epoch) {
				s = o
			}
		}
		if s != nil && s == j.active {
			j.active = nil // nothing more goes into it
		}
		j.mu.Unlock()
		if s == nil {
			return nil
		}
		if err := j.rewrite(s); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
}

// rewrite has another file take the place of that of s, of which a sync has failed: the kernel takes what it could not write for
// written. It has what was known durable, and of the rest what still pends. Nothing of s is put in place before: a version that
// was synced may stand in the journal alone, and would be lost with what was torn.
func (j *journal) rewrite(s *segment) error {
	j.mu.Lock()
	for s.writers > 0 {
		j.cond.Wait()
	}
	old, epoch, durable, dir, name := s.f, s.epoch, s.durable, j.dir, j.nameOf(s)
	files := slices.Collect(maps.Keys(s.files))
	j.mu.Unlock()
	if dir == nil || old == nil {
		return errJournalClosed
	}
	b := j.v.journalHeader(epoch)
	if durable > 0 {
		b = make([]byte, durable)
		if _, err := old.ReadAt(b, 0); err != nil {
			return err
		}
		if got, end, err := j.v.parseJournal(b); err != nil || got.epoch != epoch || end != durable {
			return fmt.Errorf("%w: what was durable of it cannot be read", ErrCorrupt)
		}
	}
	for _, f := range files {
		rr := f.undurable(s, durable)
		if place := j.v.placeOf(f.n); place != nil && len(rr) > 0 {
			rr = append(rr, envelope.JournalRecord{Kind: envelope.JournalPlace, ID: rr[0].ID, Place: place})
		}
		for i := range rr {
			j.mu.Lock()
			j.seq++
			rr[i].Seq = j.seq
			j.mu.Unlock()
		}
		b = j.v.appendRecords(b, epoch, rr)
	}
	if err := writeAside(dir, journalAside, name, b); err != nil {
		return err
	}
	f, err := dir.Open(name, syscall.O_RDWR, 0)
	if err != nil {
		return err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.f, s.bad, s.pos = f, nil, int64(len(b))
	s.durable, s.prepared = s.pos, s.pos
	s.tail = append(s.tail[:0], b[s.pos&^(envelope.BlockSize-1):]...)
	j.cond.Broadcast()
	old.Close()
	return nil
}

// retire puts in place what stands in s and frees it. j.running is held, and no lock of a file.
func (j *journal) retire(s *segment) error {
	j.mu.Lock()
	for s.writers > 0 {
		j.cond.Wait()
	}
	l := logged{s: s, epoch: s.epoch, end: s.pos}
	files := slices.Collect(maps.Keys(s.files))
	j.mu.Unlock()
	lost := j.v.losses()
	if err := j.makeDurable(l); err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if err := f.putInPlace(s); err != nil {
			errs = append(errs, f.n.fail("write back", err))
		}
	}
	const few = 16
	together := len(files) > few
	each := !together || lost != s.lost // another was told of what was lost, or nobody of whose
	if together {
		if err := j.v.syncFS(lost); err != nil {
			errs = append(errs, err)
		}
	}
	for _, f := range files {
		err := errors.Join(errs...)
		if each || lossy(f.handle()) {
			if err = f.syncAgain(); err != nil {
				errs = append(errs, f.n.fail("write back", err))
			}
		}
		f.mu.Lock()
		all := f.arrived(s, err == nil)
		f.mu.Unlock()
		if !all && err == nil { // it could not be put in place, or a sync in between has failed
			errs = append(errs, f.n.fail("write back", errNotInPlace))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// What was written over once more stands in the other file alone.
	j.mu.Lock()
	s.inPlace = true
	newer := logged{}
	for _, o := range j.segs {
		if o != s && o.used && o.epoch > s.epoch {
			newer = logged{s: o, epoch: o.epoch, end: o.pos}
		}
	}
	j.mu.Unlock()
	if err := j.makeDurable(newer); err != nil {
		return err
	}
	if err := j.empty(s); err != nil {
		return err
	}
	j.mu.Lock()
	s.used, s.inPlace, s.files = false, false, nil
	j.cond.Broadcast()
	j.mu.Unlock()
	for _, f := range files {
		f.completed()
		f.release()
	}
	return nil
}

// has says whether records of f stand in the journal.
func (j *journal) has(f *file) bool {
	if j.off {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segs {
		if _, in := s.files[f]; in {
			return true
		}
	}
	return false
}

var errNotInPlace = errors.New("not in place yet")

// empty makes what stands in s void, durably: what is in place may change from now on, holes may come to be where it
// has chunks.
func (j *journal) empty(s *segment) error {
	j.mu.Lock()
	f, bad, dir := s.f, s.bad, j.dir
	name := j.nameOf(s)
	j.mu.Unlock()
	if dir == nil || f == nil {
		return errJournalClosed
	}
	if bad != nil { // begin makes it anew
		if err := dir.Unlink(name); err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
		return dir.Sync()
	}
	if _, err := f.WriteAt(make([]byte, envelope.BlockSize), 0); err != nil {
		return err
	}
	return f.DataSync()
}

func (j *journal) closed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended
}

var errJournalClosed = errors.New("the journal is closed")

// close puts everything in place and removes the journal. What cannot be put in place stays in it for the next mount.
func (j *journal) close() error {
	if j.off {
		return nil
	}
	close(j.stop)
	err := j.checkpoint(evenActive)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shut, j.ended = true, true
	for _, s := range j.segs {
		if s.f != nil {
			s.f.Close()
			s.f, s.bad = nil, errJournalClosed // what is left in it is for the next mount
		}
	}
	if j.dir == nil {
		return err
	}
	if err == nil {
		for _, name := range journalNames() {
			if e := j.dir.Unlink(name); e != nil && !errors.Is(e, syscall.ENOENT) {
				err = errors.Join(err, e)
			}
		}
		err = errors.Join(err, j.dir.Sync())
	}
	j.dir.Close()
	j.dir = nil
	return err
}

// placeOf returns the stored names that lead to n, nil where it has none.
func (v *Vault) placeOf(n *Node) []string {
	const deep = 256
	var names []string
	for n != v.root {
		dir, entry, ok := n.loc()
		if !ok || len(names) == deep {
			return nil
		}
		names = append(names, entry)
		n = dir
	}
	for i, k := 0, len(names)-1; i < k; i, k = i+1, k-1 {
		names[i], names[k] = names[k], names[i]
	}
	return names
}
