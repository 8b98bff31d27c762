package local

import (
	"context"
	"time"
	"unicode/utf8"

	"kmsfs/keysource"
)

// Quotas of AWS KMS.
const (
	maxKeys            = 100_000
	maxAliasesPerKey   = 50
	maxRotations       = 25 // on demand, for one CMK
	maxDescriptionSize = 8192
)

// CreateKey makes a customer managed CMK. Of OriginAWSKMS it is ready; of OriginExternal it waits for
// ImportKeyMaterial.
func (s *Store) CreateKey(ctx context.Context, in keysource.CreateKeyInput) (keysource.KeyMetadata, error) {
	const op = "CreateKey"
	var md keysource.KeyMetadata
	if err := checkDescription(op, in.Description, maxDescriptionSize); err != nil {
		return md, err
	}
	if err := checkPolicy(op, in.Policy); err != nil {
		return md, err
	}
	if err := checkTags(op, in.Tags); err != nil {
		return md, err
	}
	if len(in.Tags) > MaxTags {
		return md, fail(op, "", keysource.CodeLimitExceeded, "A CMK has at most %d tags.", MaxTags)
	}
	err := s.update(ctx, op, func(sn *snapshot) error {
		if len(sn.keys) >= maxKeys {
			return fail(op, "", keysource.CodeLimitExceeded, "A key store holds at most %d CMKs.", maxKeys)
		}
		k, err := s.newCMK(sn, keysource.ManagerCustomer, in, s.now())
		if err == nil {
			md = s.describe(sn, k)
		}
		return err
	})
	if err != nil {
		return keysource.KeyMetadata{}, err
	}
	return md, nil
}

// newCMK adds a CMK to sn.
func (s *Store) newCMK(sn *snapshot, by keysource.KeyManager, in keysource.CreateKeyInput, now time.Time) (*cmk, error) {
	id, err := newUUID(s.cfg.Rand)
	if err != nil {
		return nil, err
	}
	k := &cmk{id: id, arn: sn.arnPrefix() + "key/" + id.String(), description: in.Description, created: now,
		origin: in.Origin, manager: by, policy: in.Policy, tags: mergeTags(nil, in.Tags)}
	switch in.Origin {
	case "", keysource.OriginAWSKMS:
		m, err := s.newMaterial(id, now)
		if err != nil {
			return nil, err
		}
		k.origin, k.state, k.materials = keysource.OriginAWSKMS, keysource.KeyStateEnabled, []*material{m}
	case keysource.OriginExternal:
		k.state = keysource.KeyStatePendingImport
	default:
		return nil, fail("CreateKey", "", keysource.CodeUnsupported, "Origin %s is not supported.", in.Origin)
	}
	sn.keys[id] = k
	return k, nil
}

// newMaterial makes random key material for the CMK id.
func (s *Store) newMaterial(id uuid, now time.Time) (*material, error) {
	m := &material{origin: keysource.OriginAWSKMS, since: now}
	if err := s.fillRandom(m.secret[:]); err != nil {
		return nil, err
	}
	m.setID(id)
	return m, nil
}

// ListKeys returns all CMKs, the oldest first.
func (s *Store) ListKeys(ctx context.Context) ([]keysource.KeyListEntry, error) {
	var list []keysource.KeyListEntry
	err := s.with(ctx, func(sn *snapshot) error {
		for _, k := range sn.sortedKeys() {
			list = append(list, keysource.KeyListEntry{KeyID: k.id.String(), ARN: k.arn})
		}
		return nil
	})
	return list, err
}

// EnableKey makes a disabled CMK usable. An enabled one stays so.
func (s *Store) EnableKey(ctx context.Context, key keysource.KeyRef) error {
	return s.setState(ctx, "EnableKey", key, keysource.KeyStateEnabled)
}

// DisableKey makes a CMK unusable until EnableKey. An AWS managed CMK is keysource.ErrDenied.
func (s *Store) DisableKey(ctx context.Context, key keysource.KeyRef) error {
	return s.setState(ctx, "DisableKey", key, keysource.KeyStateDisabled)
}

// setState is EnableKey and DisableKey.
func (s *Store) setState(ctx context.Context, op string, key keysource.KeyRef, state keysource.KeyState) error {
	return s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		switch {
		case k.state != keysource.KeyStateEnabled && k.state != keysource.KeyStateDisabled:
			return errState(op, k.arn, k.state)
		case k.state == state:
			return errNoChange
		}
		k.state = state
		return nil
	})
}

// UpdateKeyDescription replaces the description of a customer managed CMK.
func (s *Store) UpdateKeyDescription(ctx context.Context, key keysource.KeyRef, description string) error {
	const op = "UpdateKeyDescription"
	if err := checkDescription(op, description, maxDescriptionSize); err != nil {
		return err
	}
	return s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		if k.state == keysource.KeyStatePendingDeletion {
			return errState(op, k.arn, k.state)
		}
		k.description = description
		return nil
	})
}

// updateKey changes one customer managed CMK: change edits a copy.
func (s *Store) updateKey(ctx context.Context, op string, key keysource.KeyRef, change func(sn *snapshot, k *cmk) error) error {
	return s.update(ctx, op, func(sn *snapshot) error {
		k, err := sn.find(op, key)
		if err != nil {
			return err
		}
		if err := customerManaged(op, k); err != nil {
			return err
		}
		return sn.change(k, func(k *cmk) error { return change(sn, k) })
	})
}

// customerManaged refuses a CMK that the store made itself: as with AWS, it is the service's to administer.
func customerManaged(op string, k *cmk) error {
	if k.manager == keysource.ManagerCustomer {
		return nil
	}
	err := fail(op, k.arn, keysource.CodeAccessDenied, "%s is an AWS managed key, which %s cannot change.", k.arn, op)
	return keysource.WithHint(err, "make a CMK of your own for that: kmsfs key create")
}

// checkDescription bounds a text of the customer's.
func checkDescription(op, text string, limit int) error {
	if len(text) > limit || !utf8.ValidString(text) {
		return errValue(op, "description", "UTF-8 and not longer than its limit")
	}
	return nil
}
