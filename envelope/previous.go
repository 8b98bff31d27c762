package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// Positions in the blob of a wrapping of KindPrevious (FORMAT.md, Key tables).
const (
	previousNonce = 12 // after u64 table, u32 slot
	previousKey   = previousNonce + NonceSize
	previousSize  = previousKey + KeySize + TagSize
)

func (w *Wrapping) checkPrevious() error {
	if w.ContextVersion != 0 || w.KeyARN != "" || w.KeyMaterialID != "" || len(w.Blob) != previousSize {
		return unsupported("wrapping of kind %d of another form", KindPrevious)
	}
	if loc := w.previousAt(); loc.Table == 0 || loc.Slot == 0 {
		return corrupt("wrapping of kind %d: locator %v", KindPrevious, loc)
	}
	return nil
}

func (w *Wrapping) previousAt() Locator {
	return Locator{binary.LittleEndian.Uint64(w.Blob), binary.LittleEndian.Uint32(w.Blob[8:])}
}

// Previous returns where the record of the previous data key stands; ok says whether there is one: the file is being
// reencrypted. Nothing of it is authentic before [FileKey.OpenPrevious].
func (r *Record) Previous() (loc Locator, ok bool) {
	n := len(r.Wrappings)
	if n == 0 || r.Wrappings[n-1].Kind != KindPrevious || r.Wrappings[n-1].check() != nil {
		return Locator{}, false
	}
	return r.Wrappings[n-1].previousAt(), true
}

// WithoutPrevious returns the record as it is when the file is reencrypted. It needs no key.
func (r *Record) WithoutPrevious() *Record {
	c := *r
	if _, ok := r.Previous(); ok {
		c.Wrappings = r.Wrappings[: len(r.Wrappings)-1 : len(r.Wrappings)-1]
	}
	return &c
}

func (k *FileKey) previousAEAD() (cipher.AEAD, error) {
	if k.wiped.Load() {
		return nil, errors.New("data key was wiped")
	}
	key := k.g.derive.previous.key(k.key[:])
	defer clear(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// WrapPrevious returns the wrapping of old, the previous data key of the same file, whose record is at loc, under k. nonce
// must be random. It panics where old is the key of another file.
func (k *FileKey) WrapPrevious(old *FileKey, loc Locator, nonce *[NonceSize]byte) (Wrapping, error) {
	if old.id != k.id {
		panic("envelope: previous data key of another file")
	}
	if old.wiped.Load() {
		return Wrapping{}, errors.New("data key was wiped")
	}
	aead, err := k.previousAEAD()
	if err != nil {
		return Wrapping{}, err
	}
	b := make([]byte, previousKey, previousSize)
	binary.LittleEndian.PutUint64(b, loc.Table)
	binary.LittleEndian.PutUint32(b[8:], loc.Slot)
	copy(b[previousNonce:], nonce[:])
	w := Wrapping{Kind: KindPrevious, Blob: aead.Seal(b, nonce[:], old.key[:], previousAAD(k.id, b))}
	return w, w.check()
}

// previousAAD binds the previous key to its file and to the locator of its record, which is erased on its word.
func previousAAD(id FileID, blob []byte) []byte { return append(id[:], blob[:previousNonce]...) }

// OpenPrevious returns the previous data key of k's file, and where its record stands, from r, a record that k was verified
// with; nil where there is none. It fails with ErrCorrupt.
func (k *FileKey) OpenPrevious(r *Record) (*FileKey, Locator, error) {
	loc, ok := r.Previous()
	if !ok {
		return nil, Locator{}, nil
	}
	aead, err := k.previousAEAD()
	if err != nil {
		return nil, Locator{}, err
	}
	b := r.Wrappings[len(r.Wrappings)-1].Blob
	key, err := aead.Open(nil, b[previousNonce:previousKey], b[previousKey:], previousAAD(k.id, b))
	if err != nil {
		return nil, Locator{}, corrupt("previous data key of file %v", k.id)
	}
	defer clear(key)
	old, err := NewFileKey(key, k.id, k.g)
	return old, loc, err
}
