package envelope

import (
	"crypto/subtle"
	"fmt"
	"strings"
)

// XattrName returns the stored name of an extended attribute of a file or
// directory, given by its id.
func (k *VolumeKeys) XattrName(owner [16]byte, name string) string {
	var tag [TagSize]byte
	h := k.xattrName.get()
	h.Write(owner[:])
	h.WriteString(name)
	h.Digest().Read(tag[:])
	k.xattrName.put(h)
	return XattrPrefix + k.b64.EncodeToString(tag[:])
}

// SealXattr seals the name, 1 to [NameMax] bytes without NUL, and the value of an
// extended attribute to the value that is stored. It fails with ErrNameTooLong or
// ErrInvalidName. The value's length is not limited here; see FORMAT.md, Limits.
func (k *VolumeKeys) SealXattr(owner [16]byte, name string, value []byte) ([]byte, error) {
	switch {
	case len(name) > NameMax:
		return nil, fmt.Errorf("attribute name of %d bytes: %w", len(name), ErrNameTooLong)
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return nil, fmt.Errorf("attribute name: %w", ErrInvalidName)
	}
	sealed := make([]byte, TagSize+1+len(name)+len(value))
	tag, plain := sealed[:TagSize], sealed[TagSize:]
	plain[0] = byte(len(name))
	copy(plain[1:], name)
	copy(plain[1+len(name):], value)
	k.xattrTag.sum(tag, owner[:], plain)
	k.xattrStream.xorStream(plain, owner[:], tag, make([]byte, len(plain)))
	return sealed, nil
}

// OpenXattr opens a stored value, which it leaves alone. The caller must compare
// XattrName(owner, name) with the name that it is stored under: the value alone
// does not say that it was not moved to another name. It fails with ErrCorrupt.
func (k *VolumeKeys) OpenXattr(owner [16]byte, stored []byte) (name string, value []byte, err error) {
	if len(stored) < TagSize+2 {
		return "", nil, corrupt("extended attribute: %d bytes", len(stored))
	}
	tag, plain := stored[:TagSize], append([]byte(nil), stored[TagSize:]...)
	k.xattrStream.xorStream(plain, owner[:], tag, make([]byte, len(plain)))
	var want [TagSize]byte
	k.xattrTag.sum(want[:], owner[:], plain)
	if subtle.ConstantTimeCompare(want[:], tag) != 1 {
		return "", nil, corrupt("extended attribute")
	}
	n := int(plain[0])
	if n == 0 || len(plain) < 1+n || !isZeroFree(plain[1:1+n]) {
		return "", nil, corrupt("extended attribute")
	}
	return string(plain[1 : 1+n]), plain[1+n:], nil
}
