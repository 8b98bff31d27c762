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

// IsDamage says whether err, of an operation on a file, is that what is stored of it or of its data key is damaged or gone, and not
// that the keysource or the disk fails.
func IsDamage(err error) bool {
	is := judge(Chunks, err)
	return is == Chunks || is == NoRecord
}

// KeyIsLost says whether err is damage of the record of a data key: all that the key has sealed is whole, and kmsfs keys import may
// put the record back.
func KeyIsLost(err error) bool { return judge(Chunks, err) == NoRecord }

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
