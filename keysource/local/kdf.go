package local

import (
	"crypto/aes"
	"crypto/cipher"
	"sync"

	"github.com/zeebo/blake3"
)

// secretSize is the size in bytes of every key in this package.
const secretSize = 32

// saltSize is the size in bytes of every salt. No two of 256 bits meet, so that a key derived with one seals once
// and the nonce of its AES-256-GCM can be constant.
const saltSize = 32

// tagSize is the size in bytes of an AES-256-GCM tag.
const tagSize = 16

// Contexts of BLAKE3 derive_key, part of the formats in PROTOCOL.md.
const (
	contextMaterialID  = "kmsfs 2026-01-01 local key store: key material id v1"
	contextBlob        = "kmsfs 2026-01-01 local key store: wrapped key v1"
	contextKeyFile     = "kmsfs 2026-01-01 local key store: store key under key file v1"
	contextPassphrase  = "kmsfs 2026-01-01 local key store: store key under passphrase v1"
	contextBody        = "kmsfs 2026-01-01 local key store: body v1"
	contextImportToken = "kmsfs 2026-01-01 local key store: import token v1"
	contextUsage       = "kmsfs 2026-01-01 local key store: last usage v1"
)

// derive is BLAKE3 derive_key over the parts one after another.
func derive(context string, parts ...[]byte) (out [secretSize]byte) {
	h := blake3.NewDeriveKey(context)
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	h.Sum(out[:0])
	wipeHasher(h)
	return out
}

// wipeHasher overwrites the input that a hasher still buffers and makes it ready for the next. Inputs here are short.
func wipeHasher(h *blake3.Hasher) {
	var zeros [2 * secretSize]byte
	h.Reset()
	_, _ = h.Write(zeros[:])
	h.Reset()
}

// newAEAD is AES-256-GCM under key.
func newAEAD(key *[secretSize]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("local: AES refuses a key of 32 bytes: " + err.Error()) // cannot be
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("local: GCM refuses AES: " + err.Error()) // cannot be
	}
	return aead
}

// zeroNonce is the constant nonce of keys that seal once; see saltSize.
func zeroNonce(aead cipher.AEAD) []byte { return make([]byte, aead.NonceSize()) }

// sealOnce seals plaintext under a key that seals nothing else, and appends ciphertext and tag to dst.
func sealOnce(key *[secretSize]byte, dst, plaintext, aad []byte) []byte {
	aead := newAEAD(key)
	return aead.Seal(dst, zeroNonce(aead), plaintext, aad)
}

// openOnce opens what sealOnce sealed and appends the plaintext to dst.
func openOnce(key *[secretSize]byte, dst, sealed, aad []byte) ([]byte, error) {
	aead := newAEAD(key)
	return aead.Open(dst, zeroNonce(aead), sealed, aad)
}

// scratch is what sealing and opening one wrapped key needs besides its result; reused, since a BLAKE3 hasher is some
// 10 KiB and preparing it for a context costs as much as using it.
type scratch struct {
	hasher *blake3.Hasher // for contextBlob
	key    [secretSize]byte
	aad    []byte
}

// scratchPool is a pool of scratch. It is safe for concurrent use.
type scratchPool struct{ pool sync.Pool }

// get takes a scratch from the pool.
func (p *scratchPool) get() *scratch {
	if s, ok := p.pool.Get().(*scratch); ok {
		return s
	}
	return &scratch{hasher: blake3.NewDeriveKey(contextBlob)}
}

// put wipes s and gives it back.
func (p *scratchPool) put(s *scratch) {
	wipeHasher(s.hasher)
	clear(s.key[:])
	s.aad = s.aad[:0]
	p.pool.Put(s)
}

// deriveBlobKey sets s.key to the key of the one wrapped key with this salt.
func (s *scratch) deriveBlobKey(m *material, salt []byte) {
	_, _ = s.hasher.Write(m.secret[:])
	_, _ = s.hasher.Write(salt)
	s.hasher.Sum(s.key[:0])
}
