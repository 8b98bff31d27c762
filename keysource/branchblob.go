package keysource

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// branchMagic begins a data key that a branch key has wrapped: three letters and the version.
const branchMagic = "kmb\x01"

// Sizes and offsets in a data key wrapped by a branch key (PROTOCOL.md, "Branch keys").
const (
	branchKeySize  = 32
	branchIDSize   = 16
	branchSaltSize = 32
	branchTagSize  = 16
	branchSaltOff  = len(branchMagic) + branchIDSize
	branchLenOff   = branchSaltOff + branchSaltSize
	branchKeyOff   = branchLenOff + 2
)

// branchDerive separates the keys that are derived from branch keys from all others.
const branchDerive = "kmsfs 2026-01-01 branch keys: data key v1"

// BranchContextName is the name in the encryption context of a branch key that holds its id; no other context has it.
const BranchContextName = "kmsfs:branch"

// branchID names a branch key. It is random.
type branchID [branchIDSize]byte

// branchBlob is a data key wrapped by a branch key, taken apart. Its slices are parts of the blob.
type branchBlob struct {
	head    []byte // magic, id, salt
	id      branchID
	wrapped []byte // the branch key, as the CMK wrapped it
	sealed  []byte // the data key and its tag
}

// isBranchBlob tells that a blob is of this kind, whatever its version. What it does not recognise is the KMS's own.
func isBranchBlob(blob []byte) bool {
	const kind = len(branchMagic) - 1
	return len(blob) > kind && string(blob[:kind]) == branchMagic[:kind]
}

// BranchOf tells whether a wrapped key is wrapped by a branch key, and by which: keys with the same name are under the same
// wrapping of the same branch key, and cost one call of [Branch.ReEncrypt] together.
func BranchOf(blob []byte) (name string, ok bool) {
	b, err := parseBranchBlob("", blob)
	if err != nil {
		return "", false
	}
	return string(b.id[:]) + string(b.wrapped), true
}

// parseBranchBlob takes a blob apart. What is not well-formed is ErrInvalidCiphertext, another version ErrUnsupported.
func parseBranchBlob(op string, blob []byte) (b branchBlob, err error) {
	malformed := func(why string) (branchBlob, error) {
		return branchBlob{}, NewError(op, "", CodeInvalidCiphertext, "wrapping of a branch key: "+why)
	}
	switch {
	case len(blob) > MaxCiphertextBlobSize:
		return branchBlob{}, NewError(op, "", CodeValidation, fmt.Sprintf("a wrapped key has at most %d bytes", MaxCiphertextBlobSize))
	case !isBranchBlob(blob):
		return malformed("no magic")
	case string(blob[:len(branchMagic)]) != branchMagic:
		return branchBlob{}, NewError(op, "", CodeUnsupported, fmt.Sprintf("wrapping of a branch key: version %d", blob[len(branchMagic)-1]))
	case len(blob) < branchKeyOff:
		return malformed("cut short")
	}
	n := int(binary.BigEndian.Uint16(blob[branchLenOff:]))
	rest := blob[branchKeyOff:]
	if n == 0 || len(rest) < n+1+branchTagSize {
		return malformed("cut short")
	}
	b = branchBlob{head: blob[:branchLenOff], wrapped: rest[:n:n], sealed: rest[n:]}
	copy(b.id[:], blob[len(branchMagic):])
	if isBranchBlob(b.wrapped) {
		return malformed("a branch key is not wrapped by another")
	}
	if len(b.sealed) > MaxPlaintextSize+branchTagSize {
		return malformed("too long")
	}
	return b, nil
}

// withWrapped is the blob with another wrapping of the same branch key.
func (b branchBlob) withWrapped(op string, wrapped []byte) ([]byte, error) {
	n := branchKeyOff + len(wrapped) + len(b.sealed)
	if len(wrapped) > 0xffff || n > MaxCiphertextBlobSize {
		return nil, NewError(op, "", CodeUnsupported, fmt.Sprintf("the wrapped branch key has %d bytes: no room for the data key", len(wrapped)))
	}
	out := make([]byte, 0, n)
	out = append(out, b.head...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(wrapped)))
	out = append(out, wrapped...)
	return append(out, b.sealed...), nil
}

// sealBranchBlob wraps a data key under a branch key.
func sealBranchBlob(op string, id branchID, branchKey, wrapped, plaintext []byte, ec Context) ([]byte, error) {
	head := make([]byte, branchLenOff)
	copy(head, branchMagic)
	copy(head[len(branchMagic):], id[:])
	rand.Read(head[branchSaltOff:]) // never fails: crypto/rand ends the process instead
	aead, err := branchAEAD(branchKey, head[branchSaltOff:])
	if err != nil {
		return nil, err
	}
	var nonce [12]byte // the salt makes each key seal once
	b := branchBlob{head: head, sealed: aead.Seal(nil, nonce[:], plaintext, ec.AppendCanonical(head[:branchLenOff:branchLenOff]))}
	return b.withWrapped(op, wrapped)
}

// open unwraps the data key. A branch key or context that does not fit is ErrInvalidCiphertext.
func (b branchBlob) open(op string, branchKey []byte, ec Context) (PlaintextKey, error) {
	aead, err := branchAEAD(branchKey, b.head[branchSaltOff:])
	if err != nil {
		return PlaintextKey{}, err
	}
	key := MakePlaintextKey(len(b.sealed) - branchTagSize)
	var nonce [12]byte
	if _, err := aead.Open(key.Bytes()[:0], nonce[:], b.sealed, ec.AppendCanonical(b.head[:len(b.head):len(b.head)])); err != nil {
		key.Wipe()
		return PlaintextKey{}, NewError(op, "", CodeInvalidCiphertext, "wrapping of a branch key: damaged, or another encryption context")
	}
	return key, nil
}

// branchAEAD is the cipher that seals one data key.
func branchAEAD(branchKey, salt []byte) (cipher.AEAD, error) {
	if len(branchKey) != branchKeySize {
		return nil, NewError("", "", CodeInvalidCiphertext, fmt.Sprintf("a branch key of %d bytes", len(branchKey)))
	}
	material := append(append(make([]byte, 0, branchKeySize+branchSaltSize), branchKey...), salt...)
	var key [32]byte
	blake3.DeriveKey(branchDerive, material, key[:])
	clear(material)
	defer clear(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// branchContext is the encryption context of the branch key id that wraps data keys of context ec: its id, and what all
// files of a vault have in common, so that policies and the log of the KMS can go by it.
func branchContext(id branchID, ec Context) Context {
	out := Context{BranchContextName: hex.EncodeToString(id[:])}
	for _, name := range []string{"kmsfs:volume", "kmsfs:format"} {
		if value, ok := ec[name]; ok {
			out[name] = value
		}
	}
	return out
}

// checkBranchContext refuses a context that has no canonical form, or a name that is for branch keys.
func checkBranchContext(ec Context) error {
	if _, ok := ec[BranchContextName]; ok {
		return invalid("the name " + BranchContextName + " in an encryption context is for branch keys alone")
	}
	return ec.Validate()
}

// IsBranchBlob tells that a wrapped key is one of a branch key, whether or not it is well-formed.
func IsBranchBlob(blob []byte) bool { return isBranchBlob(blob) }

// BranchWrapping returns the wrapped branch key inside a wrapped key, as the CMK has wrapped it; false where the wrapped key
// is the CMK's own.
func BranchWrapping(blob []byte) (wrapped []byte, ok bool) {
	b, err := parseBranchBlob("", blob)
	if err != nil {
		return nil, false
	}
	return b.wrapped, true
}
