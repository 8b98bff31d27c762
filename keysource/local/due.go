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

// Event is something that happened to a CMK by itself, in the names of CloudTrail.
type Event struct {
	// Name is EventRotateKey, EventDeleteKey or EventDeleteMaterial.
	Name string
	// KeyID is the ARN of the CMK.
	KeyID string
	// KeyMaterialID is the key material that became current or expired.
	KeyMaterialID string
	// Time is when it was carried out, which may be long after it was due.
	Time time.Time
}

// The names of events.
const (
	EventRotateKey      = "RotateKey"                // automatic rotation
	EventDeleteKey      = "DeleteKey"                // the waiting time was over
	EventDeleteMaterial = "DeleteExpiredKeyMaterial" // imported key material expired
)

// settle carries out in sn, a clone, all that is due by now, and returns what it did.
func (s *Store) settle(sn *snapshot, now time.Time) ([]Event, error) {
	if sn.due.IsZero() || now.Before(sn.due) {
		return nil, nil
	}
	var events []Event
	for id, k := range sn.keys {
		if due := k.due(); due.IsZero() || now.Before(due) {
			continue
		}
		if k.deleted(now) {
			sn.remove(id)
			events = append(events, Event{Name: EventDeleteKey, KeyID: k.arn, Time: now})
			continue
		}
		err := sn.change(k, func(k *cmk) error {
			events = append(events, k.expireMaterial(now)...)
			return s.rotateIfDue(k, now)
		})
		if err != nil {
			return nil, err
		}
		if next := sn.keys[id]; len(next.materials) > len(k.materials) {
			events = append(events, Event{EventRotateKey, k.arn, next.current().idText, now})
		}
	}
	sn.index()
	return events, nil
}

// expireMaterial deletes what has expired of k, which is a copy.
func (k *cmk) expireMaterial(now time.Time) []Event {
	var events []Event
	for i, m := range k.materials {
		if m.expired(now) {
			k.materials[i] = m.withoutSecret()
			events = append(events, Event{EventDeleteMaterial, k.arn, m.idText, now})
		}
	}
	if m := k.pending; m != nil && m.expired(now) {
		k.pending = nil
		events = append(events, Event{EventDeleteMaterial, k.arn, m.idText, now})
	}
	if !k.complete() && k.state != keysource.KeyStatePendingDeletion {
		k.state = keysource.KeyStatePendingImport
	}
	return events
}

// report tells the log and Config.Event what happened. A copy of the store from before lacks new key material, and holds
// deleted one, which who keeps backups should know.
func (s *Store) report(events []Event) {
	for _, e := range events {
		s.cfg.Logger.Info("key store: a change that was due was made; make new backups", slog.String("event", e.Name),
			slog.String("key", e.KeyID), slog.String("keyMaterialId", e.KeyMaterialID))
		if s.cfg.Event != nil {
			s.cfg.Event(e)
		}
	}
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
