package local

import (
	"context"
	"slices"
	"time"

	"kmsfs/keysource"
)

// The rotation periods of AWS KMS in days. An AWS managed CMK has the default.
const (
	minRotationPeriod = 90
	maxRotationPeriod = 2560
	// DefaultRotationPeriod is the period of EnableKeyRotation when none is given, in days.
	DefaultRotationPeriod = 365
)

// rotationConflict is how long before an automatic rotation there is none on demand, as with AWS.
const rotationConflict = 20 * time.Minute

// schedule is when a customer managed CMK is rotated by itself.
type schedule struct {
	period int       // days, 0 is never
	next   time.Time // when next
}

// days is a time of n days.
func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// nextRotation is when the CMK is rotated by itself, unless its state keeps it from that; zero is never.
func (k *cmk) nextRotation() time.Time {
	if k.manager == keysource.ManagerCustomer {
		return k.rotation.next
	}
	last := k.created
	for _, m := range slices.Backward(k.materials) {
		if m.rotation == keysource.RotationAutomatic {
			last = m.since
			break
		}
	}
	return last.Add(days(DefaultRotationPeriod))
}

// rotationPeriod is the period of automatic rotation in days, 0 where there is none.
func (k *cmk) rotationPeriod() int {
	if k.manager == keysource.ManagerCustomer {
		return k.rotation.period
	}
	return DefaultRotationPeriod
}

// rotateIfDue gives the CMK new key material if its schedule says so. Time that was missed, as nobody used the store or
// the CMK was disabled, is made up for by one rotation.
func (s *Store) rotateIfDue(k *cmk, now time.Time) error {
	next := k.nextRotation()
	if k.state != keysource.KeyStateEnabled || k.origin != keysource.OriginAWSKMS || next.IsZero() || now.Before(next) {
		return nil
	}
	m, err := s.newMaterial(k.id, now)
	if err != nil {
		return err
	}
	m.rotation = keysource.RotationAutomatic
	k.materials = append(k.materials, m)
	if k.rotation.period > 0 {
		k.rotation.next = now.Add(days(k.rotation.period))
	}
	return nil
}

// EnableKeyRotation has a customer managed CMK of OriginAWSKMS rotated every so many days from now on, 90 to 2560; 0 is
// DefaultRotationPeriod. Where it is so already nothing changes.
func (s *Store) EnableKeyRotation(ctx context.Context, key keysource.KeyRef, periodInDays int) error {
	const op = "EnableKeyRotation"
	if periodInDays == 0 {
		periodInDays = DefaultRotationPeriod
	}
	if periodInDays < minRotationPeriod || periodInDays > maxRotationPeriod {
		return errValue(op, "rotationPeriodInDays", "between 90 and 2560")
	}
	return s.updateSchedule(ctx, op, key, func() schedule {
		return schedule{periodInDays, s.now().Add(days(periodInDays))}
	})
}

// DisableKeyRotation ends the automatic rotation of a customer managed CMK.
func (s *Store) DisableKeyRotation(ctx context.Context, key keysource.KeyRef) error {
	return s.updateSchedule(ctx, "DisableKeyRotation", key, func() schedule { return schedule{} })
}

// updateSchedule sets what next returns, unless it has the period that there is.
func (s *Store) updateSchedule(ctx context.Context, op string, key keysource.KeyRef, next func() schedule) error {
	return s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		switch {
		case k.origin != keysource.OriginAWSKMS:
			return errOrigin(op, k)
		case k.state != keysource.KeyStateEnabled:
			return errState(op, k.arn, k.state)
		}
		want := next()
		if want.period == k.rotation.period {
			return errNoChange
		}
		k.rotation = want
		return nil
	})
}

// RotateKeyOnDemand gives a CMK new current key material: random, or for OriginExternal what ImportKeyMaterial brought.
// The id, ARN and aliases stay; old material decrypts for ever. Unlike in AWS, an AWS managed CMK can be rotated too:
// in an embedded store its user is also its service.
func (s *Store) RotateKeyOnDemand(ctx context.Context, key keysource.KeyRef) (keysource.KeyMetadata, error) {
	const op = "RotateKeyOnDemand"
	var md keysource.KeyMetadata
	err := s.update(ctx, op, func(sn *snapshot) error {
		k, err := sn.find(op, key)
		if err != nil {
			return err
		}
		if err := s.usable(op, k); err != nil {
			return err
		}
		if n := k.rotations(keysource.RotationOnDemand); n >= maxRotations {
			return fail(op, k.arn, keysource.CodeLimitExceeded, "%s was rotated on demand %d times already.", k.arn, n)
		}
		if next := k.nextRotation(); !next.IsZero() && next.Sub(s.now()) < rotationConflict {
			return fail(op, k.arn, keysource.CodeConflict, "%s is about to be rotated automatically.", k.arn)
		}
		return sn.change(k, func(k *cmk) error {
			next, err := s.nextMaterial(op, k)
			if err != nil {
				return err
			}
			next.rotation, next.since = keysource.RotationOnDemand, s.now()
			k.materials, k.pending = append(k.materials, next), nil
			md = s.describe(sn, k)
			return nil
		})
	})
	if err != nil {
		return keysource.KeyMetadata{}, err
	}
	return md, nil
}

// nextMaterial is the material that a rotation makes current, in a copy of its own.
func (s *Store) nextMaterial(op string, k *cmk) (*material, error) {
	if k.origin != keysource.OriginExternal {
		return s.newMaterial(k.id, s.now())
	}
	if k.pending == nil {
		return nil, fail(op, k.arn, keysource.CodeInvalidState,
			"No available key material pending rotation for the key: %s.", k.arn)
	}
	next := *k.pending
	return &next, nil
}

// rotations counts the key material that became current in one way.
func (k *cmk) rotations(by keysource.RotationType) int {
	n := 0
	for _, m := range k.materials {
		if m.rotation == by {
			n++
		}
	}
	return n
}

// ListKeyRotations returns all key material of a CMK, the oldest first, with what is pending last.
func (s *Store) ListKeyRotations(ctx context.Context, key keysource.KeyRef) ([]keysource.KeyRotation, error) {
	var list []keysource.KeyRotation
	err := s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find("ListKeyRotations", key)
		if err != nil {
			return err
		}
		list = nil
		for _, m := range k.materials {
			state := keysource.MaterialNonCurrent
			if m == k.current() {
				state = keysource.MaterialCurrent
			}
			list = append(list, m.describe(k, state))
		}
		if k.pending != nil {
			list = append(list, k.pending.describe(k, keysource.MaterialPendingRotation))
		}
		return nil
	})
	return list, err
}

// describe says all of a key material but its secret.
func (m *material) describe(k *cmk, state keysource.KeyMaterialState) keysource.KeyRotation {
	return keysource.KeyRotation{KeyID: k.arn, KeyMaterialID: m.idText, KeyMaterialDescription: m.description,
		State: state, Origin: m.origin, RotationType: m.rotation, RotationDate: m.since,
		ValidTo: m.validTo, Missing: m.missing}
}
