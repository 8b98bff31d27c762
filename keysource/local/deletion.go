package local

import (
	"context"
	"time"

	"kmsfs/keysource"
)

// The pending window of AWS KMS, in days.
const (
	minPendingWindow     = 7
	maxPendingWindow     = 30
	defaultPendingWindow = 30
)

// ScheduleKeyDeletion makes a CMK unusable at once and deletes it, with its aliases, after 7 to 30 days; 0 is 30. What
// it wrapped can then never be opened again.
func (s *Store) ScheduleKeyDeletion(ctx context.Context, key keysource.KeyRef, pendingWindowInDays int) (keysource.KeyMetadata, error) {
	const op = "ScheduleKeyDeletion"
	var md keysource.KeyMetadata
	if pendingWindowInDays == 0 {
		pendingWindowInDays = defaultPendingWindow
	}
	if pendingWindowInDays < minPendingWindow || pendingWindowInDays > maxPendingWindow {
		return md, errValue(op, "pendingWindowInDays", "between 7 and 30")
	}
	err := s.updateKey(ctx, op, key, func(sn *snapshot, k *cmk) error {
		if k.state == keysource.KeyStatePendingDeletion {
			return errState(op, k.arn, k.state)
		}
		k.state = keysource.KeyStatePendingDeletion
		k.deletion = s.now().Add(time.Duration(pendingWindowInDays) * 24 * time.Hour)
		md = s.describe(sn, k)
		return nil
	})
	if err != nil {
		return keysource.KeyMetadata{}, err
	}
	return md, nil
}

// CancelKeyDeletion takes a ScheduleKeyDeletion back. The CMK returns Disabled, or PendingImport where it lacks key
// material.
func (s *Store) CancelKeyDeletion(ctx context.Context, key keysource.KeyRef) (keysource.KeyMetadata, error) {
	const op = "CancelKeyDeletion"
	var md keysource.KeyMetadata
	err := s.updateKey(ctx, op, key, func(sn *snapshot, k *cmk) error {
		if k.state != keysource.KeyStatePendingDeletion {
			return fail(op, k.arn, keysource.CodeInvalidState, "%s is not pending deletion.", k.arn)
		}
		k.state, k.deletion = keysource.KeyStateDisabled, time.Time{}
		if !k.complete() {
			k.state = keysource.KeyStatePendingImport
		}
		md = s.describe(sn, k)
		return nil
	})
	if err != nil {
		return keysource.KeyMetadata{}, err
	}
	return md, nil
}
