package envelope

import (
	"errors"
	"fmt"
	"math/bits"
)

// The decisions that a caller takes. Every error of this package wraps at most
// one of them; errors that wrap none report arguments that the format cannot
// hold (an ARN of 600 bytes).
var (
	// ErrCorrupt: the bytes are not what was sealed for this place.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnsupported: a version, suite or feature that this version lacks.
	// The message names it.
	ErrUnsupported = errors.New("not supported by this version of kmsfs")
	// ErrWrongKey: the key is not the one that the bytes commit to.
	ErrWrongKey = errors.New("wrong key")
	// ErrErased: the slot of a key table is all zero; the key is gone for good.
	ErrErased = errors.New("erased")
	// ErrNameTooLong: a name over [NameMax] or a target over [TargetMax] bytes.
	ErrNameTooLong = errors.New("name too long")
	// ErrInvalidName: an empty name, one that holds NUL or '/', "." or "..".
	ErrInvalidName = errors.New("invalid name")
)

// ChunkError says which chunk of a file an error is about.
type ChunkError struct {
	Chunk uint64 // number of the chunk in the file, from 0
	Err   error
}

// Error names the chunk and the cause.
func (e *ChunkError) Error() string { return fmt.Sprintf("chunk %d: %v", e.Chunk, e.Err) }

// Unwrap returns the cause.
func (e *ChunkError) Unwrap() error { return e.Err }

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrCorrupt)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrUnsupported)
}

// checkMagic tells another version of the format (a differing last byte) from
// bytes that are something else.
func checkMagic(b []byte, magic, what string) error {
	switch {
	case len(b) < len(magic):
		return corrupt("%s: %d bytes", what, len(b))
	case string(b[:len(magic)]) == magic:
		return nil
	case string(b[:len(magic)-1]) == magic[:len(magic)-1]:
		return unsupported("%s: version %q", what, b[:len(magic)])
	}
	return corrupt("%s: no magic", what)
}

// checkFeatures refuses any incompatible feature, as none is defined.
func checkFeatures(features uint32, what string) error {
	if features == 0 {
		return nil
	}
	return unsupported("%s: incompatible feature bit %d (of %#08x)", what, bits.TrailingZeros32(features), features)
}

// IsZero tells whether all bytes are zero. It takes less time where they are not.
func IsZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// asCorrupt is for an error about an argument, where the argument came off disk.
func asCorrupt(err error) error {
	if err == nil || errors.Is(err, ErrUnsupported) {
		return err
	}
	return corrupt("%v", err)
}
