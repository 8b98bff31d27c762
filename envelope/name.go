package envelope

import (
	"crypto/subtle"
	"fmt"
	"strings"
)

// Lengths of names (FORMAT.md, Names).
const (
	paddedDirect   = 160 // padded name that stands in the stored name
	paddedMax      = 256 // padded name of NameMax bytes
	entryDirectMin = 43  // b64 of a tag and 16 bytes
	entryDirectMax = 235 // b64 of a tag and 160 bytes
	entryLong      = 22  // b64 of a tag
	longCipherMax  = 342 // b64 of 256 bytes
	namePad        = 16
)

// SealedName is how a name stands in the vault's directory.
type SealedName struct {
	// Entry is the name of the directory entry.
	Entry string
	// Companions are the names of the two empty files that hold the rest of a
	// long name, in order; nil for others.
	Companions []string
}

// checkName applies the rules for plaintext names.
func checkName(name string) error {
	switch {
	case len(name) > NameMax:
		return fmt.Errorf("%d bytes: %w", len(name), ErrNameTooLong)
	case name == "" || name == "." || name == "..",
		strings.IndexByte(name, 0) >= 0, strings.IndexByte(name, '/') >= 0:
		return ErrInvalidName
	}
	return nil
}

func padded(n int) int { return (n + namePad - 1) &^ (namePad - 1) }

// tagOfName computes the tag of a name in a directory.
func (k *VolumeKeys) tagOfName(tag []byte, dir *DirID, name string) {
	h := k.nameTag.get()
	h.Write(dir[:])
	h.WriteString(name)
	h.Digest().Read(tag)
	k.nameTag.put(h)
}

// SealName seals a name of 1 to [NameMax] bytes: the same name in the same
// directory always gives the same entry. It fails with ErrNameTooLong or
// ErrInvalidName.
func (k *VolumeKeys) SealName(dir DirID, name string) (SealedName, error) {
	if err := checkName(name); err != nil {
		return SealedName{}, err
	}
	var buf [TagSize + paddedMax]byte
	var stream [paddedMax]byte
	sealed := buf[:TagSize+padded(len(name))]
	k.tagOfName(sealed[:TagSize], &dir, name)
	copy(sealed[TagSize:], name)
	k.nameStream.xorStream(sealed[TagSize:], sealed[:TagSize], nil, stream[:])
	if len(name) < LongNameMin {
		return SealedName{Entry: encode64(k.b64, sealed)}, nil
	}
	entry := encode64(k.b64, sealed[:TagSize])
	return SealedName{
		Entry:      entry,
		Companions: companions(entry, encode64(k.b64, sealed[TagSize:])),
	}, nil
}

// OpenName opens the entry of a directory; longCipher is "" for a direct name,
// and the pieces of its two companions one after the other where IsLongEntry. It
// fails with ErrCorrupt for whatever SealName does not give in this directory.
func (k *VolumeKeys) OpenName(dir DirID, entry string, longCipher string) (string, error) {
	var buf [TagSize + paddedMax]byte
	plain, tag, err := k.peekName(&buf, entry, longCipher)
	if err != nil {
		return "", err
	}
	var want [TagSize]byte
	k.tagOfName(want[:], &dir, plain)
	if subtle.ConstantTimeCompare(want[:], tag) != 1 {
		return "", corrupt("name")
	}
	return plain, nil
}

// PeekName is [VolumeKeys.OpenName] for who does not know the directory: that the
// name is not authentic means that one who does not have the key may have changed
// letters of it. It fails with ErrCorrupt for what is no sealed name.
func (k *VolumeKeys) PeekName(entry string, longCipher string) (string, error) {
	var buf [TagSize + paddedMax]byte
	plain, _, err := k.peekName(&buf, entry, longCipher)
	return plain, err
}

// peekName opens an entry, and returns the tag that says of which directory it is,
// in buf.
func (k *VolumeKeys) peekName(buf *[TagSize + paddedMax]byte, entry, longCipher string) (plain string, tag []byte, err error) {
	var stream [paddedMax]byte
	sealed, ok := k.decodeName(buf[:], entry, longCipher)
	if !ok {
		return "", nil, corrupt("name")
	}
	tag, name := sealed[:TagSize], sealed[TagSize:]
	k.nameStream.xorStream(name, tag, nil, stream[:])
	n := len(name)
	for n > 0 && name[n-1] == 0 {
		n--
	}
	plain = string(name[:n])
	if padded(n) != len(name) || checkName(plain) != nil {
		return "", nil, corrupt("name")
	}
	return plain, tag, nil
}

// decodeName decodes an entry and the pieces to the tag and the ciphertext.
func (k *VolumeKeys) decodeName(buf []byte, entry, longCipher string) ([]byte, bool) {
	if !IsLongEntry(entry) {
		if longCipher != "" || len(entry) < entryDirectMin || len(entry) > entryDirectMax {
			return nil, false
		}
		n, ok := decode64(k.b64, buf, entry)
		return buf[:n], ok && n > TagSize && n%namePad == 0
	}
	if len(longCipher) > longCipherMax {
		return nil, false
	}
	if n, ok := decode64(k.b64, buf, entry); !ok || n != TagSize {
		return nil, false
	}
	n, ok := decode64(k.b64, buf[TagSize:], longCipher)
	return buf[:TagSize+n], ok && n > paddedDirect && n%namePad == 0
}

// IsLongEntry reports whether an entry is that of a long name, by its length, so
// that OpenName needs its companions.
func IsLongEntry(entry string) bool { return len(entry) == entryLong }

// IsReserved reports whether a name in the vault's directories is one of kmsfs's
// own, and no entry.
func IsReserved(name string) bool { return strings.HasPrefix(name, ControlDir) }
