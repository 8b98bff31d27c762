package keysource

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// MaxContextSize is the largest canonical form of an encryption context, in bytes.
const MaxContextSize = 8192

// FileContextName is the name in the encryption context of a data key that holds the id of its file.
const FileContextName = "kmsfs:file"

// Context is an encryption context: names and values that are bound to a wrapped key and must be given again, exactly,
// to open it. They are not secret: a KMS writes them into its audit log. nil and empty are the same. A Context must
// not change while a call uses it.
type Context map[string]string

// Canonical returns the canonical form of c, the additional authenticated data of a wrapped key.
func (c Context) Canonical() []byte { return c.AppendCanonical(nil) }

// AppendCanonical appends the canonical form of c to dst: the number of pairs, then, sorted by the bytes of the names,
// each name and each value, every one after its length; numbers are 32-bit big-endian. No two contexts share one
// form. See PROTOCOL.md, "Encryption context".
func (c Context) AppendCanonical(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c)))
	var array [8]string // the usual context has three names: sort them without an allocation
	names := array[:0]
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		dst = appendCounted(dst, name)
		dst = appendCounted(dst, c[name])
	}
	return dst
}

// appendCounted appends s after its length.
func appendCounted(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// CanonicalSize is the length of the canonical form in bytes.
func (c Context) CanonicalSize() int {
	n := 4
	for name, value := range c {
		n += 8 + len(name) + len(value)
	}
	return n
}

// Validate refuses, as ErrInvalidArgument, an empty name, text that is not UTF-8 (JSON would silently change it on its
// way to a KMS), and a canonical form over MaxContextSize.
func (c Context) Validate() error {
	if n := c.CanonicalSize(); n > MaxContextSize {
		return invalid(fmt.Sprintf("encryption context of %d bytes is longer than %d", n, MaxContextSize))
	}
	for name, value := range c {
		if name == "" {
			return invalid("encryption context has an empty name")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return invalid("encryption context is not valid UTF-8")
		}
	}
	return nil
}

// Equal tells whether both have the same pairs.
func (c Context) Equal(other Context) bool { return maps.Equal(c, other) }

// Clone returns a copy of its own.
func (c Context) Clone() Context { return maps.Clone(c) }
