package envelope

import (
	"encoding/hex"
	"strconv"
	"strings"
)

func (g *generator) header(h Header) Header {
	h.Log2, h.ID, h.Loc = 12, g.o.fk.id, Locator{0x0123456789abcdef, 77}
	return h
}

func (g *generator) headers() {
	for _, c := range []struct {
		name string
		h    Header
	}{
		{"header", Header{Size: 5000}}, {"header inline", Header{Flags: FlagInline | FlagXattr, Size: 3968}},
		{"header exact", Header{Flags: FlagExact, Size: MaxPlain}}, {"header of group 7", Header{Group: 7}},
	} {
		h := g.header(c.h)
		b := make([]byte, HeaderSize)
		h.Marshal(b)
		g.accept(c.name, "header", b, nil)
	}
	for _, r := range []struct {
		name, as string
		at       int
		xor      string
	}{
		{"magic", "corrupt", 0, "01"}, {"version 2", "unsupported", 3, "03"}, {"suite 2", "unsupported", 4, "03"},
		{"chunk size 2^13", "unsupported", 5, "01"}, {"unknown flag", "unsupported", 6, "10"}, {"EXACT and CUT", "corrupt", 6, "06"},
		{"reserved byte 7", "corrupt", 7, "01"}, {"feature 0", "unsupported", 8, "01"}, {"feature 30", "unsupported", 11, "40"},
		{"size in a group not the first", "corrupt", 28, "01"}, {"no table", "corrupt", 36, "efcdab8967452301"},
		{"no slot", "corrupt", 44, "4d"}, {"size over 2^60", "corrupt", 55, "10"}, {"reserved byte 59", "corrupt", 59, "01"},
		{"inline of 5000", "corrupt", 6, "01"},
	} {
		g.refuse("header", r.name, r.as, vector{At: r.at, XOR: r.xor})
	}
	g.refuse("header", "cut", "corrupt", vector{Cut: 59})
	g.refuse("header inline", "INLINE and EXACT", "corrupt", vector{At: 6, XOR: "02"})
	g.refuse("header of group 7", "flag", "corrupt", vector{At: 6, XOR: "08"})
	g.refuse("header of group 7", "group past 2^60", "corrupt", vector{At: 35, XOR: "80"})
}

func (g *generator) contents() {
	s, nonce := new(Scratch), [NonceSize]byte(pattern(8, NonceSize))
	for _, c := range []struct {
		chunk uint64
		n     int
	}{{0, 4096}, {62, 1}, {63, 4095}, {1 << 40, 100}} {
		gk, _ := g.o.fk.Group(c.chunk / ChunksPerGroup)
		buf := make([]byte, c.n+TagSize)
		e := gk.SealChunk(buf, pattern(9, c.n), c.chunk, &nonce, s)
		var entry [EntrySize]byte
		e.marshal(entry[:])
		g.accept("chunk "+strconv.FormatUint(c.chunk, 10), "chunk", buf[:c.n],
			map[string]string{"chunk": strconv.FormatUint(c.chunk, 10), "entry": hex.EncodeToString(entry[:])})
	}
	args := func(chunk, entry string) map[string]string { return map[string]string{"chunk": chunk, "entry": entry} }
	last := g.v.Vectors[len(g.v.Vectors)-1]
	entry := last.Args["entry"]
	g.refuse(last.Name, "moved in its group", "corrupt", vector{Args: args("1099511627777", entry)})
	g.refuse(last.Name, "moved to another group", "corrupt", vector{Args: args("100", entry)})
	g.refuse(last.Name, "changed", "corrupt", vector{At: 99, XOR: "01"})
	g.refuse(last.Name, "cut", "corrupt", vector{Cut: 99})
	g.refuse(last.Name, "cut with its entry", "corrupt", vector{Cut: 99, Args: args(last.Args["chunk"], entry[:56]+"6200")})
	g.refuse(last.Name, "nonce changed", "corrupt", vector{Args: args(last.Args["chunk"], "ff"+entry[2:])})
	g.refuse(last.Name, "tag changed", "corrupt", vector{Args: args(last.Args["chunk"], entry[:24]+"ffffffff"+entry[32:])})
	g.refuse(last.Name, "entry none", "corrupt", vector{Args: args(last.Args["chunk"], strings.Repeat("00", EntrySize))})
	g.refuse("chunk 0", "entry over the chunk size", "corrupt", vector{Add: "00", Args: args("0", entry[:56]+"0010")})

	gk, _ := g.o.fk.Group(0)
	for _, n := range []int{0, 1, 3968} {
		b := make([]byte, BlockSize)
		n := SealInline(g.o.fk, gk, g.header(Header{Flags: FlagXattr}), pattern(10, n), &nonce, b, s)
		g.accept("inline block of "+strconv.Itoa(n), "inline", b[:n], nil)
	}
	b := make([]byte, BlockSize)
	SealInline(g.o.fk, gk, g.header(Header{}), pattern(10, 200), &nonce, b, s)
	g.accept("inline block with a leftover", "inline", append(b[:328], 1, 2, 3), nil)
	for _, r := range []struct {
		name, as string
		c        vector
	}{
		{"cut", "corrupt", vector{Cut: 327}}, {"cut to its header", "corrupt", vector{Cut: 60}}, {"cut to nothing", "corrupt", vector{Cut: 1}},
		{"ciphertext", "corrupt", vector{At: 200, XOR: "01"}}, {"nonce", "corrupt", vector{At: 60, XOR: "01"}},
		{"tag", "corrupt", vector{At: 87, XOR: "01"}}, {"reserved byte", "corrupt", vector{At: 88, XOR: "01"}},
		{"reserved byte 127", "corrupt", vector{At: 127, XOR: "01"}}, {"size less", "corrupt", vector{At: 48, XOR: "08"}},
		{"size none", "corrupt", vector{At: 48, XOR: "c8"}}, {"locator", "corrupt", vector{At: 36, XOR: "01"}},
		{"file id", "corrupt", vector{At: 12, XOR: "01"}}, {"chunk size", "corrupt", vector{At: 5, XOR: "02"}},
		{"not inline", "corrupt", vector{At: 6, XOR: "01"}}, {"attributes", "corrupt", vector{At: 6, XOR: "08"}},
		{"feature", "unsupported", vector{At: 8, XOR: "02"}},
	} {
		g.refuse("inline block with a leftover", r.name, r.as, r.c)
	}
}

func (g *generator) indexBlocks() {
	b := new(IndexBlock)
	h := g.header(Header{Size: 63 * 4096})
	b.SetHeader(&h)
	entry := func(i int) Entry {
		p := pattern(100+i, 30)
		return Entry{[NonceSize]byte(p), [TagSize]byte(p[12:]), uint32(p[29])*16 + 1}
	}
	for i := range ChunksPerGroup {
		b.SetSlot(i, entry(i), Entry{})
	}
	full := *b
	full.SealAll(g.o.fk, 0)
	g.accept("index block full", "index", full[:], map[string]string{"group": "0"})
	for _, i := range []int{0, 6, 7, 61, 62} {
		b.SetSlot(i, entry(i), entry(200+i))
		b.SetUnsettled(i, Unsettled)
	}
	b.SetSlot(30, Entry{}, Entry{})
	b.SetUnsettled(31, Unsettled)
	for _, k := range []int{0, 1, 7, 8, 119, 120, 121, 480, 958, 959} {
		b.SetPresence(k, Present)
	}
	b.SealAll(g.o.fk, 0)
	g.accept("index block", "index", b[:], map[string]string{"group": "0"})
	c := new(IndexBlock)
	h = g.header(Header{Group: 1 << 33})
	c.SetHeader(&h)
	c.SealAll(g.o.fk, 1<<33)
	g.accept("index block of a far group", "index", c[:], map[string]string{"group": strconv.Itoa(1 << 33)})

	for _, r := range []struct {
		name string
		at   int
		xor  string
	}{
		{"header", 30, "01"}, {"size", 48, "01"}, {"slot", 700, "01"}, {"entry to none", 60, hex.EncodeToString(b[60:120])},
		{"unsettled", 480, "02"}, {"presence", 481, "04"}, {"seal", 496, "01"}, {"last seal", 4095, "80"}, {"last slot", 3584 + 479, "01"},
	} {
		g.refuse("index block", r.name+" changed", "corrupt", vector{At: r.at, XOR: r.xor})
	}
	g.refuse("index block", "of another group", "corrupt", vector{Args: map[string]string{"group": "1"}})
	g.refuse("index block", "cut", "corrupt", vector{Cut: 4095})
	swapped := *b
	copy(swapped[512:], b[1024:1536])
	copy(swapped[1024:], b[512:1024])
	g.refuseBytes("index block, sectors exchanged", "index", "corrupt", swapped[:], map[string]string{"group": "0"})
	g.refuseBytes("index block of zeros", "index", "corrupt", make([]byte, BlockSize), map[string]string{"group": "0"})
	broken := func(name, as string, f func(b *IndexBlock)) {
		b := *b
		f(&b)
		for s := range SectorsPerBlock {
			b.sumSector(b[s*SectorSize+sectorSeal:][:TagSize], g.o.fk, 0, s)
		}
		g.refuseBytes("index block, sealed with "+name, "index", as, b[:], map[string]string{"group": "0"})
	}
	broken("a previous entry in a settled slot", "corrupt", func(b *IndexBlock) { b[480] &^= 2 })
	broken("an entry over the chunk size", "corrupt", func(b *IndexBlock) { b[60+29] = 0x10 })
	broken("the header unsettled", "corrupt", func(b *IndexBlock) { b[480] |= 1 })
	broken("the header of another file", "corrupt", func(b *IndexBlock) { b[12]++ })
	broken("the header of another group", "corrupt", func(b *IndexBlock) { h := g.header(Header{Group: 1}); b.SetHeader(&h) })
	broken("an inline header", "corrupt", func(b *IndexBlock) { h := g.header(Header{Flags: FlagInline}); b.SetHeader(&h) })
	broken("a feature", "unsupported", func(b *IndexBlock) { b[9] = 1 })
}
