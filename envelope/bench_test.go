package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"strconv"
	"strings"
	"testing"
)

// Nothing is allocated per chunk, sector, or slot.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops what it is given at random under -race: run without it")
	}
	k := testKey(t, 4096)
	gk, s := testGroup(t, k, 0), new(Scratch)
	buf, plain, nonce := make([]byte, 4096+TagSize), make([]byte, 4096), [NonceSize]byte{}
	block, h := make([]byte, BlockSize), Header{Loc: Locator{1, 1}}
	b := testIndex(t, k, 0)
	for name, f := range map[string]func(){
		"chunk": func() {
			e := gk.SealChunk(buf, plain, 1, &nonce, s)
			if gk.OpenChunk(plain, buf[:4096], e, 1, s) != nil {
				t.Error("chunk does not open")
			}
		},
		"inline": func() {
			n := SealInline(k, gk, h, plain[:1000], &nonce, block, s)
			if _, _, err := OpenInline(gk, block[:n], plain, s); err != nil {
				t.Error(err)
			}
		},
		"slot": func() {
			cur, prev := b.Slot(5)
			b.SetUnsettled(5, Unsettled)
			b.SetSlot(5, prev, cur)
			b.SetSlot(5, cur, prev)
			b.SetUnsettled(5, Settled)
			b.SetPresence(5, Present)
			_, _, _ = b.Presence(5), b.Unsettled(5), b.IsZero()
		},
		"index block": func() {
			b.SealAll(k, 0)
			if err := b.Verify(k, 0); err != nil {
				t.Error(err)
			}
		},
	} {
		// The pool of hashers may lose one to a collection: that is not per call.
		if n := testing.AllocsPerRun(500, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func benchChunk(b *testing.B, f func(b *testing.B, gk *GroupKey, buf, plain []byte)) {
	for _, size := range []int{4096, 65536} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			f(b, testGroup(b, testKey(b, size), 0), make([]byte, size+TagSize), make([]byte, size))
		})
	}
}

func BenchmarkSealChunk(b *testing.B) {
	benchChunk(b, func(b *testing.B, gk *GroupKey, buf, plain []byte) {
		s, nonce := new(Scratch), new([NonceSize]byte)
		for b.Loop() {
			gk.SealChunk(buf, plain, 1, nonce, s)
		}
	})
}

func BenchmarkOpenChunk(b *testing.B) {
	benchChunk(b, func(b *testing.B, gk *GroupKey, buf, plain []byte) {
		s, nonce := new(Scratch), new([NonceSize]byte)
		e := gk.SealChunk(buf, plain, 1, nonce, s)
		for b.Loop() {
			if err := gk.OpenChunk(plain, buf[:len(plain)], e, 1, s); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkGCM is the cipher alone, to compare.
func BenchmarkGCM(b *testing.B) {
	benchChunk(b, func(b *testing.B, _ *GroupKey, buf, plain []byte) {
		block, err := aes.NewCipher(make([]byte, KeySize))
		if err != nil {
			b.Fatal(err)
		}
		g, err := cipher.NewGCM(block)
		if err != nil {
			b.Fatal(err)
		}
		nonce, aad := make([]byte, NonceSize), make([]byte, chunkAADSize)
		for b.Loop() {
			g.Seal(buf[:0], nonce, plain, aad)
		}
	})
}

func BenchmarkInline(b *testing.B) {
	k := testKey(b, 4096)
	gk, s := testGroup(b, k, 0), new(Scratch)
	plain, block, nonce := make([]byte, 1000), make([]byte, BlockSize), new([NonceSize]byte)
	n := SealInline(k, gk, Header{Loc: Locator{1, 1}}, plain, nonce, block, s)
	b.Run("Seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			SealInline(k, gk, Header{Loc: Locator{1, 1}}, plain, nonce, block, s)
		}
	})
	b.Run("Open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			OpenInline(gk, block[:n], plain, s)
		}
	})
}

func BenchmarkKeys(b *testing.B) {
	k := testKey(b, 4096)
	r := NewRecord(k, k.id, 0, testWrappings(1))
	slot := make([]byte, 512)
	if err := r.Marshal(slot); err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]func(){
		"Group":        func() { k.Group(1) },
		"RecordVerify": func() { r.Verify(k) },
		"RecordParse":  func() { ParseRecord(slot) },
		"NewFileKey":   func() { NewFileKey(k.key[:], k.id, k.g) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

func BenchmarkName(b *testing.B) {
	vk, dir := testVolume(b), DirID{1}
	for _, n := range []int{12, 100, 200} {
		name := strings.Repeat("n", n)
		s, err := vk.SealName(dir, name)
		if err != nil {
			b.Fatal(err)
		}
		long := ""
		if s.Companions != nil {
			_, _, p, _ := ParseCompanion(s.Companions[0])
			_, _, q, _ := ParseCompanion(s.Companions[1])
			long = p + q
		}
		b.Run("Seal/"+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				vk.SealName(dir, name)
			}
		})
		b.Run("Open/"+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				vk.OpenName(dir, s.Entry, long)
			}
		})
	}
}

func BenchmarkIndex(b *testing.B) {
	k := testKey(b, 4096)
	ib := testIndex(b, k, 0)
	for name, f := range map[string]func(){
		"SealSector":   func() { ib.SealSector(k, 0, 3) },
		"VerifySector": func() { ib.VerifySector(k, 0, 3) },
		"Verify":       func() { ib.Verify(k, 0) },
		"Slot":         func() { ib.Slot(9) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
	b.Run("IsZero", func(b *testing.B) {
		z := new(IndexBlock)
		for b.Loop() {
			z.IsZero()
		}
	})
}
