package local

import (
	"context"
	"unicode/utf8"

	"kmsfs/keysource"
)

// MaxPolicySize is the largest key policy in bytes, the limit of AWS KMS.
const MaxPolicySize = 32 << 10

// PutKeyPolicy replaces the key policy of a customer managed CMK. The store keeps the text and does not read it; empty
// is the default policy.
func (s *Store) PutKeyPolicy(ctx context.Context, key keysource.KeyRef, policy string) error {
	const op = "PutKeyPolicy"
	if err := checkPolicy(op, policy); err != nil {
		return err
	}
	return s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		if k.policy == policy {
			return errNoChange
		}
		k.policy = policy
		return nil
	})
}

// checkPolicy bounds a key policy.
func checkPolicy(op, policy string) error {
	switch {
	case len(policy) > MaxPolicySize:
		return fail(op, "", keysource.CodeLimitExceeded, "A key policy has at most %d bytes.", MaxPolicySize)
	case !utf8.ValidString(policy):
		return errValue(op, "policy", "UTF-8")
	}
	return nil
}
