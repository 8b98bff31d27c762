package envelope

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

func testIndex(t testing.TB, k *FileKey, group uint64) *IndexBlock {
	t.Helper()
	b := new(IndexBlock)
	h := Header{Log2: k.g.log2, ID: k.id, Group: group, Loc: Locator{1, 2}}
	b.SetHeader(&h)
	for i := range ChunksPerGroup {
		b.SetSlot(i, Entry{[NonceSize]byte{byte(i)}, [TagSize]byte{1}, uint32(i + 1)}, Entry{})
	}
	b.SealAll(k, group)
	return b
}

// Every slot and presence bit is a place of its own, in the sector that the
// package says.
func TestIndexPlaces(t *testing.T) {
	k := testKey(t, 65536)
	for i := range ChunksPerGroup {
		b := new(IndexBlock)
		cur, prev := Entry{[NonceSize]byte{1}, [TagSize]byte{2}, 65536}, Entry{[NonceSize]byte{3}, [TagSize]byte{4}, 1}
		b.SetSlot(i, cur, prev)
		b.SetUnsettled(i, Unsettled)
		for j := range ChunksPerGroup {
			c, p := b.Slot(j)
			if i == j && (c != cur || p != prev || !b.Unsettled(j)) || i != j && (!c.IsZero() || !p.IsZero() || b.Unsettled(j)) {
				t.Fatalf("slot %d set: slot %d has %v, %v", i, j, c, p)
			}
		}
		for at, c := range b {
			if c != 0 && at/SectorSize != SectorOf(i) {
				t.Fatalf("slot %d wrote byte %d", i, at)
			}
		}
		b.SealSector(k, 0, SectorOf(i))
		b.SetUnsettled(i, Settled)
		if c, p := b.Slot(i); c != cur || !p.IsZero() || b.Unsettled(i) {
			t.Fatalf("slot %d settled: %v, %v", i, c, p)
		}
	}
	for n := range PresenceFanout {
		b := new(IndexBlock)
		b.SetPresence(n, Present)
		for j := range PresenceFanout {
			if b.Presence(j) != (n == j) {
				t.Fatalf("bit %d set: bit %d is %v", n, j, b.Presence(j))
			}
		}
		for at, c := range b {
			if c != 0 && at/SectorSize != n/PresencePerSector {
				t.Fatalf("bit %d wrote byte %d", n, at)
			}
		}
		if b.SetPresence(n, Absent); !b.IsZero() {
			t.Fatalf("bit %d stays", n)
		}
	}
}

func TestIndexIsZero(t *testing.T) {
	b := new(IndexBlock)
	if !b.IsZero() {
		t.Error("zeros are not zero")
	}
	for i := range b {
		if b[i] = 0x40; b.IsZero() {
			t.Fatalf("byte %d is not looked at", i)
		}
		b[i] = 0
	}
}

// Each bit of a sealed block is covered: changing one is refused in its sector,
// and in no other.
func TestIndexSealCoversAll(t *testing.T) {
	k := testKey(t, 4096)
	b := testIndex(t, k, 5)
	if err := b.Verify(k, 5); err != nil {
		t.Fatal(err)
	}
	for at := range b {
		bit := byte(1) << rand.IntN(8)
		b[at] ^= bit
		for s := range SectorsPerBlock {
			if err := b.VerifySector(k, 5, s); (err != nil) != (s == at/SectorSize) || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d changed: sector %d: %v", at, s, err)
			}
		}
		b[at] ^= bit
	}
	for s := range SectorsPerBlock {
		if b.VerifySector(k, 6, s) == nil {
			t.Errorf("sector %d is accepted in another group", s)
		}
	}
}

func TestSealIsConcurrent(t *testing.T) {
	k := testKey(t, 4096)
	var wg sync.WaitGroup
	for n := range uint64(8) {
		wg.Go(func() {
			for range 50 {
				if err := testIndex(t, k, n).Verify(k, n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
