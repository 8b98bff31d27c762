package envelope

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// generator builds the vectors of this version.
type generator struct {
	t *testing.T
	v vectors
	o *opener
}

// TestGenerateVectors writes testdata/v1.json where it does not exist and the
// variable is set. Vectors are not written again: a format that no longer opens
// them is another version.
func TestGenerateVectors(t *testing.T) {
	if os.Getenv("KMSFS_WRITE_VECTORS") == "" {
		t.Skip("KMSFS_WRITE_VECTORS=1 writes " + vectorFile + " where it does not exist")
	}
	g := &generator{t: t, v: vectors{
		Comment:   "kmsfs vault format 1. Data is base64, of names, targets, companions and configs the text.",
		VolumeKey: hex.EncodeToString(pattern(1, 32)), VolumeID: hex.EncodeToString(pattern(2, 16)),
		DataKey: hex.EncodeToString(pattern(3, 32)), FileID: hex.EncodeToString(pattern(4, 16)),
		DirID: hex.EncodeToString(pattern(5, 16)), ChunkSize: 4096, Derived: map[string]string{},
	}}
	g.o = newOpener(t, &g.v)
	g.derived()
	g.names()
	g.targets()
	g.xattrs()
	g.dirFiles()
	g.headers()
	g.contents()
	g.indexBlocks()
	g.sidecar()
	g.configs()
	f, err := os.OpenFile(vectorFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	e := json.NewEncoder(f)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := errors.Join(e.Encode(&g.v), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// pattern returns n bytes that look random and depend on seed.
func pattern(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x >> 11)
	}
	return b
}

// accept adds a vector that opens, as what the package opens it as.
func (g *generator) accept(name, kind string, data []byte, args map[string]string) {
	c := vector{Name: name, Kind: kind, Args: args, Data: string(data)}
	if kind != "name" && kind != "target" && kind != "config" && kind != "companion" {
		c.Data = base64.StdEncoding.EncodeToString(data)
	}
	want, err := g.o.open(g.t, c, data)
	if err != nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	c.Want = want
	g.v.Vectors = append(g.v.Vectors, c)
}

// refuse adds a vector that is base with an edit, of base's kind and arguments
// unless c has its own.
func (g *generator) refuse(base, name, as string, c vector) {
	for _, b := range g.v.Vectors {
		if b.Name == base {
			if c.Kind = b.Kind; c.Args == nil {
				c.Args = b.Args
			}
		}
	}
	c.Base, c.Name, c.Error = base, base+", "+name, as
	g.v.Vectors = append(g.v.Vectors, c)
}

// refuseText adds a vector of its own text.
func (g *generator) refuseText(name, kind, as, data string, args map[string]string) {
	g.v.Vectors = append(g.v.Vectors, vector{Name: name, Kind: kind, Data: data, Args: args, Error: as})
}

func (g *generator) refuseBytes(name, kind, as string, data []byte, args map[string]string) {
	g.refuseText(name, kind, as, base64.StdEncoding.EncodeToString(data), args)
}

func (g *generator) derived() {
	volume, data := unhexT(g.t, g.v.VolumeKey), unhexT(g.t, g.v.DataKey)
	for _, c := range []string{ctxConfigMAC, ctxDirectoryMAC, ctxNameTag, ctxNameStream, ctxSymlinkTag, ctxSymlinkStream,
		ctxXattrName, ctxXattrTag, ctxXattrStream, ctxRootDirectory, ctxVolumeCommitment} {
		k := derive(c, volume)
		g.v.Derived[c] = hex.EncodeToString(k[:])
	}
	for _, c := range []string{ctxIndexSeal, ctxRecordMAC, ctxDataCommitment} {
		k := derive(c, data)
		g.v.Derived[c] = hex.EncodeToString(k[:])
	}
	k := derive(ctxGroupKey, append(data, 1, 0, 0, 0, 0, 0, 0, 0))
	g.v.Derived[ctxGroupKey+" 1"] = hex.EncodeToString(k[:])
}

func (g *generator) names() {
	dir := DirID(unhexT(g.t, g.v.DirID))
	seal := func(dir DirID, name string) (string, map[string]string) {
		s, err := g.o.vk.SealName(dir, name)
		if err != nil {
			g.t.Fatal(err)
		}
		args := map[string]string{"dir": dir.String()}
		if s.Companions != nil {
			_, _, a, _ := ParseCompanion(s.Companions[0])
			_, _, b, _ := ParseCompanion(s.Companions[1])
			args["long"] = a + b
		}
		return s.Entry, args
	}
	for _, n := range []int{1, 15, 16, 17, 160, 161, 176, 177, 240, 255} {
		entry, args := seal(dir, strings.Repeat("abcdefghij", 26)[:n])
		g.accept("name of "+strconv.Itoa(n), "name", []byte(entry), args)
	}
	entry, args := seal(g.o.vk.RootDir(), "Grüße \n .kmsfs")
	g.accept("name in the root", "name", []byte(entry), args)
	short, shortArgs := seal(dir, "a")
	flip := func(s string, i int) string {
		c := byte('A')
		if s[i] == 'A' {
			c = 'B'
		}
		return s[:i] + string(c) + s[i+1:]
	}
	other := map[string]string{"dir": strings.Repeat("00", 16)}
	long, longArgs := seal(dir, strings.Repeat("abcdefghij", 26)[:255])
	otherLong, _ := seal(dir, strings.Repeat("abcdefghij", 26)[:254])
	for _, r := range []struct {
		name, entry string
		args        map[string]string
	}{
		{"name in another directory", short, other},
		{"name with its tag changed", flip(short, 3), shortArgs},
		{"name with its ciphertext changed", flip(short, 30), shortArgs},
		{"name with a trailing bit", short[:len(short)-1] + string(short[len(short)-1]+1), shortArgs},
		{"name padded as base64 is", short + "=", shortArgs},
		{"name with a line break", short[:20] + "\n" + short[20:], shortArgs},
		{"name cut", short[:len(short)-1], shortArgs},
		{"name of the tag's length", short[:21], shortArgs},
		{"name empty", "", shortArgs},
		{"name in plain", "README.md", shortArgs},
		{"name reserved", DirFileName, shortArgs},
		{"name long without its pieces", long, shortArgs},
		{"name long with the first piece alone", long, map[string]string{"dir": dir.String(), "long": longArgs["long"][:200]}},
		{"name long with pieces changed", long, map[string]string{"dir": dir.String(), "long": flip(longArgs["long"], 100)}},
		{"name long with pieces of another", otherLong, longArgs},
		{"name short with pieces", short, longArgs},
		{"name too long for its padding", g.paddedName(dir, "a", 32), shortArgs},
		{"name with NUL inside", g.paddedName(dir, "a\x00b", 16), shortArgs},
		{"name with a slash", g.paddedName(dir, "../etc", 16), shortArgs},
		{"name dot dot", g.paddedName(dir, "..", 16), shortArgs},
	} {
		g.refuseText(r.name, "name", "corrupt", r.entry, r.args)
	}
	s, _ := g.o.vk.SealName(dir, strings.Repeat("x", 200))
	g.accept("companion 0", "companion", []byte(s.Companions[0]), nil)
	g.accept("companion 1", "companion", []byte(s.Companions[1]), nil)
	g.refuse("companion 0", "cut", "corrupt", vector{Cut: 236})
	g.refuse("companion 0", "longer", "corrupt", vector{Add: "41"})
	g.refuse("companion 0", "of number 2", "corrupt", vector{At: 35, XOR: "02"})
	g.refuse("companion 0", "not base64", "corrupt", vector{At: 50, XOR: "80"})
	g.refuse("companion 1", "empty", "corrupt", vector{Cut: 37})
	g.refuse("companion 1", "cut to its prefix", "corrupt", vector{Cut: 12})
}

// paddedName seals a name that SealName refuses, or pads too far.
func (g *generator) paddedName(dir DirID, name string, padding int) string {
	sealed := make([]byte, TagSize+padding)
	g.o.vk.tagOfName(sealed[:TagSize], &dir, name)
	copy(sealed[TagSize:], name)
	g.o.vk.nameStream.xorStream(sealed[TagSize:], sealed[:TagSize], nil, make([]byte, padding))
	return g.o.vk.b64.EncodeToString(sealed)
}

func (g *generator) targets() {
	salt := [16]byte(pattern(6, 16))
	for _, n := range []int{1, 2, 3, 64, TargetMax} {
		s, err := g.o.vk.SealTarget(strings.Repeat("../lib/", 500)[:n], &salt)
		if err != nil {
			g.t.Fatal(err)
		}
		g.accept("target of "+strconv.Itoa(n), "target", []byte(s), nil)
	}
	g.refuse("target of 64", "salt changed", "corrupt", vector{At: 1, XOR: "03"})
	g.refuse("target of 64", "text changed", "corrupt", vector{At: 100, XOR: "03"})
	g.refuse("target of 64", "cut", "corrupt", vector{Cut: 124})
	g.refuse("target of 64", "cut to nothing", "corrupt", vector{Cut: 43})
	g.refuse("target of 64", "longer", "corrupt", vector{Add: "41414141"})
	g.refuse("target of 64", "with a line break", "corrupt", vector{Add: "0a"})
	g.refuse("target of 3039", "longer than any", "corrupt", vector{Add: "41"})
	g.refuseText("target in plain", "target", "corrupt", "/etc/passwd", nil)
}

func (g *generator) xattrs() {
	owner := FileID(unhexT(g.t, g.v.FileID))
	args := map[string]string{"owner": owner.String()}
	for _, c := range []struct {
		name, attr string
		value      []byte
	}{{"xattr", "user.comment", []byte("hello")}, {"xattr empty", "user.k", nil}, {"xattr longest name", strings.Repeat("n", 255), pattern(7, 100)}} {
		b, err := g.o.vk.SealXattr(owner, c.attr, c.value)
		if err != nil {
			g.t.Fatal(err)
		}
		g.accept(c.name, "xattr", b, args)
	}
	g.refuse("xattr", "of another file", "corrupt", vector{Args: map[string]string{"owner": g.v.DirID}})
	g.refuse("xattr", "tag changed", "corrupt", vector{At: 0, XOR: "01"})
	g.refuse("xattr", "value changed", "corrupt", vector{At: 30, XOR: "80"})
	g.refuse("xattr", "cut", "corrupt", vector{Cut: 33})
	g.refuse("xattr", "cut to its tag", "corrupt", vector{Cut: 17})
	g.refuse("xattr", "longer", "corrupt", vector{Add: "00"})
	for name, plain := range map[string]string{"xattr without a name": "\x00value", "xattr with a name past its end": "\x09short", "xattr with NUL in its name": "\x03a\x00b"} {
		b := append(make([]byte, TagSize), plain...)
		g.o.vk.xattrTag.sum(b[:TagSize], owner[:], b[TagSize:])
		g.o.vk.xattrStream.xorStream(b[TagSize:], owner[:], b[:TagSize], make([]byte, 100))
		g.refuseBytes(name, "xattr", "corrupt", b, args)
	}
}

func (g *generator) dirFiles() {
	b := g.o.vk.MarshalDirFile(DirID(unhexT(g.t, g.v.DirID)))
	g.accept("directory id", "dirfile", b[:], nil)
	g.refuse("directory id", "id changed", "corrupt", vector{At: 8, XOR: "01"})
	g.refuse("directory id", "MAC changed", "corrupt", vector{At: 63, XOR: "01"})
	g.refuse("directory id", "cut", "corrupt", vector{Cut: 63})
	g.refuse("directory id", "longer", "corrupt", vector{Add: "00"})
	g.refuse("directory id", "magic", "corrupt", vector{At: 0, XOR: "01"})
	g.refuse("directory id", "version 2", "unsupported", vector{At: 3, XOR: "03"})
	g.refuse("directory id", "feature 31", "unsupported", vector{At: 7, XOR: "80"})
	b[30] = 1
	g.o.vk.directory.sum(b[48:], b[:48], nil)
	g.refuseBytes("directory id, reserved byte under the MAC", "dirfile", "corrupt", b[:], nil)
}

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

func (g *generator) wrappings() []Wrapping {
	return []Wrapping{
		{ContextVersion: 1, KeyARN: "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
			KeyMaterialID: hex.EncodeToString(pattern(11, 32)), Blob: pattern(12, 184)},
		{ContextVersion: 1, KeyARN: "arn:kmsfs:local", Blob: pattern(13, 60)},
	}
}

func (g *generator) sidecar() {
	for _, z := range []uint32{512, 8192} {
		b := make([]byte, z)
		h := TableHeader{z, 0x0123456789abcdef, VolumeID(unhexT(g.t, g.v.VolumeID)), 1234567890123456789}
		if err := h.Marshal(b); err != nil {
			g.t.Fatal(err)
		}
		g.accept("table of "+strconv.Itoa(int(z)), "table", append(b, 9), nil)
		for _, r := range []struct {
			name, as string
			f        func(b []byte)
		}{{"a feature", "unsupported", func(b []byte) { b[35] = 1 }}, {"a reserved byte", "corrupt", func(b []byte) { b[44] = 1 }},
			{"id 0", "corrupt", func(b []byte) { clear(b[8:16]) }}} {
			c := append([]byte(nil), b...)
			r.f(c)
			putChecksum(c)
			g.refuseBytes("table of "+strconv.Itoa(int(z))+" with "+r.name, "table", r.as, c, nil)
		}
	}
	g.refuse("table of 512", "magic", "corrupt", vector{At: 0, XOR: "01"})
	g.refuse("table of 512", "version", "unsupported", vector{At: 3, XOR: "03"})
	g.refuse("table of 512", "id", "corrupt", vector{At: 8, XOR: "01"})
	g.refuse("table of 512", "slot size 1024", "corrupt", vector{At: 5, XOR: "06"})
	g.refuse("table of 512", "slot size 513", "corrupt", vector{At: 4, XOR: "01"})
	g.refuse("table of 512", "slot size 0", "corrupt", vector{At: 5, XOR: "02"})
	g.refuse("table of 512", "cut", "corrupt", vector{Cut: 511})

	record := func(size, wrappings int) []byte {
		b := make([]byte, size)
		if err := NewRecord(g.o.fk, g.o.fk.id, 1234567890123456789, g.wrappings()[:wrappings]).Marshal(b); err != nil {
			g.t.Fatal(err)
		}
		return b
	}
	one, two := record(512, 1), record(1024, 2)
	g.accept("record", "record", one, nil)
	g.accept("record of two wrappings", "record", two, nil)
	g.refuse("record", "cut", "corrupt", vector{Cut: 511})
	g.refuse("record", "changed", "corrupt", vector{At: 20, XOR: "01"})
	g.refuse("record", "byte of the filling", "corrupt", vector{At: 480, XOR: "01"})
	g.refuse("record", "checksum", "corrupt", vector{At: 511, XOR: "01"})
	g.refuse("record", "magic", "corrupt", vector{At: 0, XOR: "80"})
	g.refuse("record", "version", "unsupported", vector{At: 3, XOR: "03"})
	g.refuseBytes("record erased", "record", "erased", make([]byte, 512), nil)
	for _, r := range []struct {
		name, as string
		f        func(b []byte)
	}{
		{"the file id", "corrupt", func(b []byte) { b[12]++ }}, {"the date", "corrupt", func(b []byte) { b[28]++ }},
		{"the commitment", "wrong key", func(b []byte) { b[36]++ }}, {"the MAC", "corrupt", func(b []byte) { b[68]++ }},
		{"a feature", "unsupported", func(b []byte) { b[8] = 4 }}, {"the suite", "unsupported", func(b []byte) { b[4] = 2 }},
		{"reserved byte 5", "corrupt", func(b []byte) { b[5] = 1 }}, {"reserved byte 85", "corrupt", func(b []byte) { b[85] = 1 }},
		{"less used", "corrupt", func(b []byte) { b[6]-- }}, {"more used", "corrupt", func(b []byte) { b[6]++ }},
		{"none used", "corrupt", func(b []byte) { b[6], b[7] = 0, 0 }}, {"more used than the slot", "corrupt", func(b []byte) { b[7] = 255 }},
		{"no wrappings", "corrupt", func(b []byte) { b[84] = 0 }}, {"a wrapping less", "corrupt", func(b []byte) { b[84] = 1 }},
		{"a wrapping more", "corrupt", func(b []byte) { b[84] = 3 }}, {"nine wrappings", "corrupt", func(b []byte) { b[84] = 9 }},
		{"wrapping kind 1", "unsupported", func(b []byte) { b[88] = 1 }}, {"context version 2", "unsupported", func(b []byte) { b[89] = 2 }},
		{"an ARN past the end", "corrupt", func(b []byte) { b[91] = 255 }}, {"no ARN", "corrupt", func(b []byte) { b[90] = 0 }},
		{"a blob past the end", "corrupt", func(b []byte) { b[93] = 255 }},
	} {
		b := append([]byte(nil), two...)
		r.f(b)
		putChecksum(b)
		g.refuseBytes("record with its checksum right and changed: "+r.name, "record", r.as, b, nil)
	}
	k, _ := NewFileKey(pattern(99, 32), g.o.fk.id, g.o.fk.g)
	b := make([]byte, 512)
	if err := NewRecord(k, k.id, 1, g.wrappings()[:1]).Marshal(b); err != nil {
		g.t.Fatal(err)
	}
	g.refuseBytes("record of another key", "record", "wrong key", b, nil)
}

func (g *generator) configs() {
	c := &Config{Volume: VolumeID(unhexT(g.t, g.v.VolumeID)), ChunkSize: 4096, Keysource: "local:/var/lib/kmsfs?a=1&b=<2>",
		Key: "alias/Grüße", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Wrappings: g.wrappings()}
	b, err := c.Marshal(g.o.vk)
	if err != nil {
		g.t.Fatal(err)
	}
	text := string(b)
	g.accept("config", "config", b, nil)
	g.accept("config on one line", "config", []byte(strings.Join(strings.Fields(text), " ")), nil)
	edit := func(name, as, old, new string) {
		if !strings.Contains(text, old) {
			g.t.Fatalf("config has no %q", old)
		}
		g.refuseText("config, "+name, "config", as, strings.Replace(text, old, new, 1), nil)
	}
	edit("another keysource", "corrupt", "local:/var", "local:/tmp")
	edit("another key", "corrupt", "alias/Grüße", "alias/evil")
	edit("another chunk size", "corrupt", "4096", "65536")
	edit("chunk size 8192", "unsupported", "4096", "8192")
	edit("another date", "corrupt", "2026-01-02", "2026-01-03")
	edit("a date with an offset", "corrupt", "05Z", "05+00:00")
	edit("a date with a fraction", "corrupt", "05Z", "05.000Z")
	edit("another volume", "corrupt", `"volume_id": "`+g.v.VolumeID[:1], `"volume_id": "e`)
	edit("upper-case hex", "corrupt", `"mac": "`+hex.EncodeToString(c.mac[:]), `"mac": "`+strings.ToUpper(hex.EncodeToString(c.mac[:])))
	edit("MAC cut", "corrupt", hex.EncodeToString(c.mac[:]), hex.EncodeToString(c.mac[:15]))
	edit("MAC changed", "corrupt", hex.EncodeToString(c.mac[:]), hex.EncodeToString(pattern(14, 16)))
	edit("commitment changed", "wrong key", hex.EncodeToString(c.commitment[:]), hex.EncodeToString(pattern(14, 32)))
	edit("format 2", "unsupported", `"format": 1`, `"format": 2, "new_member": 0`)
	edit("format 1.0", "corrupt", `"format": 1`, `"format": 1.0`)
	edit("format 01", "corrupt", `"format": 1`, `"format": 01`)
	edit("format as text", "corrupt", `"format": 1`, `"format": "1"`)
	edit("a feature", "unsupported", `"features": []`, `"features": ["branch"]`)
	edit("features null", "corrupt", `"features": []`, `"features": null`)
	edit("no features", "corrupt", `"features": [],`, ``)
	edit("a member twice", "corrupt", `"format": 1,`, `"format": 1, "format": 1,`)
	edit("a member unknown", "corrupt", `"format": 1,`, `"format": 1, "note": "",`)
	edit("a member in upper case", "corrupt", `"keysource"`, `"Keysource"`)
	edit("key null", "corrupt", `"alias/Grüße"`, `null`)
	edit("key empty", "corrupt", `"alias/Grüße"`, `""`)
	edit("key not UTF-8 once read", "corrupt", `Grüße`, `\ud800`)
	edit("a wrapping's member twice", "corrupt", `"context_version": 1,`, `"context_version": 1, "context_version": 1,`)
	edit("a wrapping's context version 2", "unsupported", `"context_version": 1`, `"context_version": 2`)
	edit("a wrapping's blob with a line break", "corrupt", `"ciphertext_blob": "`, `"ciphertext_blob": "\n`)
	edit("a wrapping's blob empty", "corrupt", base64.StdEncoding.EncodeToString(c.Wrappings[1].Blob), ``)
	edit("a wrapping's material in upper case", "corrupt", c.Wrappings[0].KeyMaterialID, strings.ToUpper(c.Wrappings[0].KeyMaterialID))
	edit("a wrapping's material zero", "corrupt", c.Wrappings[0].KeyMaterialID, strings.Repeat("0", 64))
	g.refuse("config", "with something after it", "corrupt", vector{Add: "7b7d"})
	g.refuse("config", "cut", "corrupt", vector{Cut: len(b) - 3})
	g.refuseText("config that is an array", "config", "corrupt", "[]", nil)
	g.refuseText("config empty", "config", "corrupt", "", nil)
	g.refuseText("config empty object", "config", "corrupt", "{}", nil)
	g.refuseText("config too large", "config", "corrupt", "{"+strings.Repeat(" ", ConfigMax)+"}", nil)
}
