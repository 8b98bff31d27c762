package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// recovery is what a mount that died has left in the journal, by file, until it is put in place: at Open, or where the
// key could not be had then, when the file is opened.
type recovery struct {
	count atomic.Int32
	mu    sync.Mutex
	files map[envelope.FileID]*recovered
}

// recovered is what the journal has of one file, in order.
type recovered struct {
	records []envelope.JournalRecord
	places  [][]string
	lost    bool // it was deleted: it is at one of the places, or nowhere
}

// has says whether something of id is to be put in place.
func (r *recovery) has(id envelope.FileID) bool {
	if r.count.Load() == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[id] != nil
}

// take returns what there is of id, which is the caller's then.
func (r *recovery) take(id envelope.FileID) *recovered {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.files[id]
	if x != nil {
		delete(r.files, id)
		r.count.Add(-1)
	}
	return x
}

// put gives back what take gave.
func (r *recovery) put(id envelope.FileID, x *recovered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[id] = x
	r.count.Add(1)
}

// ids returns the files of which something is left.
func (r *recovery) ids() []envelope.FileID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []envelope.FileID
	for id := range r.files {
		ids = append(ids, id)
	}
	return ids
}

// startJournal puts in place what a mount that died left in the journal, and begins a new one.
func (v *Vault) startJournal(ctx context.Context, every time.Duration) error {
	v.journal.start(v, every)
	defer v.journal.admit()
	dir, err := v.ctlDir.OpenDir(journalDirName)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return planted(journalDirName, err)
	}
	defer dir.Close()
	if !v.shared && !v.readOnly {
		_ = dir.Unlink(journalAside) // where a crash has left one: it would be removed by the next that is written
	}
	found, err := v.readJournal(dir)
	if err != nil {
		return fmt.Errorf(".kmsfs/%s: %w", journalDirName, err)
	}
	v.journal.follow(found)
	v.recovery.gather(found)
	if v.recovery.count.Load() == 0 {
		if v.readOnly || v.shared {
			return nil
		}
		if err := v.shelve(dir, found); err != nil { // it is not to say for ever that there was a mount that died
			v.log.Warn("cannot remove a journal that holds nothing", "err", err)
		}
		return nil
	}
	alone, err := v.alone()
	if err != nil || !alone {
		v.recovery.files, v.recovery.count = nil, atomic.Int32{}
		return err
	}
	v.recoverAll(ctx)
	if v.readOnly {
		return nil
	}
	if err := v.shelve(dir, found); err != nil {
		return err
	}
	return v.shareAgain()
}

// alone makes sure that no other host works on the vault while its journal is put in place. A shared mount that finds
// another one there leaves the journal alone: that one has seen to it.
func (v *Vault) alone() (bool, error) {
	if !v.shared || v.readOnly {
		return true, nil
	}
	v.lock.Close()
	var err error
	if v.lock, err = v.ctlDir.Lock(lockName, backing.LockExclusive); err == nil {
		return true, nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return false, err
	}
	return false, v.takeLock()
}

// shareAgain ends alone.
func (v *Vault) shareAgain() error {
	if !v.shared {
		return nil
	}
	v.lock.Close()
	return v.takeLock()
}

// journalFile is what was read of one file of the journal.
type journalFile struct {
	name    string
	epoch   uint64
	records []envelope.JournalRecord
	size    int64 // bytes that the records hold on to
}

// journalsMost bounds what is read of all files of the journal together, which is in memory then: a mount leaves two, and holds
// back of each what it cannot put in place.
const journalsMost = 16 * 2 * segmentMost

// heldName is the name of the file for what is held back of the journal file of an epoch.
func heldName(epoch uint64) string { return fmt.Sprintf("%s%016x", heldPrefix, epoch) }

// readJournal reads all files of the journal, the oldest first. What does not verify ends a file: it was under way when
// the machine died.
func (v *Vault) readJournal(dir backing.Dir) ([]journalFile, error) {
	var found []journalFile
	var total int64
	var names []string
	if err := dir.ReadDir(func(e backing.Entry) bool {
		names = append(names, e.Name)
		return true
	}); err != nil {
		return nil, err
	}
	for _, name := range names {
		if name != journalNames()[0] && name != journalNames()[1] && !strings.HasPrefix(name, heldPrefix) {
			continue
		}
		v.unclean = true // a mount that ends cleanly leaves the directory alone
		j, err := v.readJournalFile(dir, name)
		if errors.Is(err, envelope.ErrCorrupt) {
			v.log.Info("a journal file holds nothing", "name", name, "err", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if strings.HasPrefix(name, heldPrefix) && name != heldName(j.epoch) {
			v.log.Warn("a journal file has the name of another one, and is left out", "name", name)
			continue
		}
		if total += j.size; total > journalsMost {
			return nil, fmt.Errorf("%w: all files together are larger than mounts leave them", ErrCorrupt)
		}
		found = append(found, j)
	}
	slices.SortFunc(found, func(a, b journalFile) int { return int(min(max(int64(a.epoch-b.epoch), -1), 1)) })
	return found, nil
}

func (v *Vault) readJournalFile(dir backing.Dir, name string) (journalFile, error) {
	j := journalFile{name: name}
	f, err := dir.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		return j, planted(name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return j, err
	}
	b := make([]byte, min(st.Size, 2*segmentMost))
	n, err := f.ReadAt(b, 0)
	if err != nil {
		return j, err
	}
	j, _, err = v.parseJournal(b[:n])
	j.name = name
	return j, err
}

// parseJournal reads a file of the journal, and returns where it ends: before what does not verify.
func (v *Vault) parseJournal(b []byte) (j journalFile, end int64, err error) {
	j.size = int64(len(b))
	if envelope.IsZero(b[:min(len(b), envelope.JournalHeaderSize)]) { // made void, or never begun
		return j, 0, nil
	}
	h, err := v.keys.ParseJournalHeader(b)
	if err != nil {
		return j, 0, err
	}
	if h.Volume != v.cfg.Volume {
		return j, 0, fmt.Errorf("%w: journal of another vault", envelope.ErrCorrupt)
	}
	j.epoch = h.Epoch
	seq := uint64(0)
	for end = envelope.JournalHeaderSize; end < int64(len(b)); {
		r, size, err := v.keys.ParseJournalRecord(b[end:], h.Epoch, end)
		if errors.Is(err, envelope.ErrUnsupported) {
			return j, end, err
		}
		if err != nil || r.Seq <= seq {
			break
		}
		j.records = append(j.records, r)
		seq = r.Seq
		end += int64(size)
	}
	return j, end, nil
}

// gather sorts records by file.
func (r *recovery) gather(found []journalFile) {
	r.files = map[envelope.FileID]*recovered{}
	for _, j := range found {
		for _, rec := range j.records {
			x := r.files[rec.ID]
			if x == nil {
				x = &recovered{}
				r.files[rec.ID] = x
			}
			switch rec.Kind {
			case envelope.JournalPlace:
				if x.lost = len(rec.Place) == 0; !x.lost {
					x.places = append(x.places, rec.Place)
				}
			case envelope.JournalForget:
				x.records = nil
			default:
				x.records = append(x.records, rec)
			}
		}
	}
	for id, x := range r.files {
		if len(x.records) == 0 {
			delete(r.files, id)
		}
	}
	r.count.Store(int32(len(r.files)))
}

// recoverAll puts in place what the journal has of files that can be found. What cannot be put in place now it leaves,
// and logs why.
func (v *Vault) recoverAll(ctx context.Context) {
	ids := v.recovery.ids()
	missing := map[envelope.FileID]bool{}
	sure := true // that what is not found is not there
	at := func(id envelope.FileID, place []string) (found, looked bool) {
		found, err := v.recoverAt(ctx, id, place)
		if err != nil {
			v.log.Warn("cannot look at a file that the journal may have changes of", "err", err)
			sure = false
		}
		return found, err == nil
	}
	gone := 0
	for _, id := range ids {
		v.recovery.mu.Lock()
		places, lost := v.recovery.files[id].places, v.recovery.files[id].lost
		v.recovery.mu.Unlock()
		found := false
		for i := len(places) - 1; i >= 0 && !found; i-- {
			var looked bool
			found, looked = at(id, places[i])
			lost = lost && looked
		}
		switch {
		case found:
		case lost:
			v.recovery.take(id)
			gone++
		default:
			missing[id] = true
		}
	}
	if len(missing) > 0 {
		v.log.Info("looking through the vault for files that the journal has changes of", "files", len(missing))
		if err := v.scan(v.top, nil, func(id envelope.FileID, place []string) {
			if !missing[id] {
				return
			}
			if found, _ := at(id, place); found {
				delete(missing, id)
			}
		}); err != nil {
			v.log.Warn("cannot look through all of the vault: the journal keeps what was not found", "err", err)
			sure = false
		}
	}
	for id := range missing {
		if sure { // deleted
			v.recovery.take(id)
			gone++
		}
	}
	kept := int(v.recovery.count.Load())
	v.log.Info("the journal was put in place", "files", len(ids)-gone-kept, "gone", gone, "kept", kept)
}

// recoverAt puts in place what the journal has of id, if that file is at place; found says that it is. An error leaves open
// whether it is.
func (v *Vault) recoverAt(ctx context.Context, id envelope.FileID, place []string) (found bool, err error) {
	n := v.root
	for _, entry := range place {
		next, _, err := v.LookupStored(n, entry)
		if n != v.root {
			v.Forget(n, 1)
		}
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n = next
	}
	if n == v.root {
		return false, nil
	}
	if !v.readOnly { // else it stays as it is in memory now
		defer v.Forget(n, 1)
	}
	if n.kind != sIFREG {
		return false, nil
	}
	f, err := v.acquire(n)
	if err != nil {
		return false, err
	}
	is, err := f.identify()
	if err != nil || is.form == formEmpty || is.id != id {
		f.release()
		if errors.Is(err, ErrCorrupt) { // the headers of files in the journal are whole
			err = nil
		}
		return false, err
	}
	if !v.readOnly {
		defer f.release()
		err = f.upgrade()
	}
	if err == nil {
		err = f.unlock(ctx)
	}
	if err != nil {
		v.log.Warn("the journal keeps changes of a file that cannot be opened", "err", n.fail("recover", err))
	}
	return true, nil
}

// scan calls use for each stored file below d that has a header. An error says that it could not look at everything.
func (v *Vault) scan(d backing.Dir, path []string, use func(id envelope.FileID, place []string)) error {
	var entries []backing.Entry
	var errs []error
	note := func(err error) {
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, err)
		}
	}
	note(d.ReadDir(func(e backing.Entry) bool {
		if !envelope.IsReserved(e.Name) {
			entries = append(entries, e)
		}
		return true
	}))
	for _, e := range entries {
		if e.Kind == 0 {
			st, err := d.StatAt(e.Name)
			note(err)
			e.Kind = st.Mode & sIFMT
		}
		at := append(slices.Clone(path), e.Name)
		switch e.Kind {
		case sIFDIR:
			sub, err := d.OpenDir(e.Name)
			if err != nil {
				note(err)
				continue
			}
			note(v.scan(sub, at, use))
			sub.Close()
		case sIFREG:
			f, _, err := d.OpenStat(e.Name, syscall.O_RDONLY, 0)
			if err != nil {
				note(err)
				continue
			}
			h, ok := readHeaderOf(f)
			f.Close()
			if ok {
				use(h.ID, at)
			}
		}
	}
	return errors.Join(errs...)
}

// shelve removes the files of the journal. Of one in which something could not be put in place that is kept in a file of
// its own, and nothing else: what is in place may change from now on.
func (v *Vault) shelve(dir backing.Dir, found []journalFile) error {
	for _, j := range found {
		had := len(j.records)
		j.records = slices.DeleteFunc(j.records, func(r envelope.JournalRecord) bool { return !v.recovery.has(r.ID) })
		name := heldName(j.epoch)
		if len(j.records) > 0 && (j.name != name || len(j.records) < had) {
			if err := v.holdBack(dir, name, j); err != nil {
				return err
			}
		}
		if len(j.records) > 0 && j.name == name {
			continue
		}
		if err := dir.Unlink(j.name); err != nil {
			return err
		}
	}
	return dir.Sync()
}

// DropHeld removes from the journal what Open has kept there of files that it could not put it in place in, and that have been opened
// since. No other call may be under way.
func (v *Vault) DropHeld() error {
	if v.readOnly {
		return nil
	}
	dir, err := v.ctlDir.OpenDir(journalDirName)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	found, err := v.readJournal(dir)
	if err != nil {
		return err
	}
	return v.shelve(dir, slices.DeleteFunc(found, func(j journalFile) bool { return !strings.HasPrefix(j.name, heldPrefix) }))
}

// holdBack writes the records of j, durably, to a journal file of that name and the same epoch.
func (v *Vault) holdBack(dir backing.Dir, name string, j journalFile) error {
	return writeAside(dir, journalAside, name, v.appendRecords(v.journalHeader(j.epoch), j.epoch, j.records))
}

// journalHeader is what a journal file of an epoch begins with.
func (v *Vault) journalHeader(epoch uint64) []byte {
	h := v.keys.MarshalJournalHeader(envelope.JournalHeader{Epoch: epoch, Volume: v.cfg.Volume})
	return h[:]
}

// appendRecords appends records to b, a journal file of an epoch.
func (v *Vault) appendRecords(b []byte, epoch uint64, rr []envelope.JournalRecord) []byte {
	for i := range rr {
		at := len(b)
		b = append(b, make([]byte, rr[i].Size())...)
		v.keys.MarshalJournalRecord(b[at:], epoch, int64(at), &rr[i])
	}
	return b
}
