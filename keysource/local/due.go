package local

import (
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"kmsfs/keysource"
)

// Things that happen by themselves: a CMK is deleted when its waiting time is over, imported key material when it
// expires, and key material is rotated by schedule. They are carried out by the next change, or by the first call after
// their time that finds the store unlocked.

// settleRetry is how long after a failure nothing is tried, so that a key store that cannot be written costs a mount
// little more than a line in its log each time.
const settleRetry = time.Minute

// due is when the next thing happens to the CMK, or zero.
func (k *cmk) due() time.Time {
	var first time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if k.state == keysource.KeyStatePendingDeletion {
		at(k.deletion)
	}
	if k.state == keysource.KeyStateEnabled {
		at(k.nextRotation())
	}
	at(k.validTo())
	if k.pending != nil {
		at(k.pending.validTo)
	}
	return first
}

// settle carries out in sn, a clone, all that is due by now, and tells whether anything was.
func (s *Store) settle(sn *snapshot, now time.Time) (bool, error) {
	if sn.due.IsZero() || now.Before(sn.due) {
		return false, nil
	}
	for id, k := range sn.keys {
		if due := k.due(); due.IsZero() || now.Before(due) {
			continue
		}
		if k.deleted(now) {
			sn.remove(id)
			continue
		}
		if err := sn.change(k, func(k *cmk) error { return s.settleCMK(k, now) }); err != nil {
			return false, err
		}
	}
	sn.index()
	return true, nil
}

// settleCMK carries out what is due on one CMK.
func (s *Store) settleCMK(k *cmk, now time.Time) error {
	for i, m := range k.materials {
		if m.expired(now) {
			k.materials[i] = m.withoutSecret()
		}
	}
	if k.pending != nil && k.pending.expired(now) {
		k.pending = nil
	}
	if !k.complete() && k.state != keysource.KeyStatePendingDeletion {
		k.state = keysource.KeyStatePendingImport
	}
	return s.rotateIfDue(k, now)
}

// withoutSecret is what stays of imported material that expired or was deleted.
func (m *material) withoutSecret() *material {
	return &material{id: m.id, idText: m.idText, origin: m.origin, rotation: m.rotation, since: m.since,
		description: m.description, missing: true}
}

// deleted tells whether the CMK was to be deleted by now.
func (k *cmk) deleted(now time.Time) bool {
	return k.state == keysource.KeyStatePendingDeletion && !now.Before(k.deletion)
}

// remove takes a CMK and its aliases away.
func (sn *snapshot) remove(id uuid) {
	delete(sn.keys, id)
	for name, a := range sn.aliases {
		if a.target == id {
			delete(sn.aliases, name)
		}
	}
}

// settleNow carries out what is due, if nobody else is changing the store just now. A failure is only logged: the call
// that came by has nothing to do with it.
func (s *Store) settleNow(now time.Time) {
	select {
	case s.admin <- struct{}{}:
		defer func() { <-s.admin }()
	default:
		return
	}
	if s.closed || s.snap.due.IsZero() || now.Before(s.snap.due) || now.Before(s.settleAfter) {
		return
	}
	err := s.trySettle()
	if errors.Is(err, errBusy) {
		return
	}
	if err != nil {
		s.settleAfter = now.Add(settleRetry)
		s.cfg.Logger.Warn("key store: what is due cannot be carried out", slog.String("path", s.path), slog.Any("error", err))
	}
}

// trySettle is a change of nothing but what is due. The caller has s.admin.
func (s *Store) trySettle() error {
	lock, err := s.cfg.fsys.TryLock(filepath.Join(s.cfg.Dir, LockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.changeLocked("settle", func(*snapshot) error { return errNoChange })
}
