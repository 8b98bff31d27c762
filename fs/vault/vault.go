// Package vault is the encrypted tree as a library: look up, read, write, truncate, rename, list, and what keeps it
// whole. It knows no FUSE; everything that a mount can do, a test or an offline command does here.
//
// Start with [Create] and [Open]; [Vault.Root] and [Vault.Lookup] lead to the nodes that all operations act on.
//
// It guarantees that an operation that returned survives the death of the process (kill -9), whole, and that one that
// was under way leaves each chunk and each name as before or as after. What is not authentic is refused with
// [ErrCorrupt], never returned. It does not guarantee that unsynced data survives the death of the machine.
//
// All methods of Vault are safe for concurrent use.
package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"container/list"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// Names in the control directory.
const (
	configName  = "vault.json"
	configAside = "vault.json.new"
	lockName    = "lock"
	keysName    = "keys"
	tmpName     = "tmp"
)

// Sharing says who else may have the vault mounted.
type Sharing uint8

// The two ways to mount a vault.
const (
	Exclusive Sharing = iota // this mount alone
	Shared                   // several hosts at once; nothing is cached between operations
)

// Access says what a mount may do.
type Access uint8

// The two kinds of access.
const (
	ReadWrite Access = iota
	ReadOnly         // nothing is written to the vault, not even a lock
)

// Opens says whether the caller of a vault calls Open and Release around the use of a file.
type Opens uint8

// The two kinds of caller.
const (
	Tracked   Opens = iota // a file without a name stays usable from Open to Release
	Untracked              // a file without a name stays usable until its node is forgotten
)

// Options of Open. The zero value is an exclusive mount for reading and writing.
type Options struct {
	Sharing Sharing
	Access  Access
	// Log gets what an operator should know; nil: nothing is logged. Plaintext names never go there.
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Deadline bounds the calls of the keysource that one operation waits for; 0: 30 s.
	Deadline time.Duration
	// KeepEvery is the longest that deferred work (settling, erasing keys) waits; 0: 30 s.
	KeepEvery time.Duration
	// JournalFor is the longest that what was written over stands in the journal only; 0: 5 s.
	JournalFor time.Duration
	// Opens says whether the caller tells who has which file open.
	Opens Opens
	// OpenFiles and OpenDirs bound the handles kept open for later; 0: 512 each. While many files are being written there
	// may be 32 times as many.
	OpenFiles, OpenDirs int
	// KeyMaxAge is how old a data key may be that was made ahead of need; 0: any age.
	KeyMaxAge time.Duration
	// ConfirmEvery is how long the key of an open file is used before the keysource is asked for it again; 0: KeyMaxAge. Where a
	// cache answers, it is how much later than there a refused key is noticed.
	ConfirmEvery time.Duration
	// KeysAhead is how many data keys may be decrypted ahead of need where a pattern shows; 0: none. It pays only where
	// the keysource keeps what it has decrypted.
	KeysAhead int
	// Renew is called when the config was changed, by a rewrap: a keysource that wraps keys itself begins anew; nil:
	// nothing is.
	Renew func()
}

// Vault is an open vault.
type Vault struct {
	cfg  *envelope.Config // as it was opened
	geo  envelope.Geometry
	keys *envelope.VolumeKeys
	ks   keysource.Keysource
	log  *slog.Logger
	now  func() time.Time

	began   time.Time
	elapsed func() time.Duration // since began: now takes twice as long, and each operation asks

	current atomic.Pointer[envelope.Config] // as it is now, see configWatch
	watch   configWatch
	renew   func() // see Options.Renew

	top     backing.Dir // the vault directory
	syncing sync.Mutex  // held by syncFS
	lossy   atomic.Uint64
	ctlDir  backing.Dir
	sidecar *sidecar.Sidecar
	tmpDir  backing.Dir
	lock    backing.File

	shared   bool
	readOnly bool
	copied   atomic.Bool // see lookForCopy
	unclean  bool        // a mount that was alone has died: the stored size of a file may not be what it was to be
	tracked  bool        // see Opens
	owners   bool        // new files go to who asked for them: this process may give files away
	uid, gid uint32
	maxSize  int64
	deadline time.Duration

	keyMaxAge, confirmEvery time.Duration
	epoch                   atomic.Uint64               // counts purges
	refused                 atomic.Pointer[func(*Node)] // see OnRefused

	root  *Node
	nodes nodes
	// links is held for writing by what gives a file one more name, or takes one of several, and for reading by what
	// takes the only one: which name is the last one is then known.
	links   sync.RWMutex
	several sync.Mutex    // held while locking the names of more than one directory
	moves   atomic.Uint64 // counts the changes of names that leave a file another one, begun and ended

	dirs     dirCache
	files    fileCache
	pools    pools
	renewals renewals
	ahead    readAhead
	spares   spares
	keeper   keeper
	reaper   reaper
	journal  journal
	recovery recovery

	buffers    buffers
	blocks     blockPool
	scratch    scratchPool
	sealings   sealingPool
	groupCount atomic.Int64
	counts     counts

	keepEvery time.Duration
	ctx       context.Context // ends when the vault is closed
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// CreateConfig says what Create makes.
type CreateConfig struct {
	Keysource string // URL, noted for the next Open
	Key       string // alias, id or ARN of the CMK
	ChunkSize int    // bytes: 4096 (also when 0), 16384 or 65536
	// AlsoWrap are further CMKs of the keysource, at most 7. Each wraps the volume key and every data key too, so that any
	// one of them opens the vault.
	AlsoWrap []string
}

// Create makes a vault in an empty directory. The config comes last: what is not finished is no vault.
func Create(ctx context.Context, top backing.Dir, ks keysource.Keysource, c CreateConfig) error {
	empty := true
	if err := top.ReadDir(func(e backing.Entry) bool {
		empty = empty && (e.Name == "lost+found" || e.Name == envelope.ControlDir)
		return empty
	}); err != nil {
		return err
	}
	if !empty {
		return ErrNotEmpty
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = envelope.BlockSize
	}
	cfg := &envelope.Config{ChunkSize: c.ChunkSize, Keysource: c.Keysource, Key: c.Key, Created: time.Now().UTC().Truncate(time.Second)}
	rand.Read(cfg.Volume[:])
	dk, err := ks.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{
		KeyID: keysource.KeyRef(c.Key), EncryptionContext: envelope.VolumeContext(cfg.Volume), NumberOfBytes: envelope.KeySize,
	})
	if err != nil {
		return err
	}
	defer dk.Plaintext.Wipe()
	vk, err := envelope.NewVolumeKeys(dk.Plaintext.Bytes())
	if err != nil {
		return err
	}
	defer vk.Wipe()
	if cfg.Wrappings, err = wrapAll(ctx, ks, dk, envelope.VolumeContext(cfg.Volume), c.AlsoWrap); err != nil {
		return err
	}
	b, err := cfg.Marshal(vk)
	if err != nil {
		return err
	}
	if err := top.Mkdir(envelope.ControlDir, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return err
	}
	defer ctl.Close()
	if _, err := ctl.StatAt(configName); err == nil {
		return ErrNotEmpty
	}
	for _, name := range []string{keysName, tmpName} {
		if err := ctl.Mkdir(name, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
	}
	if err := writeAside(ctl, configAside, configName, b); err != nil {
		return err
	}
	return top.Sync()
}

// WriteConfig replaces vault.json in ctl, the directory .kmsfs: after a crash it is old or new. Who calls it holds the lock
// of the sidecar (sidecar.Locked) from reading what it changes on.
func WriteConfig(ctl backing.Dir, b []byte) error { return writeAside(ctl, configAside, configName, b) }

// writeAside makes b the content of name in dir: written and synced as aside, renamed, and the rename synced. What it
// replaces keeps its owner; what is new gets that of dir.
func writeAside(dir backing.Dir, aside, name string, b []byte) error {
	if err := dir.Unlink(aside); err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	f, err := dir.Open(aside, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	old, e := dir.StatAt(name)
	if errors.Is(e, syscall.ENOENT) {
		old, e = dir.Stat()
	}
	if err == nil && e == nil && (old.UID != uint32(os.Geteuid()) || old.GID != uint32(os.Getegid())) {
		if err = f.Chown(old.UID, old.GID); errors.Is(err, syscall.EPERM) && old.UID == uint32(os.Geteuid()) {
			err = nil // the group may differ, the owner could not use it any more
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = planted(name, dir.Rename(aside, dir, name, 0))
	}
	if err != nil {
		return err
	}
	return dir.Sync()
}

// ReadConfig reads the config of the vault in top. It is not verified: that needs the volume key.
func ReadConfig(top backing.Dir) (*envelope.Config, error) {
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) {
			return nil, ErrNotVault
		}
		return nil, planted(envelope.ControlDir, err)
	}
	defer ctl.Close()
	f, err := ctl.Open(configName, syscall.O_RDONLY, 0)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) {
			return nil, ErrNotVault
		}
		return nil, planted(configName, err)
	}
	defer f.Close()
	b := make([]byte, envelope.ConfigMax+1)
	n, err := f.ReadAt(b, 0)
	if err != nil {
		return nil, err
	}
	return envelope.ParseConfig(b[:n])
}

// Open opens the vault in top, which it closes with the vault. ks is the caller's.
func Open(ctx context.Context, top backing.Dir, ks keysource.Keysource, o Options) (_ *Vault, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	systemTime := o.Now == nil
	if systemTime {
		o.Now = time.Now
	}
	if o.Deadline == 0 {
		o.Deadline = 30 * time.Second
	}
	if o.KeepEvery == 0 {
		o.KeepEvery = 30 * time.Second
	}
	if o.JournalFor == 0 {
		o.JournalFor = 5 * time.Second
	}
	if o.OpenFiles == 0 {
		o.OpenFiles = 512
	}
	if o.OpenDirs == 0 {
		o.OpenDirs = 512
	}
	v := &Vault{
		ks: ks, log: o.Log, now: o.Now, top: top, shared: o.Sharing == Shared, readOnly: o.Access == ReadOnly,
		renew:    o.Renew,
		tracked:  o.Opens == Tracked || o.Sharing == Shared,
		deadline: o.Deadline, keepEvery: o.KeepEvery, keyMaxAge: o.KeyMaxAge, confirmEvery: cmp.Or(o.ConfirmEvery, o.KeyMaxAge),
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
	}
	v.owners = v.uid == 0
	v.began = v.now()
	v.elapsed = func() time.Duration { return v.now().Sub(v.began) }
	if systemTime {
		v.elapsed = func() time.Duration { return time.Since(v.began) }
	}
	defer func() {
		if err != nil {
			v.closeHandles()
		}
	}()
	if v.cfg, err = ReadConfig(top); err != nil {
		return nil, err
	}
	if v.geo, err = envelope.NewGeometry(v.cfg.ChunkSize); err != nil {
		return nil, err
	}
	v.maxSize = 1<<60 - 1
	if v.ctlDir, err = top.OpenDir(envelope.ControlDir); err != nil {
		return nil, planted(envelope.ControlDir, err)
	}
	if err = v.takeLock(); err != nil {
		return nil, err
	}
	if v.keys, err = OpenVolumeKey(ctx, v.ks, v.cfg); err != nil {
		return nil, err
	}
	if err = v.openSidecar(); err != nil {
		return nil, err
	}
	if v.tmpDir, err = v.ctlDir.OpenDir(tmpName); err != nil {
		if !v.readOnly && errors.Is(err, syscall.ENOENT) { // a copy may lack an empty directory
			if err = v.ctlDir.Mkdir(tmpName, 0o700); err == nil {
				v.tmpDir, err = v.ctlDir.OpenDir(tmpName)
			}
		}
		if err != nil && !v.readOnly {
			return nil, planted(tmpName, err)
		}
	}
	st, err := top.Stat()
	if err != nil {
		return nil, err
	}
	v.root = &Node{dev: st.Dev, ino: st.Ino, kind: sIFDIR}
	v.nodes.init(v.root)
	v.dirs = dirCache{lru: list.New(), max: o.OpenDirs}
	v.files = fileCache{lru: list.New(), at: map[*file]*list.Element{}, max: o.OpenFiles}
	h, err := top.Dup()
	if err != nil {
		return nil, err
	}
	v.root.dir = &dirState{id: v.keys.RootDir(), h: h, users: 1} // in use for ever
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.current.Store(v.cfg)
	v.watch.v = v
	v.pools.start(v)
	v.renewals.table = v.sidecar.NewWriter(v.now)
	v.ahead = readAhead{v: v, most: o.KeysAhead, tables: map[uint64]*aheadTable{}}
	v.spares = spares{v: v}
	v.reaper.start(v)
	v.keeper.start(v)
	if err = v.startJournal(ctx, o.JournalFor); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	if !v.readOnly {
		v.wg.Go(v.watch.run)
		var old []string // before anything new is begun there
		v.tmpDir.ReadDir(func(e backing.Entry) bool {
			old = append(old, e.Name)
			return true
		})
		v.wg.Add(1)
		go func() {
			defer v.wg.Done()
			_ = v.guarded(func() error { v.cleanTmp(old); return nil })
		}()
	}
	return v, nil
}

// openSidecar opens the key tables. A copy may lack the directory of them, as where files without a data key alone were
// restored.
func (v *Vault) openSidecar() (err error) {
	v.sidecar, err = sidecar.Open(v.ctlDir, v.cfg.Volume)
	if errors.Is(err, syscall.ENOENT) {
		v.log.Warn(".kmsfs/keys is missing: no file that has a data key opens; kmsfs keys import puts it right")
		if v.readOnly {
			v.sidecar, err = sidecar.Empty(v.ctlDir, v.cfg.Volume), nil
		} else if err = v.ctlDir.Mkdir(keysName, 0o700); err == nil {
			v.sidecar, err = sidecar.Open(v.ctlDir, v.cfg.Volume)
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// Lock keeps everybody from opening the vault in top for writing until the answer is closed. ErrLocked where somebody has it
// open for that.
func Lock(top backing.Dir) (io.Closer, error) {
	ctl, err := top.OpenDir(envelope.ControlDir)
	if errors.Is(err, syscall.ENOENT) {
		return nil, ErrNotVault
	}
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	f, err := LockAlone(ctl)
	if errors.Is(err, syscall.ENOENT) { // on read-only media, and never mounted before: nobody can write to it
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// takeLock makes sure that an exclusive mount is alone. On read-only media it fails with EROFS, though there may be a lock to take:
// else the first write would find out.
func (v *Vault) takeLock() (err error) {
	if v.readOnly {
		return nil
	}
	f, err := v.ctlDir.Open(lockName, syscall.O_RDWR|syscall.O_CREAT, 0o600)
	if err != nil {
		return planted(lockName, err)
	}
	f.Close()
	mode := backing.LockExclusive
	if v.shared {
		mode = backing.LockShared
	}
	if v.lock, err = lock(v.ctlDir, mode); err != nil {
		return err
	}
	return v.lookForCopy()
}

func lock(ctl backing.Dir, mode backing.LockMode) (backing.File, error) {
	f, err := ctl.Lock(lockName, mode)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrLocked
	}
	return f, planted(lockName, err)
}

// LockAlone takes the lock of the vault whose directory .kmsfs is ctl as an exclusive mount does; closing what it returns
// lets go of it. ErrLocked where a mount that may write has it.
func LockAlone(ctl backing.Dir) (backing.File, error) { return lock(ctl, backing.LockExclusive) }

// cleanTmp removes the directories that a mount that died left behind in .kmsfs/tmp, and that hold nothing. Where other hosts work on the vault, only what is old.
func (v *Vault) cleanTmp(old []string) {
	if len(old) == 0 {
		return
	}
	if err := v.tmpDir.Sync(); err != nil { // that they are there and nowhere else is durable before they lose their ids
		v.log.Warn("cannot remove what is left over in .kmsfs/tmp", "err", err)
		return
	}
	begun := v.now()
	for _, name := range old {
		st, err := v.tmpDir.StatAt(name)
		if err != nil || st.Mode&sIFMT != sIFDIR || (v.shared && begun.Sub(st.Mtim.Time()) < 24*time.Hour) {
			continue
		}
		if empty, err := isEmptyDir(v.tmpDir, name); err == nil && empty {
			mine := randomName() // so that no other host puts it in place while it loses its id
			if v.tmpDir.Rename(name, v.tmpDir, mine, RenameNoReplace) == nil {
				v.takeApart(mine)
			}
		}
	}
}

// Config returns the vault's config as it is now; it is not to be changed.
func (v *Vault) Config() *envelope.Config { return v.current.Load() }

// Shared says whether other hosts may have the vault mounted.
func (v *Vault) Shared() bool { return v.shared }

// ReadOnly says whether nothing can be changed.
func (v *Vault) ReadOnly() bool { return v.readOnly }

// Flush makes everything durable and does all deferred work.
func (v *Vault) Flush() error {
	v.reaper.drain()
	if v.readOnly {
		return nil
	}
	err := errors.Join(v.journal.checkpoint(evenActive), v.keeper.run())
	v.reaper.drain() // what was held to be settled only
	if err = errors.Join(err, v.keeper.run()); err != nil {
		return err
	}
	return v.syncFS(v.losses()) // names and attributes, which leave the keeper nothing to do
}

// losses counts the failures of syncfs(2). Of each the kernel tells once, and not in which file: whoever has seen another
// number asks each file that matters.
func (v *Vault) losses() uint64 { return v.lossy.Load() }

// syncFS makes the whole file system durable; since is what losses was before what is to be durable was written.
func (v *Vault) syncFS(since uint64) error {
	v.syncing.Lock()
	defer v.syncing.Unlock()
	if err := v.top.SyncFS(); err != nil {
		v.lossy.Add(1)
		return err
	}
	if v.losses() != since {
		return errLossy
	}
	return nil
}

// errLossy: what was written may be among what another sync has failed for.
var errLossy = fmt.Errorf("a sync failed meanwhile: %w", syscall.EIO)

// Close makes everything durable, erases the keys that were never used, and closes the vault. No other call may be
// under way or follow. The keysource is not closed.
func (v *Vault) Close() error {
	v.nodes.mu.RLock()
	all := make([]*Node, 0, len(v.nodes.byID))
	for _, n := range v.nodes.byID {
		all = append(all, n)
	}
	v.nodes.mu.RUnlock()
	for _, n := range all {
		n.mu.Lock()
		n.opens = 0
		n.mu.Unlock()
	}
	close(v.keeper.stop)
	v.cancel() // the keysource is not waited for
	v.spares.close()
	v.pools.close()
	v.renewals.table.Close()
	errs := []error{v.journal.close()}
	if !v.readOnly {
		errs = append(errs, v.keeper.run()) // settles, and lets go of files
	}
	for _, n := range all {
		v.retireIdle(n)
	}
	v.reaper.drain()
	if !v.readOnly {
		errs = append(errs, v.keeper.run()) // erases the keys of what had no name
	}
	v.reaper.stop()
	v.wg.Wait()
	for _, f := range v.files.rest() { // what could not be settled
		f.close()
	}
	v.dirs.close()
	for _, n := range all {
		if d := n.openDir(); d != nil && n != v.root { // one that has lost its name
			d.discard()
		}
	}
	v.root.dir.h.Close()
	v.closeHandles()
	return errors.Join(errs...)
}

func (v *Vault) closeHandles() {
	if v.keys != nil {
		v.keys.Wipe()
	}
	if v.sidecar != nil {
		v.sidecar.Close()
		v.sidecar = nil
	}
	for _, c := range []io.Closer{v.lock, v.tmpDir, v.ctlDir, v.top} {
		switch h := c.(type) {
		case backing.File:
			if h != nil {
				h.Close()
			}
		case backing.Dir:
			if h != nil {
				h.Close()
			}
		}
	}
	v.lock, v.tmpDir, v.ctlDir, v.top = nil, nil, nil, nil
}
