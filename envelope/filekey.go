package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
)

// FileKey is the data key of one file, with what is derived from it (FORMAT.md,
// Keys). Safe for concurrent use, save that nothing may follow Wipe.
type FileKey struct {
	key   [KeySize]byte
	id    FileID
	g     Geometry
	wiped atomic.Bool

	indexOnce sync.Once
	indexPRF  *prf // the index seal key, derived at the first use: inline files need none
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

// index returns the index seal key.
func (k *FileKey) index() *prf {
	k.indexOnce.Do(func() { k.indexPRF = newPRF(k.g.derive.index.key(k.key[:])) })
	if k.indexPRF == nil {
		panic("envelope: index seal under a wiped key")
	}
	return k.indexPRF
}

// recordMAC is the MAC of a record under this key, over the parts that a rewrap
// leaves alone.
func (k *FileKey) recordMAC(head, body []byte) (mac [TagSize]byte) {
	key := k.g.derive.record.key(k.key[:])
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	h.Write(head)
	h.Write(body)
	h.Digest().Read(mac[:])
	*h = blake3.Hasher{}
	clear(key[:])
	return mac
}

// Wipe clears the key, as well as a garbage-collected language allows: copies
// that the runtime made while moving stacks may remain. Nothing may follow: Group
// fails, the index seal panics.
func (k *FileKey) Wipe() {
	k.wiped.Store(true)
	k.indexOnce.Do(func() {})
	if k.indexPRF != nil {
		k.indexPRF.wipe()
		k.indexPRF = nil
	}
	clear(k.key[:])
}

// Format prints no key bytes, whatever the verb.
func (k *FileKey) Format(f fmt.State, _ rune) { redact(f, "FileKey") }
