package envelope

import (
	"strconv"
	"strings"
)

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
	b := g.o.vk.MarshalDirFile(DirID(unhexT(g.t, g.v.DirID)), "")
	g.accept("directory id", "dirfile", b, nil)
	g.refuse("directory id", "id changed", "corrupt", vector{At: 8, XOR: "01"})
	g.refuse("directory id", "MAC changed", "corrupt", vector{At: 63, XOR: "01"})
	g.refuse("directory id", "cut", "corrupt", vector{Cut: 63})
	g.refuse("directory id", "longer", "corrupt", vector{Add: "00"})
	g.refuse("directory id", "magic", "corrupt", vector{At: 0, XOR: "01"})
	g.refuse("directory id", "version 2", "unsupported", vector{At: 3, XOR: "03"})
	g.refuse("directory id", "feature 31", "unsupported", vector{At: 7, XOR: "80"})
	b[30] = 1
	g.o.vk.directory.sum(b[48:], b[:48], nil)
	g.refuseBytes("directory id, reserved byte under the MAC", "dirfile", "corrupt", b, nil)
}
