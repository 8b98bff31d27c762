package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault/bug"
	"kmsfs/keysource"
)

// grant says when the keysource was last known to give out a file's key.
type grant struct {
	at    time.Duration // when it was asked, by Vault.elapsed
	epoch uint64        // of the vault then
	ended bool          // it has refused since: the key is kept only for what was accepted before
}

// granted returns a grant of now, for a key that is about to be asked for.
func (v *Vault) granted() grant { return grant{at: v.elapsed(), epoch: v.epoch.Load()} }

// due says whether the key of f must be asked for again before f is used; asked says that this was just done. f.mu is held,
// at least for reading.
func (f *file) due(m lockMode, asked bool) bool {
	if f.key == nil || f.form == formEmpty && m == lockRead { // nothing is there to be read
		return false
	}
	age := f.v.confirmEvery
	return f.grant.ended || f.grant.epoch != f.v.epoch.Load() || age > 0 && !asked && f.v.elapsed()-f.grant.at > age
}

// confirmation is one question to the keysource, for all who wait for its answer.
type confirmation struct {
	done chan struct{}
	err  error // set before done is closed
}

// confirm asks the keysource whether the key of f may still be used. nil says that the caller is to look again. No lock is
// held.
func (f *file) confirm(ctx context.Context) error {
	f.keyMu.Lock()
	if c := f.confirming; c != nil {
		f.keyMu.Unlock()
		select {
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoKey, ctx.Err())
		}
	}
	c := &confirmation{done: make(chan struct{})}
	f.confirming = c
	f.keyMu.Unlock()
	err := bug.Err
	defer func() { // also where a panic passes
		if ctx.Err() == nil { // else it says nothing to the others
			c.err = err
		}
		f.keyMu.Lock()
		f.confirming = nil
		f.keyMu.Unlock()
		close(c.done)
	}()
	err = f.ask(ctx)
	return err
}

// ask is confirm for one at a time.
func (f *file) ask(ctx context.Context) error {
	f.mu.RLock()
	id, loc, key := f.id, f.loc, f.key
	f.mu.RUnlock()
	if key == nil {
		return nil
	}
	now := f.v.granted()
	again, prev, err := f.v.fileKey(ctx, loc, id)
	if err == nil {
		again.Wipe() // the record vouches that it is the same
		if prev != nil {
			prev.key.Wipe()
		}
	}
	f.mu.Lock()
	if f.key != key || f.loc != loc { // it has got another one meanwhile
		f.mu.Unlock()
		return nil
	}
	if err == nil {
		f.grant = now
		f.mu.Unlock()
		return nil
	}
	if ctx.Err() != nil || !ends(err) {
		lost := f.v.shared
		f.opened = f.opened && !lost
		f.mu.Unlock()
		if lost && f.overtaken(id, loc) {
			return nil
		}
		return err
	}
	first := !f.grant.ended
	f.grant.ended = true
	f.shut()
	f.mu.Unlock()
	if tell := f.v.refused.Load(); first && tell != nil {
		(*tell)(f.n)
	}
	return err
}

// ends says whether err means that a key may not be used, or that it is not known for too long whether it may. What says
// nothing of the CMK, a record that cannot be read, makes nobody lose a key.
func ends(err error) bool {
	for _, e := range []error{keysource.ErrDenied, keysource.ErrDisabled, keysource.ErrInvalidState, keysource.ErrNotFound, keysource.ErrUnavailable} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// shut forgets the key of f, whose grant has ended, and all plaintext, as if f had not been opened yet; while anything that was
// accepted is to be completed, it does nothing, and is called again then. f.mu is held for writing.
func (f *file) shut() {
	if !f.grant.ended || f.key == nil || f.pends() || f.excess || f.v.journal.has(f) || f.renewing {
		return
	}
	if (f.dirtyNoted || len(f.touched)+len(f.settling) > 0) && !f.isGone() {
		return
	}
	if f.form == formEmpty {
		if !f.unused && f.v.shared {
			return
		}
		f.v.keeper.erase(f.loc) // nothing is under it
		f.id, f.loc, f.unused = envelope.FileID{}, envelope.Locator{}, false
	} else {
		f.headed, f.opened = false, false
		f.held = true // what is known of its size is old
	}
	f.dropGroups()
	clear(f.inline)
	f.inline, f.block0, f.checked = nil, nil, false
	f.key.Wipe()
	if f.prev != nil {
		f.prev.key.Wipe()
	}
	f.key, f.keyLoc, f.prev, f.grant = nil, envelope.Locator{}, nil, grant{}
	if !f.v.shared {
		f.headLocked() // for the size; what it refuses, the next use reports
	}
}

// completed is called where something that was accepted has been completed. No lock is held.
func (f *file) completed() {
	f.mu.Lock()
	f.shut()
	f.mu.Unlock()
}

// Purge gives up the data keys that were made ahead, and has the key of every open file asked for again when it is next
// used. Whoever calls it purges the cache of the keysource first.
func (v *Vault) Purge() {
	v.epoch.Add(1)
	v.pools.drain()
}

// OnRefused has tell called when the keysource has refused the key of an open file that it gave before. It is called by the
// operation that is refused, with no lock held, and must not wait for anything of that file.
func (v *Vault) OnRefused(tell func(n *Node)) { v.refused.Store(&tell) }
