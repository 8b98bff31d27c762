package local

import (
	"encoding/hex"
	"errors"

	"kmsfs/keysource"
)

// The layout of a wrapped key, version 1; see PROTOCOL.md, "Wrapped key".
const (
	blobMagic      = "kfs\x01" // the last byte is the version
	blobKeyID      = len(blobMagic)
	blobMaterialID = blobKeyID + len(uuid{})
	blobSalt       = blobMaterialID + materialIDSize
	blobHeaderSize = blobSalt + saltSize

	// BlobOverhead is how many bytes longer a wrapped key is than the key.
	BlobOverhead = blobHeaderSize + tagSize
)

// errNotBlob is for bytes that are no wrapped key of this store's format.
var errNotBlob = errors.New("not a wrapped key of a local key store")

// blob is a wrapped key taken apart. The slices are parts of it.
type blob struct {
	header     []byte // all before the ciphertext
	keyID      uuid
	materialID []byte
	salt       []byte
	sealed     []byte // ciphertext and tag
}

// parseBlob takes a wrapped key apart without opening it.
func parseBlob(b []byte) (blob, error) {
	switch {
	case len(b) < BlobOverhead+1, len(b) > BlobOverhead+keysource.MaxPlaintextSize:
		return blob{}, errNotBlob
	case string(b[:blobKeyID]) != blobMagic:
		return blob{}, errNotBlob
	}
	return blob{
		header:     b[:blobHeaderSize:blobHeaderSize],
		keyID:      uuid(b[blobKeyID:blobMaterialID]),
		materialID: b[blobMaterialID:blobSalt],
		salt:       b[blobSalt:blobHeaderSize],
		sealed:     b[blobHeaderSize:],
	}, nil
}

// sealBlob wraps plaintext under the current material of k. The context is valid.
func (s *Store) sealBlob(k *cmk, plaintext []byte, ctx keysource.Context) ([]byte, *material, error) {
	m := k.current()
	b := make([]byte, blobHeaderSize, BlobOverhead+len(plaintext))
	copy(b, blobMagic)
	copy(b[blobKeyID:], k.id[:])
	copy(b[blobMaterialID:], m.id[:])
	if err := s.fillRandom(b[blobSalt:]); err != nil {
		return nil, nil, err
	}
	sc := s.scratch.get()
	defer s.scratch.put(sc)
	sc.deriveBlobKey(m, b[blobSalt:])
	sc.aad = ctx.AppendCanonical(append(sc.aad[:0], b...))
	return sealOnce(&sc.key, b, plaintext, sc.aad), m, nil
}

// openBlob unwraps b under m, the material that it names.
func (s *Store) openBlob(m *material, b blob, ctx keysource.Context) (keysource.PlaintextKey, error) {
	sc := s.scratch.get()
	defer s.scratch.put(sc)
	sc.deriveBlobKey(m, b.salt)
	sc.aad = ctx.AppendCanonical(append(sc.aad[:0], b.header...))
	key := keysource.MakePlaintextKey(len(b.sealed) - tagSize)
	if _, err := openOnce(&sc.key, key.Bytes()[:0], b.sealed, sc.aad); err != nil {
		return keysource.PlaintextKey{}, err
	}
	return key, nil
}

// PeekBlob tells by which CMK and key material of a local key store a wrapped key was made, from the wrapped key itself; false
// for one that is no local key store's. Nothing of that is authentic before the wrapped key is opened.
func PeekBlob(b []byte) (keyID, keyMaterialID string, ok bool) {
	p, err := parseBlob(b)
	if err != nil {
		return "", "", false
	}
	return p.keyID.String(), hex.EncodeToString(p.materialID), true
}
