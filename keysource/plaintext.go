package keysource

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every way of printing a key shows.
const redacted = "[redacted key]"

// PlaintextKey is a data key in plaintext. It prints, logs and marshals as "[redacted key]", also as an unexported
// field of another type. The zero value is no key. A copy shares the bytes, as a copy of a slice does: Wipe on one
// wipes all; use Clone for bytes of one's own. Reading from many goroutines is safe, Wipe needs to be alone.
type PlaintextKey struct {
	// A pointer to a pointer, which fmt never follows: an unexported PlaintextKey field of a struct, whose methods fmt
	// cannot call, shows an address and not the key. One pointer is not enough: for a verb that does not fit, such as
	// %s, fmt starts again at the pointer as if it stood at the top level, and follows it.
	p **keyBytes
}

// keyBytes holds a key; a data key of the usual size needs no second allocation.
type keyBytes struct {
	self  *keyBytes // what PlaintextKey.p points to
	b     []byte
	array [DataKeySize]byte
}

// NewPlaintextKey copies b into a new key. The caller still owns b and wipes it.
func NewPlaintextKey(b []byte) PlaintextKey {
	k := MakePlaintextKey(len(b))
	copy(k.Bytes(), b)
	return k
}

// MakePlaintextKey returns a key of n zero bytes, to be filled through Bytes. A negative n counts as 0.
func MakePlaintextKey(n int) PlaintextKey {
	p := new(keyBytes)
	p.self = p
	if n <= len(p.array) {
		p.b = p.array[:max(n, 0):max(n, 0)]
	} else {
		p.b = make([]byte, n)
	}
	return PlaintextKey{&p.self}
}

// Bytes is the key itself, not a copy: valid until Wipe, nil for the zero value.
func (k PlaintextKey) Bytes() []byte {
	if k.p == nil {
		return nil
	}
	return (*k.p).b
}

// Len is the size of the key in bytes.
func (k PlaintextKey) Len() int { return len(k.Bytes()) }

// Clone copies the key into bytes of its own. A clone of the zero value is the zero value.
func (k PlaintextKey) Clone() PlaintextKey {
	if k.p == nil {
		return k
	}
	return NewPlaintextKey(k.Bytes())
}

// Equal compares two keys in a time that depends on their lengths only.
func (k PlaintextKey) Equal(other PlaintextKey) bool {
	return subtle.ConstantTimeCompare(k.Bytes(), other.Bytes()) == 1
}

// Wipe overwrites the key with zeros, in all copies that share its bytes. The length stays.
func (k PlaintextKey) Wipe() { clear(k.Bytes()) }

// Format implements fmt.Formatter for every verb.
func (k PlaintextKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String implements fmt.Stringer.
func (k PlaintextKey) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (k PlaintextKey) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (k PlaintextKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler.
func (k PlaintextKey) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText implements encoding.TextMarshaler.
func (k PlaintextKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
