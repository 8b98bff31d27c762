// Package reverse shows a plain directory as a vault that nothing stores (envelope/FORMAT.md, "Reverse"): read-only, and the
// same bytes each time, so that a backup tool that walks a tree sees what has changed and no more. It knows no FUSE.
//
// Start with [Open], whose state is a directory that [vault.Create] has made, and with [View.Root]. [View.Lookup] and
// [View.List] lead to the nodes, [View.Open] to what is read. [View.Prepare] makes the data keys that are missing.
//
// It guarantees that the record of a data key is durable in the state before a byte is shown that the key has sealed, that
// what one [Handle] shows of a group of a file is of one moment, and that nothing is written but below the state. It does
// not guarantee that a file that is written to meanwhile is shown as it was at one moment: that takes a snapshot.
//
// Lock order: a Handle's turn, then the mutexes, of which two are held at once only so: table, then dirs; maker, then keys.
// No mutex is held while the keysource works; a Handle's turn is, and then holds back who reads the same file.
//
// All methods are safe for concurrent use.
package reverse

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// StateName is the directory in the root of the source that is left out of the view: where its state is kept unless it is
// elsewhere.
const StateName = ".kmsfs.reverse"

// Names in the control directory.
const (
	configName = "vault.json"
	keysName   = "keys"
)

// Scope says how far the view goes.
type Scope uint8

// The scopes.
const (
	Everything    Scope = iota
	OneFileSystem       // directories of other file systems are empty
)

// Options of Open. The zero value shows everything and logs nothing.
type Options struct {
	Scope Scope
	// Log gets what an operator should know; nil: nothing is logged. Plaintext names never go there.
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Deadline bounds a call of the keysource for a new data key; 0: 30 s.
	Deadline time.Duration
	// KeyMaxAge is how long a data key is used before the keysource is asked for it again; 0: for ever.
	KeyMaxAge time.Duration
	// CacheBytes bounds what is kept of sealed groups; 0: 32 MiB. Eight groups always are.
	CacheBytes int64
	// Renew is called when the config was changed, by a rewrap: a keysource that wraps keys itself begins anew; nil: nothing is.
	Renew func()
	// OpenDirs bounds the directories kept open for later; 0: 256.
	OpenDirs int
}

// View is a plain directory as a vault.
type View struct {
	src, state, ctl backing.Dir
	lock            backing.File
	sidecar         *sidecar.Sidecar
	ks              keysource.Keysource
	vk              *envelope.VolumeKeys
	geo             envelope.Geometry
	cfg             *envelope.Config // as it was opened
	log             *slog.Logger
	now             func() time.Time
	deadline        time.Duration
	maxAge          time.Duration
	scope           Scope
	rootDev         uint64
	stateAt         [2]uint64 // device and inode

	nodes table
	dirs  dirs
	keys  keys
	maker maker
	cache cache
	walks walks
	ahead ahead
	open  atomic.Int64 // handles

	ctx    context.Context // ends when the view is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open shows src as the vault whose control directory is in state. Both are the View's from then on, also where it fails; ks
// is the caller's. It fails with [vault.ErrNotVault] where state has no config, with [vault.ErrLocked] where another view has
// it open, and as the keysource does.
func Open(ctx context.Context, src, state backing.Dir, ks keysource.Keysource, o Options) (_ *View, err error) {
	v := &View{src: src, state: state, ks: ks, log: o.Log, now: o.Now, deadline: o.Deadline, maxAge: o.KeyMaxAge, scope: o.Scope}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.deadline == 0 {
		v.deadline = 30 * time.Second
	}
	defer func() {
		if err != nil {
			v.closeHandles()
		}
	}()
	if v.cfg, err = vault.ReadConfig(state); err != nil {
		return nil, err
	}
	if v.geo, err = envelope.NewGeometry(v.cfg.ChunkSize); err != nil {
		return nil, err
	}
	if v.ctl, err = state.OpenDir(envelope.ControlDir); err != nil {
		return nil, err
	}
	if v.lock, err = vault.LockAlone(v.ctl); err != nil {
		return nil, err
	}
	if v.vk, err = vault.OpenVolumeKey(ctx, ks, v.cfg); err != nil {
		return nil, err
	}
	if v.sidecar, err = sidecar.Open(v.ctl, v.cfg.Volume); err != nil {
		return nil, fmt.Errorf("%w: %w", vault.ErrCorrupt, err)
	}
	st, err := src.Stat()
	if err != nil {
		return nil, err
	}
	of, err := state.Stat()
	if err != nil {
		return nil, err
	}
	v.rootDev, v.stateAt = st.Dev, [2]uint64{of.Dev, of.Ino}
	if err = v.keys.start(ctx, v); err != nil {
		return nil, err
	}
	v.nodes.start(v, &st)
	v.dirs.start(v, o.OpenDirs)
	v.ahead.start(v)
	v.maker.renew = o.Renew
	v.maker.start(v)
	v.cache.start(v, o.CacheBytes)
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v, nil
}

// Close ends the view. No other call is under way.
func (v *View) Close() error {
	v.cancel()
	v.wg.Wait()
	v.maker.close()
	v.keys.close()
	v.dirs.close()
	v.closeHandles()
	return nil
}

func (v *View) closeHandles() {
	if v.sidecar != nil {
		v.sidecar.Close()
	}
	if v.vk != nil {
		v.vk.Wipe()
	}
	if v.lock != nil {
		v.lock.Close()
	}
	for _, d := range []backing.Dir{v.ctl, v.state, v.src} {
		if d != nil {
			d.Close()
		}
	}
}

// Config returns the config of the state, as it was opened; it is not to be changed.
func (v *View) Config() *envelope.Config { return v.cfg }

// Statfs is that of the source.
func (v *View) Statfs() (backing.Statfs, error) { return v.src.Statfs() }

// Stats are counters of a view.
type Stats struct {
	Nodes     int   // that the caller refers to
	OpenFiles int64 // handles
	KeysMade  uint64
	KeysKept  int // data keys of which a record is known
}

// Stats returns the counters.
func (v *View) Stats() Stats {
	return Stats{Nodes: v.nodes.count(), OpenFiles: v.open.Load(), KeysMade: v.maker.count.Load(), KeysKept: v.keys.count()}
}

// parallel is how much work of the processor is done at once.
func parallel() int { return runtime.GOMAXPROCS(0) }
