package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// form is how a file stands on the disk.
type form uint8

const (
	formEmpty  form = iota // nothing stored, no key bound
	formInline             // one block
	formGroups             // groups of an index block and 63 chunks
)

// A file is an open stored file. There is one for a node, whoever and however many have it open.
type file struct {
	v *Vault
	n *Node

	// Guarded by n.mu.
	users int  // operations under way, and the keeper's hold
	gone  bool // no name is left: the key dies with the last handle

	bf       backing.File // replaced by upgrade, which holds mu and n.mu; whoever holds neither takes it from handle
	before   backing.File // what upgrade replaced
	writable bool         // guarded by mu
	refused  error        // why it is not writable

	keyMu      sync.Mutex
	keyWait    chan struct{}
	confirming *confirmation

	// mu is held for reading by reads and for writing by whatever changes the file. It is not held during calls of
	// the keysource.
	mu       sync.RWMutex
	held     bool  // opened by holdFile: stored may be from before another file object of the inode wrote
	stored   int64 // size of the stored file when its header was read
	excess   bool  // the stored file is longer than it should be: to be mended before it is written
	unsure   bool  // of a file in the inline form: an index block may stand there in place of the inline block
	unused   bool  // the key has been bound, and nothing stored has ever named it
	broken   bool  // a bug has ended a change half way: nobody uses it before it is opened anew
	headed   bool  // the header has been read: what follows is known
	form     form
	opened   bool // header and key are there and agree
	id       envelope.FileID
	loc      envelope.Locator
	flags    envelope.Flags // of the header on the disk
	floor    int64          // header.size on the disk
	key      *envelope.FileKey
	keyLoc   envelope.Locator // of the record that key is from
	grant    grant            // of key
	prev     *previous        // nil but while the file is being reencrypted
	renewing bool             // by Reencrypt
	sure     envelope.Locator // it is durable in the header: see makeSure
	size     int64            // plaintext
	inline   []byte           // the plaintext, in the inline form
	block0   []byte           // as it was when the file was opened, until the key has opened it
	caps     capsState
	checked  bool // the tail has been looked at for what a crash left behind
	cutDone  bool // of a cut that the header tells only the last step is left, which waits until it is durable

	// What is not in place (see journal), guarded by mu.
	room          room   // of the write under way
	logged        logged // its last record
	loggedHoles   logged // its last record of a chunk that is a hole in place
	moves         uint64 // Vault.moves before its first record
	pending       map[uint64]*pendingChunk
	pendingInline *pendingBlock
	hidden        hiddenTime
	replayed      bool // something that a crash left in the journal alone was put in place

	gmu    sync.Mutex // guards groups, beside mu held for reading
	groups map[uint64]*group

	touched    map[uint64]struct{} // groups written since the last mark
	settling   map[uint64]struct{} // groups written before it
	dirtyNoted bool                // the keeper knows
	changed    uint64              // counts changes of content or size
}

// capsState says whether the file has a security.capability attribute, which each write must drop.
type capsState uint8

const (
	capsUnknown capsState = iota
	capsNone
	capsSome
)

// group is an index block in memory.
type group struct {
	n     uint64
	blk   envelope.IndexBlock
	key   *envelope.GroupKey
	prev  *envelope.GroupKey // under the previous data key, where the file has one
	fresh bool               // not on the disk yet
	stale bool               // it is to be written whole: slots past the end of file have been cleared in memory, or sectors are sealed under the previous key
	known uint64             // bit i: the current entry of slot i is known to be what the data is
}

const (
	groupsPerFile  = 512  // cached index blocks of one file
	groupsInMemory = 8192 // of all files
)

// acquire returns n's file, opened, in use until release.
func (v *Vault) acquire(n *Node) (*file, error) {
	if n.kind != sIFREG {
		if n.kind == sIFDIR {
			return nil, syscall.EISDIR
		}
		return nil, syscall.EINVAL
	}
	for {
		n.mu.Lock()
		if f := n.file; f != nil {
			f.users++
			n.mu.Unlock()
			return f, nil
		}
		if wait := n.wait; wait != nil {
			n.mu.Unlock()
			<-wait
			continue
		}
		wait := make(chan struct{})
		n.wait = wait
		n.mu.Unlock()
		return v.acquireFirst(n, wait)
	}
}

// acquireFirst is acquire for the one who opens the file; the others wait until wait is closed.
func (v *Vault) acquireFirst(n *Node, wait chan struct{}) (*file, error) {
	// Pinned before it is opened: there must never be two files of one inode.
	var f *file
	err := ErrStale
	pinned := v.nodes.pin(n)
	if pinned {
		err = bug.Err
		func() {
			defer func() {
				if err == bug.Err { // a panic passes: nobody must wait for ever
					n.opening(wait, nil)
				}
			}()
			err = v.withRoom(func() (err error) { f, err = v.openFile(n); return err })
		}()
	}
	var mine bool
	spare := f
	n.opening(wait, func() {
		mine = err == nil && n.file == nil
		if n.file == nil {
			n.file = f
		} else { // held by who took the last name away
			f, err = n.file, nil
		}
		if err == nil {
			n.memoKnown = false
			f.users++
		}
	})
	if mine {
		v.files.opened(f)
		return f, nil
	}
	if spare != nil {
		spare.bf.Close()
	}
	if pinned {
		v.nodes.unpin(n)
	}
	if err != nil {
		return nil, n.fail("open", err)
	}
	return f, nil
}

// opening ends the opening of n that others wait for, with n.mu held while it calls set, unless that is nil.
func (n *Node) opening(wait chan struct{}, set func()) {
	n.mu.Lock()
	n.wait = nil
	if set != nil {
		set()
	}
	n.mu.Unlock()
	close(wait)
}

// release gives back what acquire gave.
func (f *file) release() {
	f.n.mu.Lock()
	f.users--
	idle := f.users == 0
	f.n.mu.Unlock()
	if idle && f.n.abandoned() {
		f.v.retireIdle(f.n)
	}
}

// hold adds a user.
func (f *file) hold() {
	f.n.mu.Lock()
	f.users++
	f.n.mu.Unlock()
}

// abandoned says whether no caller refers to n.
func (n *Node) abandoned() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opens == 0 && n.forgotten
}

// openFile opens the stored file of n. Nothing of it is read yet.
func (v *Vault) openFile(n *Node) (*file, error) {
	f := &file{v: v, n: n}
	var st backing.Stat
	err := v.at(n, func(d backing.Dir, entry string) (err error) {
		flags := syscall.O_RDWR
		if v.readOnly {
			flags = syscall.O_RDONLY
		}
		f.bf, st, err = d.OpenStat(entry, flags, 0)
		f.writable = err == nil && !v.readOnly
		if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EROFS) {
			f.refused = err
			f.bf, st, err = d.OpenStat(entry, syscall.O_RDONLY, 0)
			if errors.Is(err, syscall.EACCES) && !v.readOnly {
				f.bf, st, err = openAnyway(d, entry)
				f.writable = err == nil
			}
		}
		return err
	})
	if err != nil {
		return nil, replaced(err)
	}
	if st.Ino != n.ino || st.Dev != n.dev {
		f.bf.Close()
		return nil, ErrStale
	}
	if err := v.using(f.bf, found); err != nil {
		f.bf.Close()
		return nil, err
	}
	f.bf, f.stored = note(f.bf, v.age(found)), st.Size
	return f, nil
}

// using tells other hosts that bf is open: whoever takes the last name of a file does not erase the key of one that is in use,
// which is left to its last user. ErrStale where what was found had no name left by then.
func (v *Vault) using(bf backing.File, a age) error {
	if !v.shared {
		return nil
	}
	if err := bf.Use(); err != nil {
		return err
	}
	if a == created {
		return nil
	}
	st, err := bf.Stat()
	if err == nil && st.Nlink == 0 {
		err = ErrStale
	}
	return err
}

// nameless says whether bf has no name left.
func nameless(bf backing.File) bool {
	st, err := bf.Stat()
	return err == nil && st.Nlink == 0
}

// forsaken says whether bf, which is the last opening of it here, has no name left, and is open on no other host.
func (v *Vault) forsaken(bf backing.File) bool {
	if !nameless(bf) {
		return false
	}
	if !v.shared {
		return true
	}
	used, err := bf.InUse()
	return err == nil && !used
}

// openAnyway opens for reading and writing a file of ours that its mode does not let us open so. Whoever reads or writes
// it may: it had another mode when they opened it, or they may only write, and writing a part of a chunk means reading it.
func openAnyway(d backing.Dir, entry string) (backing.File, backing.Stat, error) {
	st, err := d.StatAt(entry)
	if err != nil {
		return nil, st, err
	}
	mode := st.Mode & 0o7777
	if err := d.ChmodAt(entry, mode|0o600); err != nil {
		return nil, st, syscall.EACCES
	}
	bf, st, err := d.OpenStat(entry, syscall.O_RDWR, 0)
	if e := d.ChmodAt(entry, mode); err == nil && e != nil {
		bf.Close()
		return nil, st, e
	}
	return bf, st, err
}

// upgrade makes a file writable that its mode has let us open for reading only. No lock is held.
func (f *file) upgrade() error {
	f.mu.RLock()
	writable, refused := f.writable, f.refused
	f.mu.RUnlock()
	switch {
	case writable:
		return nil
	case refused == nil:
		return ErrReadOnly
	case !errors.Is(refused, syscall.EACCES):
		return refused
	}
	var bf backing.File
	if err := f.v.at(f.n, func(d backing.Dir, entry string) (err error) {
		var st backing.Stat
		bf, st, err = openAnyway(d, entry)
		if err == nil && (st.Ino != f.n.ino || st.Dev != f.n.dev) {
			bf.Close()
			err = ErrStale
		}
		return err
	}); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if f.writable { // somebody was faster
		return bf.Close()
	}
	f.bf, f.before, f.writable = noteAgain(bf, f.bf), f.bf, true
	return nil
}

// canRepeat makes sure that what a sync has failed for can be written again. No lock is held.
func (f *file) canRepeat() error {
	if !lossy(f.handle()) {
		return nil
	}
	return f.upgrade()
}

// syncAgain makes the content durable, also what a sync has failed for. No lock is held.
func (f *file) syncAgain() error {
	if err := f.canRepeat(); err != nil {
		return err
	}
	return f.handle().DataSync()
}

// handle returns the stored file for calls that need no lock. Whoever uses f keeps it open.
func (f *file) handle() backing.File {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	return f.bf
}

// head reads the header if that has not been done yet. f.mu is not held.
func (f *file) head() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.headLocked()
}

func (f *file) headLocked() error {
	if f.headed {
		return nil
	}
	if !f.v.shared && !f.held {
		return f.readHeader(f.stored)
	}
	if f.v.shared {
		if err := f.lockShared(lockRead); err != nil {
			return err
		}
		defer f.unlockShared()
	}
	st, err := f.bf.Stat()
	if err != nil {
		return err
	}
	return f.readHeader(st.Size)
}

// identity is what a header says of whose a file is.
type identity struct {
	id    envelope.FileID
	loc   envelope.Locator
	flags envelope.Flags
	form  form
}

// identify returns what the header says now; nothing of it is authentic.
func (f *file) identify() (identity, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.v.shared {
		f.headed, f.opened = false, false // another host may have changed it
	}
	err := f.headLocked()
	return identity{f.id, f.loc, f.flags, f.form}, err
}

// readHeader looks at a stored file of the given size. Nothing of it is trusted before [file.unlock].
func (f *file) readHeader(stored int64) error {
	f.headed = false
	f.form, f.opened, f.block0, f.inline = formEmpty, false, nil, nil
	f.flags, f.floor, f.size = 0, 0, 0
	f.stored, f.excess, f.cutDone = stored, false, false
	if stored == 0 {
		f.headed, f.opened = true, true
		return nil
	}
	b := make([]byte, envelope.BlockSize, envelope.BlockSize+envelope.TagSize)
	got, err := f.bf.ReadAt(b, 0)
	if err != nil {
		return err
	}
	h, err := envelope.ParseHeader(b[:got])
	if err != nil && envelope.IsZero(b[:got]) {
		switch lost, e := backing.AllZeros(f.bf, stored); {
		case e != nil:
			return e
		case lost: // never synced: of all that was written only the size has reached the disk
			f.v.log.Warn("a stored file is nothing but zeros: it was never synced, or was emptied by somebody", "inode", f.n.ino, "size", stored)
			f.emptied()
			f.headed, f.opened, f.excess = true, true, true
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if h.Log2 != f.v.geo.Log2() || h.Group != 0 {
		return fmt.Errorf("%w: header of another vault or group", ErrCorrupt)
	}
	if f.unused && h.ID != f.id { // another host was faster
		if f.prev != nil {
			f.v.keeper.erase(f.prev.loc)
		}
		f.v.pools.put(bound{id: f.id, loc: f.loc, key: f.key})
		f.key, f.prev, f.unused = nil, nil, false
	}
	f.id, f.loc, f.flags, f.floor = h.ID, h.Loc, h.Flags, int64(h.Size)
	f.block0 = b[:got]
	if f.v.recovery.has(f.id) { // its sizes may not fit each other yet: see authenticate
		f.form, f.size, f.headed = formGroups, f.v.geo.PlainSize(stored), true
		return nil
	}
	if h.Flags&envelope.FlagInline != 0 {
		f.form = formInline
		f.size = f.floor
		if f.floor > envelope.InlineMax || stored < envelope.InlineOverhead+f.floor {
			return fmt.Errorf("%w: cut short", ErrCorrupt)
		}
		f.headed = true
		return nil
	}
	f.form = formGroups
	n := f.v.geo.PlainSize(stored)
	if stored == envelope.BlockSize {
		n = 0 // the first write was cut short behind the index block
	}
	switch {
	case stored < envelope.BlockSize:
		return fmt.Errorf("%w: cut short", ErrCorrupt)
	case n > f.v.maxSize:
		return fmt.Errorf("%w: it is longer than a file can be", ErrCorrupt)
	case h.Flags&envelope.FlagExact != 0 && n != f.floor:
		return fmt.Errorf("%w: it is %d bytes long and was %d", ErrCorrupt, n, f.floor)
	case n < f.floor:
		return fmt.Errorf("%w: it is %d bytes long and was at least %d", ErrCorrupt, n, f.floor)
	case h.Flags&envelope.FlagCut != 0:
		n = f.floor
	}
	f.size, f.headed = n, true
	return nil
}

// unlock makes sure that the data key is there and that the header is authentic. No lock is held.
func (f *file) unlock(ctx context.Context) error {
	for {
		f.mu.RLock()
		headed, done, id, loc, key, keyLoc, broken := f.headed, f.opened, f.id, f.loc, f.key, f.keyLoc, f.broken
		f.mu.RUnlock()
		if broken {
			return f.n.fail("open", bug.Err)
		}
		if headed && done {
			return nil
		}
		if !headed {
			if err := f.head(); err != nil {
				return f.n.fail("open", err)
			}
			continue
		}
		f.keyMu.Lock()
		if wait := f.keyWait; wait != nil {
			f.keyMu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", ErrNoKey, ctx.Err())
			}
		}
		wait := make(chan struct{})
		f.keyWait = wait
		f.keyMu.Unlock()
		asks := key == nil || key.ID() != id || keyLoc != loc // another host may have given it another key
		if err := f.unlockFirst(ctx, wait, identity{id: id, loc: loc}, key, asks); err != nil && !f.overtaken(id, loc) {
			return f.n.fail("open", err)
		}
	}
}

// unlockFirst is unlock, once, for the one who gets the key; the others wait until wait is closed. had is the key that f has; it
// is not asked for again where asks is false.
func (f *file) unlockFirst(ctx context.Context, wait chan struct{}, is identity, had *envelope.FileKey, asks bool) error {
	defer func() {
		f.keyMu.Lock()
		f.keyWait = nil
		f.keyMu.Unlock()
		close(wait)
	}()
	key, now := had, f.v.granted()
	var prev *previous
	if asks {
		var err error
		if key, prev, err = f.v.fileKey(ctx, is.loc, is.id); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.headed || f.opened || f.id != is.id || f.loc != is.loc || !asks && f.key != had {
		return nil
	}
	if key == f.key {
		prev = f.prev
	}
	err := f.authenticate(key, prev)
	if asks && f.key == key {
		f.grant = now
	}
	return err
}

// overtaken says whether the header that named the key of id is no longer the file's: it was emptied meanwhile, here or
// by another host, and its key erased.
func (f *file) overtaken(id envelope.FileID, loc envelope.Locator) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.v.shared && f.headed && !f.opened {
		st, err := f.bf.Stat()
		if err != nil || f.readHeader(st.Size) != nil {
			return false
		}
	}
	return f.opened || !f.headed || f.id != id || f.loc != loc
}

// authenticate checks block 0 under key, or in part under prev where that is not nil, and notes what a crash left to be
// mended. Where the journal puts a block in place that is under another key than its header had told, f is not opened then
// and its header tells the other. f.mu is held.
func (f *file) authenticate(key *envelope.FileKey, prev *previous) error {
	had, loc := f.prev, f.loc
	f.prev = prev // what follows falls back on it
	defer func() {
		if f.key != key {
			f.prev = had
		}
	}()
	if f.v.recovery.has(f.id) {
		if err := f.recover(key); err != nil || !f.headed || f.opened || f.loc != loc {
			return err
		}
	}
	gk, err := key.Group(0)
	if err != nil {
		return err
	}
	switch f.form {
	case formInline:
		plain := make([]byte, envelope.InlineMax)
		defer clear(plain)
		s := f.v.scratch.get()
		h, n, err := envelope.OpenInline(gk, f.block0, plain, s)
		f.v.scratch.put(s)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if h.ID != f.id {
			return ErrCorrupt
		}
		f.inline = append(make([]byte, 0, n), plain[:n]...)
		f.key, f.keyLoc, f.unused = key, f.loc, false
		f.opened, f.block0 = true, nil
		f.excess = f.stored != f.v.geo.InlineSize(f.size) // a truncation or growth that a crash cut short
		f.tryMend()
		return nil
	case formGroups:
		g := &group{key: gk}
		if g.prev, err = f.previousGroup(0); err != nil {
			return err
		}
		if len(f.block0) < envelope.BlockSize {
			return fmt.Errorf("%w: cut short", ErrCorrupt)
		}
		copy(g.blk[:], f.block0)
		had := f.key
		f.key = key
		if err := f.verify(g); err != nil {
			f.key = had
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		f.keyLoc, f.unused = f.loc, false
		f.dropGroups()
		f.opened, f.block0 = true, nil
		if f.stored == envelope.BlockSize { // nothing was ever written behind the index block
			f.excess = true
			f.emptied()
			f.tryMend()
			return nil
		}
		f.dropLeftovers(g)
		f.groups = map[uint64]*group{0: g}
		f.v.groupCount.Add(1)
		f.tryMend()
		return nil
	}
	f.opened = true
	return nil
}

// tryMend mends what a crash left. Reading does not depend on it, so that a failure is met by the next write only.
func (f *file) tryMend() {
	if !f.halfDone() || !f.writable || f.v.shared { // there, other hosts are to be locked out first
		return
	}
	if _, err := f.mendNow(); err != nil {
		f.v.log.Warn("cannot mend a file that a crash left half done; the next write will try again", "inode", f.n.ino, "err", err)
	}
}

// halfDone says whether mend has something to do. f.mu is held.
func (f *file) halfDone() bool {
	return f.excess || f.flags&envelope.FlagCut != 0 && !f.cutDone || f.prev != nil && f.sure != f.loc && f.form != formEmpty
}

// mendNow is mend where no write has got room in the journal; done is false where there is none now. f.mu is held for writing.
func (f *file) mendNow() (done bool, err error) {
	r, ok := f.v.journal.reserve(f.v.journal.roomFor(0))
	if !ok {
		return false, nil
	}
	f.room = r
	defer func() { f.room = f.room.giveBack() }()
	return true, f.mend()
}

// mend makes the stored file fit what its header says, and must come before any write. f.mu is held for writing.
func (f *file) mend() error {
	if lossy(f.bf) { // what comes next may rely on what a sync was waited for that has failed
		if err := f.bf.DataSync(); err != nil {
			return err
		}
	}
	if err := f.makeSure(); err != nil {
		return err
	}
	if f.flags&envelope.FlagCut != 0 && !f.cutDone {
		if err := f.finishCut(); err != nil {
			return err
		}
		f.excess = false
	}
	if !f.excess {
		return nil
	}
	if err := f.flush(); err != nil || !f.excess {
		return err
	}
	if f.form == formInline && (f.size == 0 || f.unsure) { // what stands there may be an index block
		return f.writeInline(append([]byte(nil), f.inline...))
	}
	if err := f.bf.Truncate(f.storedSize()); err != nil {
		return err
	}
	f.excess = false
	return nil
}

// bind gives an empty file its key. f.mu is held.
func (f *file) bind(b bound) {
	f.id, f.loc, f.key, f.keyLoc, f.prev = b.id, b.loc, b.key, b.loc, nil
	f.opened, f.unused = true, true
	f.grant = grant{at: b.born.Sub(f.v.began), epoch: b.epoch}
}

// prepare returns with f.mu held for writing, the header authentic and, where f is empty, a key bound.
func (f *file) prepare(ctx context.Context) error {
	if err := f.upgrade(); err != nil {
		return f.n.fail("write", err)
	}
	for {
		if err := f.unlock(ctx); err != nil {
			return err
		}
		f.mu.RLock()
		need := f.opened && f.key == nil
		f.mu.RUnlock()
		var b bound
		if need {
			zone, err := f.v.zoneOf(f.n)
			if err == nil {
				b, err = f.v.pools.take(ctx, zone)
			}
			if err != nil {
				return f.n.fail("write", err)
			}
		}
		f.mu.Lock()
		if f.opened && f.key == nil && need {
			f.bind(b)
		} else if need {
			f.v.pools.put(b)
		}
		if f.opened && f.key != nil {
			return nil
		}
		f.mu.Unlock() // changed in between
	}
}

// header returns the header of group 0 as it stands in memory.
func (f *file) header() envelope.Header {
	return envelope.Header{Log2: f.v.geo.Log2(), Flags: f.flags, ID: f.id, Loc: f.loc, Size: uint64(f.floor)}
}

// touch notes that group n has changed. f.mu is held.
func (f *file) touch(n uint64) {
	if f.touched == nil {
		f.touched = map[uint64]struct{}{}
	}
	f.touched[n] = struct{}{}
	f.changed++
	f.v.keeper.settleLater(f)
}

// nonces fills a buffer with n random nonces.
func nonces(n int, buf []byte) []byte {
	if cap(buf) < n*envelope.NonceSize {
		buf = make([]byte, n*envelope.NonceSize)
	}
	buf = buf[:n*envelope.NonceSize]
	rand.Read(buf) // never fails: crypto/rand ends the process instead
	return buf
}

// close closes the stored file and wipes the key.
func (f *file) close() error {
	f.showTime()
	f.dropGroups()
	clear(f.inline)
	f.inline, f.pending, f.pendingInline = nil, nil, nil
	if f.key != nil {
		f.key.Wipe()
		f.key = nil
	}
	if f.prev != nil {
		f.prev.key.Wipe()
		f.prev = nil
	}
	err := f.bf.Close()
	if f.before != nil {
		err = errors.Join(err, f.before.Close())
	}
	return err
}

func (f *file) dropGroups() {
	f.v.groupCount.Add(-int64(len(f.groups)))
	f.groups = nil
}
