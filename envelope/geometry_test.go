package envelope

import (
	"math"
	"math/rand/v2"
	"testing"
)

func geometries(t testing.TB) []Geometry {
	t.Helper()
	var gs []Geometry
	for _, c := range []int{4096, 16384, 65536} {
		g, err := NewGeometry(c)
		if err != nil {
			t.Fatal(err)
		}
		gs = append(gs, g)
	}
	for _, c := range []int{0, -1, 1, 512, 4095, 8192, 32768, 1 << 17} {
		if _, err := NewGeometry(c); err == nil {
			t.Errorf("chunk size %d is accepted", c)
		}
	}
	return gs
}

func TestSizesRoundTrip(t *testing.T) {
	for _, g := range geometries(t) {
		check := func(n int64) {
			t.Helper()
			if n < 1 || n > MaxPlain {
				return
			}
			s := g.SealedSize(n)
			if s <= BlockSize || g.PlainSize(s) != n {
				t.Fatalf("C %d: %d -> %d -> %d", g.ChunkSize(), n, s, g.PlainSize(s))
			}
			last := uint64((n - 1) / g.ChunkSize())
			if end := g.ChunkOffset(last) + (n-1)%g.ChunkSize() + 1; end != s {
				t.Fatalf("C %d: %d: the last chunk ends at %d, the file at %d", g.ChunkSize(), n, end, s)
			}
		}
		for shift := range 61 {
			for d := int64(-2); d <= 2; d++ {
				check(1<<shift + d)
			}
		}
		for _, unit := range []int64{g.ChunkSize(), g.GroupPlain(), g.GroupPlain() * PresenceFanout} {
			for range 2000 {
				k := rand.Int64N(MaxPlain/unit) >> rand.IntN(60)
				for d := int64(-2); d <= 2; d++ {
					check(k*unit + d)
				}
			}
		}
		for range 200000 {
			check(1 + rand.Int64N(MaxPlain)>>rand.IntN(60))
		}
		for n := int64(0); n <= InlineMax; n++ {
			if got := g.PlainSize(g.InlineSize(n)); got != n {
				t.Fatalf("inline %d -> %d", n, got)
			}
		}
	}
}

func TestSizesMonotone(t *testing.T) {
	for _, g := range geometries(t) {
		prev := int64(0)
		for s := int64(BlockSize + 1); s < 3*g.GroupSealed(); s += 1 + s%7 {
			n := g.PlainSize(s)
			if n < prev || n > s {
				t.Fatalf("stored %d gives %d, a smaller one %d", s, n, prev)
			}
			prev = n
		}
	}
}

func TestSizesOutOfRange(t *testing.T) {
	for _, g := range geometries(t) {
		for _, c := range []struct {
			name      string
			got, want int64
		}{
			{"SealedSize(-1)", g.SealedSize(-1), 0},
			{"SealedSize(0)", g.SealedSize(0), 0},
			{"SealedSize(MaxPlain+1)", g.SealedSize(MaxPlain + 1), math.MaxInt64},
			{"SealedSize(MaxInt64)", g.SealedSize(math.MaxInt64), math.MaxInt64},
			{"PlainSize(-1)", g.PlainSize(-1), 0},
			{"PlainSize(0)", g.PlainSize(0), 0},
			{"PlainSize(127)", g.PlainSize(127), 0},
			{"PlainSize(128)", g.PlainSize(128), 0},
			{"PlainSize(4096)", g.PlainSize(4096), 3968},
			{"PlainSize(4097)", g.PlainSize(4097), 1},
			{"PlainSize(G)", g.PlainSize(g.GroupSealed()), g.GroupPlain()},
			{"PlainSize(G+4096)", g.PlainSize(g.GroupSealed() + BlockSize), g.GroupPlain()},
			{"ChunkOffset(2^64-1)", g.ChunkOffset(math.MaxUint64), math.MaxInt64},
			{"IndexOffset(2^64-1)", g.IndexOffset(math.MaxUint64), math.MaxInt64},
			{"IndexOffset(1)", g.IndexOffset(1), g.GroupSealed()},
			{"ChunkOffset(63)", g.ChunkOffset(63), g.GroupSealed() + BlockSize},
		} {
			if c.got != c.want {
				t.Errorf("C %d: %s: got %d, want %d", g.ChunkSize(), c.name, c.got, c.want)
			}
		}
		if n := g.PlainSize(math.MaxInt64); n <= MaxPlain {
			t.Errorf("PlainSize(MaxInt64) = %d", n)
		}
		for _, s := range []int64{g.SealedSize(MaxPlain), g.ChunkOffset(uint64(MaxPlain / g.ChunkSize())), g.IndexOffset(uint64(MaxPlain / g.GroupPlain()))} {
			if s <= 0 || s == math.MaxInt64 {
				t.Errorf("C %d: %d at MaxPlain", g.ChunkSize(), s)
			}
		}
	}
}

func TestPresenceParent(t *testing.T) {
	for _, c := range []struct {
		group, parent uint64
		k             int
	}{{1, 0, 0}, {960, 0, 959}, {961, 1, 0}, {1920, 1, 959}, {1921, 2, 0}, {1 << 40, (1<<40 - 1) / 960, (1<<40 - 1) % 960}} {
		if p, k := PresenceParent(c.group); p != c.parent || k != c.k {
			t.Errorf("group %d: got %d, %d, want %d, %d", c.group, p, k, c.parent, c.k)
		}
	}
}
