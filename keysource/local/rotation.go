package local

import (
	"context"

	"kmsfs/keysource"
)

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
		if err := usable(op, k); err != nil {
			return err
		}
		if n := k.rotations(keysource.RotationOnDemand); n >= maxRotations {
			return fail(op, k.arn, keysource.CodeLimitExceeded, "%s was rotated on demand %d times already.", k.arn, n)
		}
		return sn.change(k, func(k *cmk) error {
			next, err := s.nextMaterial(op, k)
			if err != nil {
				return err
			}
			next.rotation, next.since = keysource.RotationOnDemand, s.now()
			k.materials, k.pending = append(k.materials, next), nil
			md = k.metadata(sn.account)
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
		State: state, Origin: m.origin, RotationType: m.rotation, RotationDate: m.since}
}
