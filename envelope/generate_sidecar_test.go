package envelope

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

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
