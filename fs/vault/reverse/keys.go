package reverse

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
)

// keysAtHand is how many data keys are kept that no handle uses.
const keysAtHand = 4096

// dataKey is a file's data key and where its record is.
type dataKey struct {
	fk   *envelope.FileKey
	loc  envelope.Locator
	born time.Time // when the keysource gave it
}

// keys knows where the records are, and has data keys that may soon be used.
type keys struct {
	v *View

	mu     sync.Mutex // a leaf
	at     map[envelope.FileID]envelope.Locator
	lru    *list.List // of envelope.FileID, the newest in front
	atHand map[envelope.FileID]keptKey
}

type keptKey struct {
	dataKey
	elem *list.Element
}

// start reads the key tables. Of several records of one file the oldest counts, in each run the same.
func (k *keys) start(ctx context.Context, v *View) error {
	k.v, k.at, k.lru, k.atHand = v, map[envelope.FileID]envelope.Locator{}, list.New(), map[envelope.FileID]keptKey{}
	created := map[envelope.FileID]int64{}
	return v.sidecar.Scan(ctx, sidecar.ScanOptions{Parallel: parallel()}, func(p *sidecar.Part) error {
		if p.Err != nil {
			v.log.Error("a key table cannot be read: files get new data keys, which size and times do not show; have the backup tool read all anew", "table", envelope.TableName(p.Table), "err", p.Err)
			return nil
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		for e := range p.Entries() {
			if e.Err != nil {
				v.log.Error("a key record is damaged: its file gets a new data key, which size and times do not show; have the backup tool read all anew", "record", e.Loc.String(), "err", e.Err)
				continue
			}
			old, known := k.at[e.Record.ID]
			was := created[e.Record.ID]
			if known && (was < e.Record.Created || was == e.Record.Created && before(old, e.Loc)) {
				continue
			}
			k.at[e.Record.ID], created[e.Record.ID] = e.Loc, e.Record.Created
		}
		return nil
	})
}

func before(a, b envelope.Locator) bool {
	return a.Table < b.Table || a.Table == b.Table && a.Slot < b.Slot
}

func (k *keys) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.at)
}

func (k *keys) locator(id envelope.FileID) (envelope.Locator, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	loc, ok := k.at[id]
	return loc, ok
}

func (k *keys) note(id envelope.FileID, loc envelope.Locator) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at[id] = loc
}

// lose forgets a record that is not there any more.
func (k *keys) lose(id envelope.FileID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.at, id)
}

// keep takes over a key that is not used now. The one that was kept longest makes room for it.
func (k *keys) keep(id envelope.FileID, d dataKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.atHand[id]; ok {
		d.fk.Wipe()
		return
	}
	k.atHand[id] = keptKey{d, k.lru.PushFront(id)}
	for k.lru.Len() > keysAtHand {
		k.dropLocked(k.lru.Back().Value.(envelope.FileID))
	}
}

// has says whether the key of id is at hand.
func (k *keys) has(id envelope.FileID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.atHand[id]
	return ok
}

// take returns a key that was kept, which is the caller's then. It is not older than it may be.
func (k *keys) take(id envelope.FileID) (dataKey, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept, ok := k.atHand[id]
	if !ok {
		return dataKey{}, false
	}
	if k.v.tooOld(kept.born) {
		k.dropLocked(id)
		return dataKey{}, false
	}
	delete(k.atHand, id)
	k.lru.Remove(kept.elem)
	return kept.dataKey, true
}

func (k *keys) dropLocked(id envelope.FileID) {
	kept := k.atHand[id]
	kept.fk.Wipe()
	k.lru.Remove(kept.elem)
	delete(k.atHand, id)
}

// wipe forgets all keys that are kept, and returns how many.
func (k *keys) wipe() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.atHand)
	for id := range k.atHand {
		k.dropLocked(id)
	}
	return n
}

func (k *keys) close() { k.wipe() }

// Purge wipes the data keys that no open file uses, and returns how many there were.
func (v *View) Purge() int { return v.keys.wipe() }

func (v *View) tooOld(born time.Time) bool { return v.maxAge > 0 && v.now().Sub(born) > v.maxAge }

// dataKey returns the data key of file id, which is made where it has none.
func (v *View) dataKey(ctx context.Context, id envelope.FileID) (dataKey, error) {
	const tries = 3 // a record that was just made is there
	for i := range tries {
		if d, ok := v.keys.take(id); ok {
			v.ahead.used(d.loc, 0)
			return d, nil
		}
		if loc, ok := v.keys.locator(id); ok {
			began := time.Now()
			d, err := v.openKey(ctx, id, loc)
			if err == nil {
				v.ahead.used(loc, time.Since(began))
			}
			if !errors.Is(err, sidecar.ErrNoRecord) || i == tries-1 {
				return d, err
			}
			v.log.Error("a key record is gone: its file gets a new data key, which size and times do not show; have the backup tool read all anew", "record", loc.String(), "err", err)
			v.keys.lose(id)
		}
		if err := v.maker.make(ctx, id); err != nil {
			return dataKey{}, err
		}
	}
	return dataKey{}, vault.ErrNoKey
}

// openKey unwraps the data key whose record is at loc. A record that does not open is read again under the name of its table:
// it may have been rewrapped, and its old CMK be gone.
func (v *View) openKey(ctx context.Context, id envelope.FileID, loc envelope.Locator) (dataKey, error) {
	born := v.now()
	r, err := v.sidecar.Record(loc, id)
	if err == nil {
		var fk *envelope.FileKey
		if fk, err = vault.OpenDataKey(ctx, v.ks, v.cfg.Volume, v.geo, r); err == nil {
			return dataKey{fk, loc, born}, nil
		}
	}
	now, e := v.sidecar.Reread(loc, id)
	if e != nil || ctx.Err() != nil {
		return dataKey{}, errors.Join(err, e)
	}
	fk, err := vault.OpenDataKey(ctx, v.ks, v.cfg.Volume, v.geo, now)
	return dataKey{fk, loc, born}, err
}

// fileID is the id of the file name in d, at path, in a file system that is entered at top. All names of one file have one.
func (v *View) fileID(d backing.Dir, name, path, top string, st *backing.Stat) (envelope.FileID, error) {
	if st.Nlink < 2 {
		return v.vk.ReverseFileID(path), nil
	}
	b, err := d.StatBirth(name)
	if err != nil {
		return envelope.FileID{}, fmt.Errorf("birth time: %w", err)
	}
	return v.vk.ReverseLinkedID(top, b.Ino, b.Btim.Sec, b.Btim.Nsec), nil
}
