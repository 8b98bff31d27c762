package envelope

import (
	"bytes"
	"reflect"
	"testing"
)

// seed adds the vectors of a kind, those that are refused too.
func seed(f *testing.F, kind string, add func(c vector, data []byte)) *opener {
	f.Helper()
	v := loadVectors(f)
	for _, c := range v.Vectors {
		if c.Kind == kind {
			add(c, v.bytes(f, c))
		}
	}
	return newOpener(f, v)
}

// What parses is written back as it was: no two encodings of one thing.

func FuzzHeader(f *testing.F) {
	seed(f, "header", func(_ vector, b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		got := make([]byte, HeaderSize)
		if h.Marshal(got); !bytes.Equal(got, b[:HeaderSize]) {
			t.Errorf("%x -> %x", b, got)
		}
	})
}

func FuzzInline(f *testing.F) {
	o := seed(f, "inline", func(_ vector, b []byte) { f.Add(b) })
	gk := testGroup(f, o.fk, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, dst := new(Scratch), make([]byte, InlineMax)
		before := bytes.Clone(b)
		h, n, err := OpenInline(gk, b, dst, s)
		if !bytes.Equal(before, b) {
			t.Fatal("the block was changed")
		}
		if err == nil {
			again := make([]byte, BlockSize)
			m := SealInline(o.fk, gk, h, dst[:n], (*[NonceSize]byte)(b[inlineNonce:]), again, s)
			if !bytes.Equal(again[:m], b[:m]) {
				t.Errorf("%x -> %x", b, again)
			}
		}
		// And with the bytes as plaintext.
		plain := b[:min(len(b), InlineMax)]
		block := make([]byte, BlockSize)
		m := SealInline(o.fk, gk, Header{Loc: Locator{1, 1}}, plain, &[NonceSize]byte{1}, block, s)
		if h, n, err := OpenInline(gk, block[:m], dst, s); err != nil || !bytes.Equal(dst[:n], plain) || h.Size != uint64(len(plain)) {
			t.Errorf("round trip of %d bytes: %v", len(plain), err)
		}
	})
}

// The block as it is, and with its seals put right, so that what lies behind them
// is reached.
func FuzzIndexBlock(f *testing.F) {
	o := seed(f, "index", func(_ vector, b []byte) { f.Add(b, uint64(0)) })
	f.Fuzz(func(t *testing.T, data []byte, group uint64) {
		b, again := new(IndexBlock), new(IndexBlock)
		copy(b[:], data)
		*again = *b
		_ = b.Verify(o.fk, group)
		for i := range ChunksPerGroup {
			cur, prev := b.Slot(i)
			again.SetSlot(i, cur, prev)
		}
		for k := range PresenceFanout {
			if b.Presence(k) {
				again.SetPresence(k, Present)
			}
		}
		if *again != *b {
			t.Fatal("not the same bytes")
		}
		if b.IsZero() != IsZero(b[:]) {
			t.Fatal("IsZero")
		}
		for s := range SectorsPerBlock {
			b.sumSector(b[s*SectorSize+sectorSeal:][:TagSize], o.fk, group, s)
			if b.VerifySector(o.fk, group, s) == nil {
				before := *b
				if b.SealSector(o.fk, group, s); *b != before {
					t.Fatal("sealing is not what verifies")
				}
			}
		}
	})
}

func FuzzName(f *testing.F) {
	o := seed(f, "name", func(c vector, b []byte) { f.Add(string(b), c.Args["long"]) })
	f.Fuzz(func(t *testing.T, entry, long string) {
		dir := DirID(pattern(5, 16))
		if name, err := o.vk.OpenName(dir, entry, long); err == nil {
			s, err := o.vk.SealName(dir, name)
			if err != nil || s.Entry != entry {
				t.Errorf("%q opens as %q, seals as %v, %v", entry, name, s, err)
			}
		}
		s, err := o.vk.SealName(dir, entry) // and as plaintext
		if err != nil {
			return
		}
		if got, err := openSealed(o.vk, dir, s); err != nil || got != entry {
			t.Errorf("%q -> %v -> %q, %v", entry, s, got, err)
		}
	})
}

func FuzzCompanion(f *testing.F) {
	seed(f, "companion", func(_ vector, b []byte) { f.Add(string(b)) })
	f.Fuzz(func(t *testing.T, name string) {
		tag, part, piece, ok := ParseCompanion(name)
		if !ok {
			return
		}
		if got := CompanionPrefix + tag + "." + string('0'+rune(part)) + "." + piece; got != name || len(name) > NameMax {
			t.Errorf("%q -> %q", name, got)
		}
	})
}

func FuzzTarget(f *testing.F) {
	o := seed(f, "target", func(_ vector, b []byte) { f.Add(string(b)) })
	f.Fuzz(func(t *testing.T, stored string) {
		if target, err := o.vk.OpenTarget(stored); err == nil {
			var b [8192]byte
			decode64(o.vk.b64, b[:], stored)
			if again, err := o.vk.SealTarget(target, (*[16]byte)(b[:])); err != nil || again != stored {
				t.Errorf("%q -> %q, %v", stored, again, err)
			}
		}
		if s, err := o.vk.SealTarget(stored, new([16]byte)); err == nil {
			if got, err := o.vk.OpenTarget(s); err != nil || got != stored || PlainTargetSize(int64(len(s))) != int64(len(stored)) {
				t.Errorf("%q -> %q, %v", stored, got, err)
			}
		}
	})
}

func FuzzXattr(f *testing.F) {
	o := seed(f, "xattr", func(_ vector, b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		owner := FileID(pattern(4, 16))
		open := func(b []byte) {
			name, value, err := o.vk.OpenXattr(owner, b)
			if err != nil {
				return
			}
			if again, err := o.vk.SealXattr(owner, name, value); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x -> %x, %v", b, again, err)
			}
		}
		open(b)
		if len(b) > TagSize { // and with its tag put right
			b = bytes.Clone(b)
			o.vk.xattrTag.sum(b[:TagSize], owner[:], b[TagSize:])
			o.vk.xattrStream.xorStream(b[TagSize:], owner[:], b[:TagSize], make([]byte, len(b)))
			open(b)
		}
	})
}

func FuzzDirFile(f *testing.F) {
	o := seed(f, "dirfile", func(_ vector, b []byte) { f.Add(b) })
	f.Add(o.vk.MarshalDirFile(DirID{1}, "alias/zone"))
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(b []byte) {
			peeked, peekedZone, peekErr := PeekDirFile(b)
			id, zone, err := o.vk.ParseDirFile(b)
			if err != nil {
				return
			}
			if peekErr != nil || peeked != id || peekedZone != zone {
				t.Errorf("%x: peeked at %v %q: %v", b, peeked, peekedZone, peekErr)
			}
			if again := o.vk.MarshalDirFile(id, zone); !bytes.Equal(again, b) {
				t.Errorf("%x -> %x", b, again)
			}
		}
		open(b)
		if len(b) >= DirFileSize {
			b = bytes.Clone(b)
			mac := o.vk.dirFileMAC(b)
			copy(b[dirFileMAC:], mac[:])
			open(b)
		}
	})
}

func FuzzTable(f *testing.F) {
	seed(f, "table", func(_ vector, b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(b []byte) {
			h, err := ParseTableHeader(b)
			if err != nil {
				return
			}
			again := make([]byte, h.SlotSize)
			if err := h.Marshal(again); err != nil || !bytes.Equal(again, b[:h.SlotSize]) {
				t.Errorf("%x -> %x, %v", b, again, err)
			}
		}
		open(b)
		if len(b) > TagSize {
			b = bytes.Clone(b)
			putChecksum(b)
			open(b)
		}
	})
}

func FuzzRecord(f *testing.F) {
	o := seed(f, "record", func(_ vector, b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(b []byte) {
			r, err := ParseRecord(b)
			if err != nil {
				return
			}
			_ = r.Verify(o.fk)
			again := make([]byte, len(b))
			if err := r.Marshal(again); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x -> %x, %v", b, again, err)
			}
		}
		open(b)
		if validSlotSize(len(b)) {
			b = bytes.Clone(b)
			putChecksum(b)
			open(b)
		}
	})
}

func FuzzConfig(f *testing.F) {
	o := seed(f, "config", func(_ vector, b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		_ = c.Verify(o.vk)
		again, err := c.Remarshal()
		if err != nil {
			if len(b) > ConfigMax/2 {
				return // written on more lines, it may be too large
			}
			t.Fatal(err)
		}
		if d, err := ParseConfig(again); err != nil || !reflect.DeepEqual(c, d) {
			t.Errorf("%s -> %s, %v", b, again, err)
		}
	})
}
