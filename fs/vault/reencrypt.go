package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
)

// ReencryptOptions say which files get a new data key. The zero value is all.
type ReencryptOptions struct {
	// Before: keys made at that time or later stay; zero: none does.
	Before time.Time
	// From says whether a file with this record is to be reencrypted; nil: all are.
	From func(*envelope.Record) bool
	// DryRun changes nothing.
	DryRun bool
	// Progress is called with bytes of plaintext that have got their new key, by the goroutine of the caller; nil: nobody
	// is told.
	Progress func(bytes int64)
}

// Reencrypted is what came of one file.
type Reencrypted struct {
	Done  bool  // it has, or with DryRun would get, a new key; else it has none, or one that stays
	Bytes int64 // of plaintext
	Err   error
}

// ErrUnfinished: a file is not wholly under its new key. It is read and written as before, and the next Reencrypt goes on.
var ErrUnfinished = errors.New("vault: reencryption not finished")

// renewals appends the records of keys that files are to get in place of others.
type renewals struct {
	mu    sync.Mutex
	table *sidecar.Writer
}

// writes tells whether it appends to key table id.
func (r *renewals) writes(id uint64) bool { return r.table.Table() == id }

// renewal is a file on its way to its new key.
type renewal struct {
	f      *file
	new    bound     // its new key; none where it had been begun before
	old    *previous // the one that it has
	record *envelope.Record
	failed uint64 // syncs of the file that had failed when it began
	went   bool   // all of it is under the new key, perhaps not durably
	// again: it had been begun before. What opens under the new key may be in memory alone, after a sync that failed, here or in
	// another process: all is sealed and written anew.
	again bool
	dry   bool
	atime backing.Timespec // before its header was read
	out   *Reencrypted
}

// Reencrypt gives files new data keys, in place: all that is stored of them is sealed anew, chunk by chunk, while they are
// read and written as before. What it returned without an error for is durable, and the old record will be erased with the
// next work of the keeper. It goes on with what an earlier call, also of another process, has left. An error, a kill or a
// power cut at any moment leaves files that read as before. See FORMAT.md, "Reencryption".
//
// Files are done one after the other, but their records are made durable and rewritten together. Safe for concurrent use.
func (v *Vault) Reencrypt(ctx context.Context, nodes []*Node, o ReencryptOptions) []Reencrypted {
	out := make([]Reencrypted, len(nodes))
	if v.readOnly && !o.DryRun {
		for i := range out {
			out[i].Err = ErrReadOnly
		}
		return out
	}
	var work []*renewal
	for i, n := range nodes {
		w, err := v.chosen(ctx, n, o)
		if out[i].Err = err; w == nil {
			continue
		}
		defer w.leave()
		w.out = &out[i]
		out[i].Bytes = w.f.plainSize()
		if out[i].Done = o.DryRun; !o.DryRun {
			work = append(work, w)
		}
	}
	work = v.makeKeys(ctx, work)
	for _, w := range work {
		if err := w.renew(ctx, o); err != nil {
			w.out.Err = w.f.n.fail("reencrypt", err)
		}
	}
	v.finish(work)
	return out
}

// chosen returns the file of n, in use, if it is to get a new key.
func (v *Vault) chosen(ctx context.Context, n *Node, o ReencryptOptions) (w *renewal, err error) {
	f, err := v.acquire(n)
	if err != nil {
		return nil, err
	}
	defer func() {
		if w == nil {
			f.release()
		}
	}()
	st, err := f.handle().Stat()
	if err != nil {
		return nil, n.fail("reencrypt", err)
	}
	if err := f.unlock(ctx); err != nil {
		return nil, err
	}
	f.mu.RLock()
	form, key, loc, id, prev := f.form, f.key, f.keyLoc, f.id, f.prev
	f.mu.RUnlock()
	if key == nil || form == formEmpty && prev == nil {
		return nil, nil
	}
	if prev == nil {
		r, err := v.record(loc, id)
		if err != nil {
			if f.overtaken(id, loc) {
				return nil, nil
			}
			return nil, n.fail("reencrypt", err)
		}
		if !o.Before.IsZero() && r.Created > v.now().Add(time.Minute).UnixNano() {
			return nil, n.fail("reencrypt", fmt.Errorf("%w: its key was made at %s, which is to come: no clock tells whether it has been renewed",
				ErrUnfinished, time.Unix(0, r.Created).UTC().Format(time.RFC3339)))
		}
		if !o.Before.IsZero() && r.Created >= o.Before.UnixNano() || o.From != nil && !o.From(r) {
			return nil, nil
		}
	}
	if !o.DryRun {
		if err := f.upgrade(); err != nil {
			return nil, n.fail("reencrypt", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keyLoc != loc || f.renewing && !o.DryRun { // somebody else is at it, under another name perhaps, and will tell
		return nil, nil
	}
	if !o.DryRun {
		f.renewing = true
	}
	w = &renewal{f: f, dry: o.DryRun, atime: st.Atim}
	if prev == nil {
		w.old = &previous{key, loc}
	}
	return w, nil
}

// leave ends what chosen began.
func (w *renewal) leave() {
	w.f.mu.Lock()
	if !w.dry {
		w.f.renewing = false
		if st, err := w.f.bf.Stat(); err == nil && st.Atim != w.atime {
			w.f.bf.Utimes(w.atime, backing.Timespec{Nsec: backing.UtimeOmit}) // a failure harms nothing
		}
		w.f.shut() // where the key was refused meanwhile
	}
	w.f.mu.Unlock()
	w.f.release()
}

func (f *file) plainSize() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.size
}

// makeKeys has a key made for each file that has not got one yet, and their records made durable, with one sync. It returns
// the files that can go on.
func (v *Vault) makeKeys(ctx context.Context, work []*renewal) []*renewal {
	const calls = 16
	var wg sync.WaitGroup
	slots := make(chan struct{}, calls)
	for _, w := range work {
		if w.old == nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			w.out.Err = w.f.n.fail("reencrypt", v.guarded(func() error { return w.makeKey(ctx) }))
		})
	}
	wg.Wait()
	var ready, fresh []*renewal
	var records []*envelope.Record
	for _, w := range work {
		if w.out.Err != nil {
			continue
		}
		ready = append(ready, w)
		if w.record != nil {
			fresh = append(fresh, w)
			records = append(records, w.record)
		}
	}
	if len(records) == 0 {
		return ready
	}
	v.renewals.mu.Lock()
	locs, err := v.renewals.table.Append(records)
	v.renewals.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("write key records: %w", err)
		for _, w := range fresh {
			w.new.key.Wipe()
			w.out.Err = w.f.n.fail("reencrypt", err)
		}
		return nil
	}
	for i, w := range fresh {
		w.new.loc = locs[i]
	}
	return ready
}

// makeKey makes w's key and record, with the previous key in it. The record stands nowhere yet.
func (w *renewal) makeKey(ctx context.Context) error {
	v := w.f.v
	ctx, cancel := context.WithTimeout(ctx, v.deadline)
	defer cancel()
	v.watch.look()
	zone, err := v.zoneOf(w.f.n)
	if err != nil {
		return err
	}
	m, err := v.newKeyOf(ctx, w.old.key.ID(), zone)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	var nonce [envelope.NonceSize]byte
	copy(nonce[:], nonces(1, nil))
	p, err := m.key.WrapPrevious(w.old.key, w.old.loc, &nonce)
	if err == nil && len(m.record.Wrappings) >= envelope.WrappingsMax {
		err = fmt.Errorf("%w: a key with %d wrappings has no room for the previous one", ErrNotSupported, envelope.WrappingsMax)
	}
	if err != nil {
		m.key.Wipe()
		return err
	}
	m.record.Wrappings = append(m.record.Wrappings, p)
	w.new, w.record = m.bound, m.record
	return nil
}

// errOvertaken: the file has other keys now: it was emptied, or is another's to finish.
var errOvertaken = errors.New("vault: it has got another key meanwhile")

// renew takes f to its new key. On an error it may be left between the two.
func (w *renewal) renew(ctx context.Context, o ReencryptOptions) error {
	f := w.f
	if w.old != nil {
		var began bool
		err := ctx.Err()
		if err == nil {
			began, err = w.begin(ctx)
		}
		if !began {
			f.v.keeper.erase(w.new.loc)
			w.new.key.Wipe()
		}
		if errors.Is(err, errOvertaken) {
			return w.overtaken()
		}
		if err != nil {
			return err
		}
		if w.went {
			if o.Progress != nil {
				o.Progress(w.out.Bytes)
			}
			return nil
		}
	} else {
		w.again = true
		f.mu.RLock()
		w.old, w.failed = f.prev, failures(f.bf)
		w.new.loc, w.new.key = f.loc, f.key
		f.mu.RUnlock()
		if w.old == nil { // somebody else has finished it
			return nil
		}
	}
	for next := uint64(0); ; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnfinished, err)
		}
		now, err := w.part(ctx, next, o)
		if errors.Is(err, errOvertaken) {
			return w.overtaken()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnfinished, err)
		}
		if now == allChunks {
			break
		}
		next = now
	}
	w.went = true
	return nil
}

// overtaken says what became of a file that has other keys now: it may be between two of them.
func (w *renewal) overtaken() error {
	w.f.mu.RLock()
	defer w.f.mu.RUnlock()
	if w.f.prev != nil {
		return ErrUnfinished
	}
	return nil
}

// enter is enterWrite for n bytes; a file that has become empty, for which that would bind a key, is errOvertaken.
func (w *renewal) enter(ctx context.Context, n int) error {
	f := w.f
	if err := f.unlock(ctx); err != nil {
		return err
	}
	f.mu.RLock()
	empty := f.opened && f.key == nil
	f.mu.RUnlock()
	if empty || f.isGone() {
		return errOvertaken
	}
	return f.enterWrite(ctx, n)
}

// begin has the header name the new key. began says that it may: the new record is not to be erased.
func (w *renewal) begin(ctx context.Context) (began bool, err error) {
	f := w.f
	if err := w.enter(ctx, 0); err != nil {
		return false, err
	}
	defer f.leaveWrite()
	if f.prev != nil || f.keyLoc != w.old.loc || f.key == nil || f.id != w.new.id {
		return false, errOvertaken
	}
	st, err := f.bf.Stat()
	if err == nil {
		err = f.bf.Utimes(st.Atim, st.Mtim) // who cannot put them back leaves the file alone
	}
	if err != nil {
		return false, err
	}
	err = f.keepingTimes(func() (err error) {
		switch f.form {
		case formInline:
			// One block, whole under either key. Where writing it fails, whichever of the two is there reads, and the
			// file goes on under the new key: each write of it is one of the whole block.
			w.failed = failures(f.bf)
			began = true
			f.key, f.keyLoc, f.loc, f.prev, f.sure = w.new.key, w.new.loc, w.new.loc, w.old, w.new.loc
			f.grant = f.v.granted() // the keysource has just made it
			err = f.writeInline(append([]byte(nil), f.inline...))
			w.went = err == nil
			return err
		case formGroups:
			began, err = w.turn()
			return err
		}
		return errOvertaken
	})
	return began, err
}

// turn writes sector 0 of group 0, and it alone, with the locator of the new record under the new key, and makes that
// durable before anything else is sealed under it: a power cut that kept the old header and a later sector would leave what
// no key that is named opens. Nothing is pending then: what is in the journal under the old key has been put in place, and
// its records are followed, if ever, by the entries that they name, with both keys at hand.
func (w *renewal) turn() (began bool, err error) {
	f := w.f
	if err := f.flush(); err != nil {
		return false, err
	}
	g, err := f.group(0)
	if err != nil {
		return false, err
	}
	if g.fresh {
		return false, errOvertaken // nothing is stored yet
	}
	if g.stale {
		if err := f.writeGroup(g); err != nil {
			return false, err
		}
	}
	if err := f.bf.DataSync(); err != nil { // an index block that is torn could not be put together again under two keys
		return false, err
	}
	blk := g.blk
	h := f.header()
	h.Loc = w.new.loc
	blk.SetHeader(&h)
	blk.SealSector(w.new.key, 0, 0)
	_, err = f.bf.WriteAt(blk[:envelope.SectorSize], 0)
	if err == nil {
		err = f.bf.DataSync()
	}
	if err != nil { // which header is there, or will be, nobody knows: either reads, and under the old one nothing new is begun
		_, e := f.bf.WriteAt(g.blk[:envelope.SectorSize], 0)
		if e == nil {
			e = f.bf.DataSync()
		}
		f.dropGroups()
		if e != nil { // the next use asks the disk
			f.headed, f.opened, f.held = false, false, true
		}
		return e != nil, err
	}
	f.key, f.keyLoc, f.loc, f.prev, f.sure = w.new.key, w.new.loc, w.new.loc, w.old, w.new.loc
	f.grant = f.v.granted() // the keysource has just made it
	f.dropGroups()
	w.failed = failures(f.bf)
	return true, nil
}

// allChunks is past the last chunk of any file.
const allChunks = ^uint64(0)

// part seals some chunks anew, from the given one on, and returns where to go on. The file is not held in between.
func (w *renewal) part(ctx context.Context, from uint64, o ReencryptOptions) (next uint64, err error) {
	f := w.f
	if err := w.enter(ctx, writeMost); err != nil {
		return 0, err
	}
	defer f.leaveWrite()
	if f.prev == nil || f.loc != w.new.loc || f.prev.loc != w.old.loc {
		return 0, errOvertaken
	}
	var bytes int64
	do := func() error {
		return f.keepingTimes(func() (err error) {
			next, bytes, err = f.renewFrom(from, w.again)
			return err
		})
	}
	err = do()
	if errors.Is(err, syscall.ENOSPC) && f.logs() { // what is written over needs no space in its place
		f.room = f.room.giveBack()
		if err = f.keepingTimes(f.flush); err == nil {
			err = do()
		}
	}
	if err == nil && o.Progress != nil {
		o.Progress(bytes)
	}
	return next, err
}

// renewFrom seals anew what is not under the new key from chunk from on, at most writeMost bytes or a group of it, and
// returns where to go on; again says that all is sealed anew. f.mu is held for writing.
func (f *file) renewFrom(from uint64, again bool) (next uint64, bytes int64, err error) {
	switch {
	case f.form == formInline && from == 0: // which of the two is in place is not known after a failure
		return allChunks, f.size, f.writeInline(append([]byte(nil), f.inline...))
	case f.form != formGroups:
		return allChunks, 0, nil
	}
	n, err := f.nextGroup(from / envelope.ChunksPerGroup)
	if err != nil {
		return 0, 0, err
	}
	from = max(from, n*envelope.ChunksPerGroup)
	if n >= 1<<62 || !f.inside(n) {
		return allChunks, 0, nil
	}
	g, err := f.group(n)
	if err != nil {
		return 0, 0, err
	}
	c := f.v.geo.ChunkSize()
	end := n*envelope.ChunksPerGroup + uint64(f.v.chunksIn(n, f.size))
	to := min(end, from+uint64(writeMost/c))
	if !g.fresh && from < to {
		if err := f.renewChunks(g, from, to, again); err != nil {
			return 0, 0, err
		}
	}
	if to < end {
		return to, min(int64(to)*c, f.size) - int64(from)*c, nil
	}
	// The rest of its sectors, which have holes and presence bits alone, and its header. Slots are as they are in place.
	if g, err = f.group(n); err == nil && (g.stale || again) && !g.fresh {
		err = f.writeGroup(g)
	}
	return (n + 1) * envelope.ChunksPerGroup, max(min(int64(to)*c, f.size)-int64(from)*c, 0), err
}

// renewChunks seals the chunks [from, to) of g anew that are not holes, nor under the new key already.
func (f *file) renewChunks(g *group, from, to uint64, again bool) error {
	c := f.v.geo.ChunkSize()
	buf := f.v.buffers.get(int(int64(to-from)*c) + envelope.TagSize)
	defer f.v.buffers.put(buf)
	plain := f.v.buffers.get(int(int64(to-from) * c))
	defer func() {
		clear(*plain)
		f.v.buffers.put(plain)
	}()
	raw := (*buf)[:int64(to-from)*c]
	got, err := f.bf.ReadAt(raw, f.v.geo.ChunkOffset(from))
	if err != nil {
		return err
	}
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	var run []bool // by chunk: it is to be sealed anew
	for chunk := from; chunk < to; chunk++ {
		at := int64(chunk-from) * c
		old, err := f.openOld(g, chunk, raw[min(at, int64(got)):min(at+c, int64(got))], (*plain)[at:at+c], s)
		if err != nil {
			return err
		}
		cur, _ := g.blk.Slot(int(chunk % envelope.ChunksPerGroup))
		run = append(run, old || again && !cur.IsZero() && f.pending[chunk] == nil)
	}
	for i := 0; i < len(run); i++ {
		k := i
		for k < len(run) && run[k] {
			k++
		}
		if k == i {
			continue
		}
		off := int64(from+uint64(i)) * c
		length := min(int64(k-i)*c, f.size-off)
		if err := f.writeGroups((*plain)[int64(i)*c:int64(i)*c+length], off); err != nil {
			return err
		}
		i = k
	}
	return nil
}

// openOld opens a chunk into dst, zeros behind it; old is false for one that is under the new key, and for a hole.
func (f *file) openOld(g *group, chunk uint64, stored, dst []byte, s *envelope.Scratch) (old bool, err error) {
	i := int(chunk % envelope.ChunksPerGroup)
	cur, _ := g.blk.Slot(i)
	if cur.IsZero() || f.pending[chunk] != nil { // what is pending was sealed since
		return false, nil
	}
	if int(cur.Length) <= len(stored) && g.key.OpenChunk(dst, stored[:cur.Length], cur, chunk, s) == nil {
		clear(dst[cur.Length:])
		return false, nil
	}
	n, which, err := f.openSlot(g, i, stored, dst, s)
	if err != nil || which == openedHole {
		return false, err
	}
	clear(dst[n:])
	return true, nil
}

// finish makes durable what went to its new key, writes the records without the previous ones, and gives up the old records.
func (v *Vault) finish(work []*renewal) {
	var ready []*renewal
	for _, w := range work {
		if w.went {
			ready = append(ready, w)
		}
	}
	if len(ready) == 0 {
		return
	}
	if err := v.journal.checkpoint(evenActive); err != nil {
		v.journal.logFailure(err) // files that it is about are seen to below
	}
	byTable := map[uint64][]*renewal{}
	for _, w := range ready {
		if err := w.settle(); err != nil {
			w.out.Err = w.f.n.fail("reencrypt", fmt.Errorf("%w: %w", ErrUnfinished, err))
			continue
		}
		byTable[w.new.loc.Table] = append(byTable[w.new.loc.Table], w)
	}
	for table, ww := range byTable {
		if err := v.forgetPrevious(table, ww); err != nil {
			for _, w := range ww {
				w.out.Err = w.f.n.fail("reencrypt", fmt.Errorf("%w: %w", ErrUnfinished, err))
			}
			continue
		}
		for _, w := range ww {
			w.end()
		}
	}
}

// settle makes durable what is under the new key, in its place.
func (w *renewal) settle() error {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.keepingTimes(f.flush); err != nil {
		return err
	}
	if f.pends() {
		return errNotInPlace
	}
	if err := f.bf.DataSync(); err != nil {
		return err
	}
	if failures(f.bf) != w.failed {
		w.failed = failures(f.bf)
		return errors.New("a sync failed meanwhile, and with it perhaps what was written before")
	}
	return nil
}

// forgetPrevious rewrites the records of ww, all in one table, without the previous keys.
func (v *Vault) forgetPrevious(table uint64, ww []*renewal) error {
	const tries = 5
	for range tries {
		var changes []sidecar.Change
		slots := map[uint32]bool{}
		for _, w := range ww {
			if slots[w.new.loc.Slot] {
				continue
			}
			slots[w.new.loc.Slot] = true
			r, err := v.record(w.new.loc, w.old.key.ID())
			if errors.Is(err, envelope.ErrErased) || err != nil && w.f.isGone() { // deleted meanwhile
				continue
			}
			if err != nil {
				return err
			}
			if _, ok := r.Previous(); !ok {
				continue
			}
			b, slotSize, err := v.sidecar.Slots(table, w.new.loc.Slot, 1)
			if err != nil {
				return err
			}
			seen := append([]byte(nil), b[:min(len(b), slotSize)]...)
			if r, err = envelope.ParseRecord(seen); errors.Is(err, envelope.ErrErased) {
				continue
			}
			if err != nil {
				return err
			}
			changes = append(changes, sidecar.Change{Slot: w.new.loc.Slot, Seen: seen, Record: r.WithoutPrevious()})
		}
		sortChanges(changes)
		left, err := v.sidecar.Replace(table, changes)
		if err != nil || len(left) == 0 {
			return err
		}
	}
	return errors.New("the record keeps changing")
}

// end takes the previous key out of memory and gives up its record. Its file is under the new one, durably, and its record
// says no more of it.
func (w *renewal) end() {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	w.out.Done = true
	f.v.keeper.erase(w.old.loc)                 // no record names it any more
	if f.prev == nil || f.keyLoc != w.new.loc { // emptied meanwhile, or to be read anew
		return
	}
	f.prev.key.Wipe()
	f.prev = nil
	f.gmu.Lock()
	for _, g := range f.groups {
		g.prev = nil
	}
	f.gmu.Unlock()
}

func sortChanges(cc []sidecar.Change) {
	slices.SortFunc(cc, func(a, b sidecar.Change) int { return cmp.Compare(a.Slot, b.Slot) })
}
