package local

import (
	"errors"
	"fmt"

	"kmsfs/keysource"
)

// Errors of the store file. A missing store is fs.ErrNotExist, one in the way of Create keysource.ErrAlreadyExists.
var (
	// ErrDamaged: the store file is empty, cut short, changed or of an unknown version.
	ErrDamaged = errors.New("key store is damaged")
	// ErrMasterKey: the passphrase or key file is wrong or missing.
	ErrMasterKey = errors.New("master key does not open the key store")
	// ErrInsecure: others can read or replace the master key file.
	ErrInsecure = errors.New("master key file is not secure")
	// ErrNotDurable: the change is in the file, but may not survive a power cut. Try again to make sure.
	ErrNotDurable = errors.New("change may not be durable")
	// ErrLocked: another process has been changing the store until the context ended.
	ErrLocked = errors.New("key store is locked by another process")
)

// damaged is an ErrDamaged with a reason.
func damaged(format string, args ...any) error {
	return keysource.WithHint(fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...)),
		"restore the file from a backup; kmsfs never makes a new store over a damaged one")
}

// fail is an AWS error about the key arn.
func fail(op, arn, code, format string, args ...any) error {
	return keysource.NewError(op, arn, code, fmt.Sprintf(format, args...))
}

// errState is AWS's error for a CMK in a state that the call does not allow.
func errState(op, arn string, state keysource.KeyState) error {
	switch state {
	case keysource.KeyStateDisabled:
		return fail(op, arn, keysource.CodeDisabled, "%s is disabled.", arn)
	case keysource.KeyStatePendingImport:
		return fail(op, arn, keysource.CodeInvalidState, "%s is pending import.", arn)
	case keysource.KeyStatePendingDeletion:
		return fail(op, arn, keysource.CodeInvalidState, "%s is pending deletion.", arn)
	case keysource.KeyStateUnavailable:
		return fail(op, arn, keysource.CodeInvalidState, "%s is unavailable.", arn)
	}
	return fail(op, arn, keysource.CodeInvalidState, "%s is not in a state for this request.", arn)
}

// errOrigin is AWS's error for a call that the origin of a CMK does not allow.
func errOrigin(op string, k *cmk) error {
	return fail(op, k.arn, keysource.CodeUnsupported, "%s origin is %s which is not valid for this operation.", k.arn, k.origin)
}

// usable is nil for a CMK that may encrypt and decrypt.
func (s *Store) usable(op string, k *cmk) error {
	state := k.state
	if k.origin == keysource.OriginExternal { // whose material may have expired; the clock is not free
		state = k.stateAt(s.now())
	}
	if state == keysource.KeyStateEnabled && len(k.materials) > 0 {
		return nil
	}
	return errState(op, k.arn, state)
}

// describe is metadata as of now.
func (s *Store) describe(sn *snapshot, k *cmk) keysource.KeyMetadata {
	return k.metadata(sn.account, s.now())
}

// errInvalidCiphertext is for a damaged blob and for a wrong context alike; cause may be nil.
func errInvalidCiphertext(op, arn string, cause error) error {
	return &keysource.Error{Op: op, KeyID: arn, Code: keysource.CodeInvalidCiphertext,
		Kind: keysource.ErrInvalidCiphertext, Message: "wrapped key is damaged or the encryption context is another",
		Err: cause}
}

// errNoMaterial is for a wrapped key of a CMK of ours that names key material which it does not have.
var errNoMaterial = errors.New("the key has no such key material")

// errValue is AWS's error for a request field out of its bounds.
func errValue(op, field, want string) error {
	return fail(op, "", keysource.CodeValidation,
		"1 validation error detected: Value at '%s' failed to satisfy constraint: Member must be %s", field, want)
}

// mayBeStale tells whether err could come from not having read the newest store file yet.
func mayBeStale(err error) bool {
	return errors.Is(err, keysource.ErrNotFound) || errors.Is(err, errNoMaterial) ||
		errors.Is(err, keysource.ErrDisabled) || errors.Is(err, keysource.ErrInvalidState)
}
