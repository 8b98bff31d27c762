package check

import (
	"context"
	"errors"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// KeysourceFails says whether err is that the keysource refuses or cannot be reached, which says nothing of the vault.
func KeysourceFails(err error) bool {
	for _, k := range []error{keysource.ErrDenied, keysource.ErrDisabled, keysource.ErrInvalidState, keysource.ErrNotFound, keysource.ErrUnavailable,
		keysource.ErrThrottled, keysource.ErrClosed, keysource.ErrUnsupported, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

// judge returns what err is: damage of the kind given, something that says nothing of the vault, or "" where what it is
// about has gone.
func judge(kind Kind, err error) Kind {
	is := func(kinds ...error) bool {
		for _, k := range kinds {
			if errors.Is(err, k) {
				return true
			}
		}
		return false
	}
	switch {
	case is(syscall.ENOENT, syscall.ESTALE, vault.ErrStale) && !is(vault.ErrCorrupt, vault.ErrNoKey, sidecar.ErrNoRecord):
		return ""
	case is(envelope.ErrUnsupported):
		return Unsupported
	case is(sidecar.ErrNoRecord):
		if kind == Table {
			return Table
		}
		return NoRecord
	case KeysourceFails(err):
		return Key
	case is(vault.ErrNoKey): // it was answered, and the answer is not the key: what was asked with is damaged
		return NoRecord
	case is(vault.ErrCorrupt, envelope.ErrCorrupt, envelope.ErrErased, envelope.ErrWrongKey):
		return kind
	}
	return Unread
}
