package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
)

// FileKey is the data key of one file, with what is derived from it (FORMAT.md,
// Keys). Safe for concurrent use, save that nothing may follow Wipe.
type FileKey struct {
	key   [KeySize]byte
	id    FileID
	g     Geometry
	wiped atomic.Bool
}

// NewFileKey copies dataKey, which must have [KeySize] bytes.
func NewFileKey(dataKey []byte, id FileID, g Geometry) (*FileKey, error) {
	if len(dataKey) != KeySize {
		return nil, fmt.Errorf("data key of %d bytes, not %d", len(dataKey), KeySize)
	}
	if g.derive == nil {
		return nil, errors.New("geometry that NewGeometry did not make")
	}
	return &FileKey{key: [KeySize]byte(dataKey), id: id, g: g}, nil
}

// ID returns the file id that the key was made for.
func (k *FileKey) ID() FileID { return k.id }

// Geometry returns the geometry that the key was made for.
func (k *FileKey) Geometry() Geometry { return k.g }

// Commitment returns what the record holds to name its data key.
func (k *FileKey) Commitment() [32]byte { return k.g.derive.commitment.key(k.key[:]) }

// Group derives the key of a group anew: some microseconds, so keep it. A
// GroupKey serves on after Wipe.
func (k *FileKey) Group(n uint64) (*GroupKey, error) {
	if k.wiped.Load() {
		return nil, errors.New("data key was wiped")
	}
	var g [8]byte
	binary.LittleEndian.PutUint64(g[:], n)
	key := k.g.derive.group.key(k.key[:], g[:])
	defer clear(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &GroupKey{aead: aead, id: k.id, group: n, log2: k.g.log2}, nil
}

// sealMAC fills out, of 16 bytes, with the MAC that d gives of parts under this key. One derivation does for key and
// MAC: a keyed hasher for each file would be 10 KiB of garbage.
func (k *FileKey) sealMAC(d *deriver, out []byte, parts ...[]byte) {
	if k.wiped.Load() {
		panic("envelope: use of a wiped key")
	}
	d.sum(out[:TagSize], k.key[:], parts...)
}

// recordMAC is the MAC of a record under this key, over the parts that a rewrap
// leaves alone.
func (k *FileKey) recordMAC(head, body []byte) (mac [TagSize]byte) {
	k.sealMAC(k.g.derive.record, mac[:], head, body)
	return mac
}

// Wipe clears the key, as well as a garbage-collected language allows: copies
// that the runtime made while moving stacks may remain. Nothing may follow: Group
// fails, the index seal panics.
func (k *FileKey) Wipe() {
	k.wiped.Store(true)
	clear(k.key[:])
}

// Format prints no key bytes, whatever the verb.
func (k *FileKey) Format(f fmt.State, _ rune) { redact(f, "FileKey") }
