package vault

import (
	"errors"
	"math"
	"sync"
	"time"

	"kmsfs/envelope"
)

// keeper does the work that must come after things are durable: it settles files (checks on them become strict, see
// FORMAT.md), erases the records of deleted files, and takes apart removed directories. One syncfs serves a whole batch.
type keeper struct {
	v *Vault

	running sync.Mutex // held by run: what one run has marked is not another's
	lost    uint64     // Vault.losses that every file was asked about, guarded by running

	mu     sync.Mutex
	dirty  map[*file]struct{} // to be settled
	erased []envelope.Locator // records to be zeroed
	aside  []string           // directories in .kmsfs/tmp, to be taken apart
	wake   chan struct{}
	stop   chan struct{}
}

// eraseMost is how many records may wait to be erased before the keeper is woken.
const eraseMost = 8192

func (k *keeper) start(v *Vault) {
	k.v = v
	k.dirty = map[*file]struct{}{}
	k.wake = make(chan struct{}, 1)
	k.stop = make(chan struct{})
	v.wg.Add(1)
	go func() {
		defer v.wg.Done()
		t := time.NewTicker(v.keepEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-k.wake:
			case <-k.stop:
				return
			}
			if err := v.guarded(k.run); err != nil {
				v.log.Error("deferred work failed; it will be tried again", "err", err)
			}
		}
	}()
}

// settleLater notes that f has to be settled. The caller holds f.mu; f keeps its node until then.
func (k *keeper) settleLater(f *file) {
	if f.dirtyNoted {
		return
	}
	f.dirtyNoted = true
	k.mu.Lock()
	k.dirty[f] = struct{}{}
	full := len(k.dirty) == wakeFactor*k.v.files.max
	k.mu.Unlock()
	f.hold()
	if full {
		k.hurry()
	}
}

// hurry makes the keeper run now.
func (k *keeper) hurry() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// drop lets go of f, which has no name any more: there is nothing to settle for.
func (k *keeper) drop(f *file) {
	k.mu.Lock()
	_, held := k.dirty[f]
	delete(k.dirty, f)
	k.mu.Unlock()
	if held {
		f.release()
	}
}

// erase notes that the record at loc belongs to nothing any more.
func (k *keeper) erase(loc envelope.Locator) {
	if k.v.copied.Load() && !k.v.pools.writes(loc.Table) && !k.v.renewals.writes(loc.Table) {
		return
	}
	k.mu.Lock()
	k.erased = append(k.erased, loc)
	full := len(k.erased) == eraseMost
	k.mu.Unlock()
	if full {
		k.hurry()
	}
}

// asideMost is how many directories may wait to be taken apart before the keeper is woken.
const asideMost = 1024

// takeApart notes that a directory was moved to .kmsfs/tmp for good. It keeps its id until that is durable: a crash that brings it
// back brings back a directory.
func (k *keeper) takeApart(name string) {
	k.mu.Lock()
	k.aside = append(k.aside, name)
	full := len(k.aside) == asideMost
	k.mu.Unlock()
	if full {
		k.hurry()
	}
}

// run makes everything durable, then settles, erases and takes apart what was noted before.
func (k *keeper) run() error {
	k.running.Lock()
	defer k.running.Unlock()
	k.mu.Lock()
	dirty, erased, aside := k.dirty, k.erased, k.aside
	if len(dirty) == 0 && len(erased) == 0 && len(aside) == 0 {
		k.mu.Unlock()
		return nil
	}
	k.dirty, k.erased, k.aside = map[*file]struct{}{}, nil, nil
	k.mu.Unlock()
	if err := k.v.journal.checkpoint(evenActive); err != nil {
		k.v.journal.logFailure(err) // what it is about is put off
	}
	marks := make(map[*file]uint64, len(dirty))
	for f := range dirty {
		marks[f] = f.mark()
	}
	lost := k.v.losses()
	err := k.v.syncFS(lost)
	if err != nil {
		for f := range dirty {
			f.again()
		}
		k.mu.Lock()
		k.erased = append(k.erased, erased...)
		k.aside = append(k.aside, aside...)
		k.mu.Unlock()
		return err
	}
	for _, name := range aside {
		k.v.takeApart(name)
	}
	var errs []error
	trusted := lost == k.lost
	for f, mark := range marks {
		if !trusted || lossy(f.handle()) { // another was told of what was lost, or nobody of whose
			if e := f.syncAgain(); e != nil {
				errs = append(errs, f.n.fail("settle", e))
				f.again()
				continue
			}
		}
		if e := f.settle(mark); e != nil {
			errs = append(errs, f.n.fail("settle", e))
		}
	}
	k.lost = lost
	k.v.files.trim(k.v, math.MaxInt)
	if left, e := k.v.sidecar.Zero(erased, k.v.appends); e != nil {
		errs = append(errs, e)
		k.mu.Lock()
		k.erased = append(k.erased, left...)
		k.mu.Unlock()
	}
	return errors.Join(errs...)
}

// appends tells whether somebody may be appending to key table id.
func (v *Vault) appends(id uint64) bool {
	return v.shared || v.pools.writes(id) || v.renewals.writes(id)
}
