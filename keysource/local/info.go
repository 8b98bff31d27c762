package local

import (
	"context"
	"time"

	"kmsfs/keysource"
)

// Key is all that the store keeps of a CMK but its secrets. It is shared and must not be changed.
type Key struct {
	keysource.KeyMetadata
	// Aliases are its names, sorted.
	Aliases []string
	// Policy is the key policy, empty for the default one.
	Policy string
	// Tags are sorted by key.
	Tags []keysource.Tag
	// Grants are sorted by id.
	Grants []keysource.Grant
	// RotationPeriod is that of automatic rotation in days, 0 where it is off.
	RotationPeriod int
	// NextRotation is when the CMK is rotated next, as long as it stays enabled; zero is never.
	NextRotation time.Time
}

// Key returns what is known of a CMK.
func (s *Store) Key(ctx context.Context, key keysource.KeyRef) (Key, error) {
	var out Key
	err := s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find("DescribeKey", key)
		if err == nil {
			out = s.keyOf(sn, k)
		}
		return err
	})
	return out, err
}

// Keys returns what is known of all CMKs, the oldest first.
func (s *Store) Keys(ctx context.Context) ([]Key, error) {
	var all []Key
	err := s.with(ctx, func(sn *snapshot) error {
		for _, k := range sn.sortedKeys() {
			all = append(all, s.keyOf(sn, k))
		}
		return nil
	})
	return all, err
}

// keyOf describes k.
func (s *Store) keyOf(sn *snapshot, k *cmk) Key {
	return Key{KeyMetadata: s.describe(sn, k), Aliases: sn.names[k.id], Policy: k.policy, Tags: k.tags, Grants: k.grants,
		RotationPeriod: k.rotationPeriod(), NextRotation: k.nextRotation()}
}

// Account returns the account and region of the store's ARNs, which never change; of a closed store they are empty.
func (s *Store) Account() (account, region string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return "", ""
	}
	return s.snap.account, s.snap.region
}

// BlobKey returns the id of the CMK that a wrapped key names, without opening it or looking whether there is one. What
// is no wrapped key is ErrInvalidCiphertext.
func BlobKey(ciphertextBlob []byte) (keyID string, err error) {
	b, err := parseBlob(ciphertextBlob)
	if err != nil {
		return "", errInvalidCiphertext("", "", err)
	}
	return b.keyID.String(), nil
}
