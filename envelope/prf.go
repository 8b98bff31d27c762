package envelope

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
)

// derive is BLAKE3 derive_key (FORMAT.md, opening).
func derive(context string, material []byte) [KeySize]byte {
	return newDeriver(context).key(material)
}

// deriver is derive for one context, for use many times. A blake3.Hasher is
// 10 KiB, and making one costs more than hashing a key or a name (measured: 1.5 us
// against 0.12 us), so they are kept; Reset keeps the context. Safe for concurrent
// use.
type deriver struct {
	context string
	pool    sync.Pool // of *blake3.Hasher
}

func newDeriver(context string) *deriver { return &deriver{context: context} }

// key derives from the parts one after the other, of 64 bytes at most.
func (d *deriver) key(parts ...[]byte) (key [KeySize]byte) {
	d.sum(key[:], nil, parts...)
	return key
}

// sum fills out with what is derived from secret, of 64 bytes at most, and the parts, of any length: secret stands at the
// start of the hasher's buffer, also where the parts fill it several times.
func (d *deriver) sum(out, secret []byte, parts ...[]byte) {
	h, ok := d.pool.Get().(*blake3.Hasher)
	if !ok {
		h = blake3.NewDeriveKey(d.context)
	}
	h.Write(secret)
	for _, p := range parts {
		h.Write(p)
	}
	h.Digest().Read(out)
	h.Reset()
	h.WriteString(zeros) // over the secret in the buffer
	h.Reset()
	d.pool.Put(h)
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// derivers are for the keys of files.
type derivers struct{ group, index, record, commitment, previous, reverse *deriver }

func newDerivers() *derivers {
	return &derivers{
		group:      newDeriver(ctxGroupKey),
		index:      newDeriver(ctxIndexSeal),
		record:     newDeriver(ctxRecordMAC),
		commitment: newDeriver(ctxDataCommitment),
		previous:   newDeriver(ctxPreviousKey),
		reverse:    newDeriver(ctxReverseNonce),
	}
}

// prf is PRF of FORMAT.md under one key. It keeps its hashers, as deriver does;
// Reset keeps the key. Safe for concurrent use.
type prf struct {
	key   [KeySize]byte
	pool  sync.Pool // of *blake3.Hasher
	wiped atomic.Bool
}

func newPRF(key [KeySize]byte) *prf { return &prf{key: key} }

// get returns a hasher under the key, fresh. Write the input, Read the Digest,
// and put it back. It panics after wipe: what is sealed under a key of zeros is
// open to all.
func (p *prf) get() *blake3.Hasher {
	if p.wiped.Load() {
		panic("envelope: use of a wiped key")
	}
	if h, ok := p.pool.Get().(*blake3.Hasher); ok {
		h.Reset()
		return h
	}
	h, err := blake3.NewKeyed(p.key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	return h
}

func (p *prf) put(h *blake3.Hasher) { p.pool.Put(h) }

// sum fills out with PRF(key, a || b).
func (p *prf) sum(out, a, b []byte) {
	h := p.get()
	h.Write(a)
	h.Write(b)
	h.Digest().Read(out)
	p.put(h)
}

// wipe clears the key and, as far as the pool gives them out, the hashers.
func (p *prf) wipe() {
	p.wiped.Store(true)
	clear(p.key[:])
	for h, ok := p.pool.Get().(*blake3.Hasher); ok; h, ok = p.pool.Get().(*blake3.Hasher) {
		*h = blake3.Hasher{}
	}
}

// xorStream replaces b by b XOR PRF(key, x || y)[len b], with a buffer of the
// caller's of at least len(b) bytes.
func (p *prf) xorStream(b, x, y, buf []byte) {
	buf = buf[:len(b)]
	p.sum(buf, x, y)
	for i := range b {
		b[i] ^= buf[i]
	}
}

// checksum is BLAKE3(b)[16]: against torn writes, not against an adversary.
func checksum(b []byte) [TagSize]byte {
	s := blake3.Sum256(b)
	return [TagSize]byte(s[:TagSize])
}

func redact(f fmt.State, what string) { io.WriteString(f, what+"(redacted)") }
