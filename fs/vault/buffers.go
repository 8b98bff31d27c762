package vault

import (
	"math/bits"
	"sync"

	"kmsfs/envelope"
)

// buffers lends byte slices by powers of two. What comes back may hold ciphertext; plaintext is cleared by the user.
type buffers struct{ pools [32]sync.Pool }

func (b *buffers) get(n int) *[]byte {
	class := bits.Len(uint(max(n, 1<<13) - 1))
	if class >= len(b.pools) {
		p := make([]byte, n)
		return &p
	}
	if p, _ := b.pools[class].Get().(*[]byte); p != nil {
		*p = (*p)[:n]
		return p
	}
	p := make([]byte, n, 1<<class)
	return &p
}

func (b *buffers) put(p *[]byte) {
	if class := bits.Len(uint(cap(*p) - 1)); class < len(b.pools) && cap(*p) == 1<<class {
		b.pools[class].Put(p)
	}
}

type blockPool struct{ p sync.Pool }

// block has room for a tag behind it.
type block = [envelope.BlockSize + envelope.TagSize]byte

func (b *blockPool) get() *block {
	if p, _ := b.p.Get().(*block); p != nil {
		return p
	}
	return new(block)
}

func (b *blockPool) put(p *block) { b.p.Put(p) }

type scratchPool struct{ p sync.Pool }

func (b *scratchPool) get() *envelope.Scratch {
	if p, _ := b.p.Get().(*envelope.Scratch); p != nil {
		return p
	}
	return new(envelope.Scratch)
}

func (b *scratchPool) put(p *envelope.Scratch) { b.p.Put(p) }

type sealingPool struct{ p sync.Pool }

func (b *sealingPool) get() *sealing {
	if p, _ := b.p.Get().(*sealing); p != nil {
		return p
	}
	return new(sealing)
}

func (b *sealingPool) put(w *sealing) {
	w.f, w.p, w.buf = nil, nil, nil
	clear(w.groups[:cap(w.groups)])
	b.p.Put(w)
}
