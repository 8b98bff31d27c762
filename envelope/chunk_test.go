package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func testKey(t testing.TB, chunkSize int) *FileKey {
	t.Helper()
	g, err := NewGeometry(chunkSize)
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewFileKey(pattern(1, KeySize), FileID(pattern(2, 16)), g)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testGroup(t testing.TB, k *FileKey, n uint64) *GroupKey {
	t.Helper()
	g, err := k.Group(n)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A run of chunks is sealed and opened in one buffer, in place and apart, and the
// bytes after each chunk stay what they were.
func TestChunksInARun(t *testing.T) {
	for _, size := range []int{4096, 16384, 65536} {
		for _, last := range []int{1, 15, size - 1, size} {
			k := testKey(t, size)
			gk, s := testGroup(t, k, 3), new(Scratch)
			n := 2*size + last
			plain := pattern(7, n)
			inPlace := append(append([]byte(nil), plain...), bytes.Repeat([]byte{0xee}, 2*TagSize)...)
			apart := bytes.Repeat([]byte{0xee}, n+2*TagSize)
			var entries []Entry
			for i := range 3 {
				lo, hi := i*size, min((i+1)*size, n)
				nonce := [NonceSize]byte{byte(i)}
				chunk := uint64(3*ChunksPerGroup + i)
				e := gk.SealChunk(inPlace[lo:], inPlace[lo:hi], chunk, &nonce, s)
				entries = append(entries, e)
				if e2 := gk.SealChunk(apart[lo:], plain[lo:hi], chunk, &nonce, s); e2 != e {
					t.Fatalf("in place %v, apart %v", e, e2)
				}
			}
			if !bytes.Equal(inPlace, apart) {
				t.Fatal("in place and apart differ")
			}
			if !bytes.Equal(apart[n:], bytes.Repeat([]byte{0xee}, 2*TagSize)) {
				t.Fatal("the bytes after the last chunk were changed")
			}
			dst := make([]byte, n)
			for i := range 3 {
				lo, hi := i*size, min((i+1)*size, n)
				chunk := uint64(3*ChunksPerGroup + i)
				before := bytes.Clone(apart)
				if err := gk.OpenChunk(dst[lo:], apart[lo:hi], entries[i], chunk, s); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(before, apart) {
					t.Fatal("sealed was changed")
				}
				if err := gk.OpenChunk(inPlace[lo:], inPlace[lo:hi], entries[i], chunk, s); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(dst, plain) || !bytes.Equal(inPlace[:n], plain) {
				t.Fatal("what opens is not what was sealed")
			}
		}
	}
}

func TestOpenChunkFailure(t *testing.T) {
	k := testKey(t, 4096)
	gk, s := testGroup(t, k, 0), new(Scratch)
	buf := make([]byte, 4096+TagSize)
	e := gk.SealChunk(buf, pattern(3, 4096), 5, &[NonceSize]byte{1}, s)
	other := testKey(t, 16384)
	for _, c := range []struct {
		name   string
		gk     *GroupKey
		sealed []byte
		e      Entry
		chunk  uint64
	}{
		{"another chunk", gk, buf[:4096], e, 6},
		{"another chunk size", testGroup(t, other, 0), buf[:4096], e, 5},
		{"cut", gk, buf[:4095], e, 5},
		{"none", gk, buf[:4096], Entry{}, 5},
		{"too long", gk, append(make([]byte, 5000), make([]byte, 16)...)[:5000], Entry{Length: 5000}, 5},
		{"another tag", gk, buf[:4096], Entry{e.Nonce, [TagSize]byte{}, e.Length}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := bytes.Repeat([]byte{7}, 8192)
			before := bytes.Clone(buf)
			err := c.gk.OpenChunk(dst, c.sealed, c.e, c.chunk, s)
			var ce *ChunkError
			if !errors.Is(err, ErrCorrupt) || !errors.As(err, &ce) || ce.Chunk != c.chunk {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(before, buf) {
				t.Error("sealed was changed")
			}
			if bytes.Contains(dst, pattern(3, 4096)[:64]) {
				t.Error("plaintext that is not authentic is in dst")
			}
		})
	}
}

func TestCallersBugsPanic(t *testing.T) {
	k := testKey(t, 4096)
	gk, s := testGroup(t, k, 0), new(Scratch)
	nonce, buf := new([NonceSize]byte), make([]byte, 4096)
	b := new(IndexBlock)
	for name, f := range map[string]func(){
		"chunk of another group": func() { gk.SealChunk(make([]byte, 32), buf[:16], 63, nonce, s) },
		"nothing to seal":        func() { gk.SealChunk(make([]byte, 32), nil, 0, nonce, s) },
		"more than a chunk":      func() { gk.SealChunk(make([]byte, 9000), make([]byte, 4097), 0, nonce, s) },
		"no room for the tag":    func() { gk.SealChunk(buf, buf, 0, nonce, s) },
		"no room for it in open": func() { gk.OpenChunk(make([]byte, 4096), buf, Entry{Length: 4096}, 0, s) },
		"too much inline": func() {
			SealInline(k, gk, Header{Loc: Locator{1, 1}}, make([]byte, 3969), nonce, make([]byte, 5000), s)
		},
		"inline without a locator": func() { SealInline(k, gk, Header{}, nil, nonce, buf, s) },
		"slot 63":                  func() { b.Slot(63) },
		"slot -1":                  func() { b.SetUnsettled(-1, Unsettled) },
		"presence 960":             func() { b.Presence(960) },
		"header that is refused":   func() { (&Header{}).Marshal(buf) },
		"settled and previous": func() {
			b.SetSlot(9, Entry{Length: 1}, Entry{Nonce: [NonceSize]byte{1}, Length: 1})
			b.SealSector(k, 0, SectorOf(9))
		},
		"parent of group 0": func() { PresenceParent(0) },
	} {
		t.Run(name, func(t *testing.T) {
			mustPanic(t, "no panic", f)
		})
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	k := testKey(t, 4096)
	vk, err := NewVolumeKeys(pattern(4, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{k, testGroup(t, k, 0), vk} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if got := fmt.Sprintf(verb, v); !strings.HasSuffix(got, "(redacted)") {
				t.Errorf("%s of %T: %.80s", verb, v, got)
			}
		}
	}
}

func TestKeyLengths(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := NewFileKey(make([]byte, n), FileID{}, testKey(t, 4096).g); err == nil {
			t.Errorf("data key of %d bytes is accepted", n)
		}
		if _, err := NewVolumeKeys(make([]byte, n)); err == nil {
			t.Errorf("volume key of %d bytes is accepted", n)
		}
	}
	if _, err := NewFileKey(make([]byte, 32), FileID{}, Geometry{}); err == nil {
		t.Error("the zero geometry is accepted")
	}
}

func TestWipe(t *testing.T) {
	k := testKey(t, 4096)
	b := new(IndexBlock)
	b.SealSector(k, 0, 1)
	k.Wipe()
	k.Wipe()
	if _, err := k.Group(0); err == nil {
		t.Error("a wiped key derives group keys")
	}
	vk := testVolume(t)
	if vk.RootDir() == (DirID{}) || vk.Commitment() == ([32]byte{}) {
		t.Error("root directory or commitment is zero")
	}
	vk.Wipe()
	mustPanic(t, "a wiped key seals names", func() { vk.SealName(DirID{}, "name") })
	mustPanic(t, "a wiped key seals sectors", func() { b.SealSector(k, 0, 1) })
}

func mustPanic(t *testing.T, otherwise string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error(otherwise)
		}
	}()
	f()
}
