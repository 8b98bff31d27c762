package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

func testWrappings(n int) (ws []Wrapping) {
	for i := range n {
		ws = append(ws, Wrapping{ContextVersion: ContextVersion, KeyARN: "arn:" + strings.Repeat("k", i),
			KeyMaterialID: hex.EncodeToString(pattern(i, 32)), Blob: pattern(i, 100+i)})
	}
	return ws
}

// A rewrap replaces the wrappings, with no key at hand, and the record verifies.
func TestRecordRewrap(t *testing.T) {
	k := testKey(t, 4096)
	r := NewRecord(k, k.id, 42, testWrappings(1))
	slot := make([]byte, 512)
	if err := r.Marshal(slot); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= WrappingsMax; n++ {
		got, err := ParseRecord(slot)
		if err != nil {
			t.Fatal(err)
		}
		got.Wrappings = testWrappings(n)
		z, err := SlotSizeFor(got.MarshaledSize())
		if err != nil {
			t.Fatal(err)
		}
		slot = make([]byte, z)
		if err := got.Marshal(slot); err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecord(slot)
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%d wrappings: got %v, %v, want %v", n, again, err, got)
		}
		if err := again.Verify(k); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecordRefused(t *testing.T) {
	k := testKey(t, 4096)
	good := testWrappings(1)[0]
	for _, c := range []struct {
		name string
		f    func(w *Wrapping)
	}{
		{"kind", func(w *Wrapping) { w.Kind = 1 }},
		{"context version", func(w *Wrapping) { w.ContextVersion = 0 }},
		{"no ARN", func(w *Wrapping) { w.KeyARN = "" }},
		{"long ARN", func(w *Wrapping) { w.KeyARN = strings.Repeat("a", KeyARNMax+1) }},
		{"no blob", func(w *Wrapping) { w.Blob = nil }},
		{"long blob", func(w *Wrapping) { w.Blob = make([]byte, BlobMax+1) }},
		{"short material", func(w *Wrapping) { w.KeyMaterialID = "ab" }},
		{"upper-case material", func(w *Wrapping) { w.KeyMaterialID = strings.ToUpper(w.KeyMaterialID) }},
		{"zero material", func(w *Wrapping) { w.KeyMaterialID = strings.Repeat("0", 64) }},
		{"material that is not hex", func(w *Wrapping) { w.KeyMaterialID = strings.Repeat("x", 64) }},
	} {
		w := good
		c.f(&w)
		slot := bytes.Repeat([]byte{5}, MaxSlotSize)
		if err := NewRecord(k, k.id, 0, []Wrapping{w}).Marshal(slot); err == nil || slot[0] != 5 {
			t.Errorf("%s: got %v, and %d in the slot", c.name, err, slot[0])
		}
	}
	for _, n := range []int{0, WrappingsMax + 1} {
		if err := NewRecord(k, k.id, 0, testWrappings(n)).Marshal(make([]byte, MaxSlotSize)); err == nil {
			t.Errorf("%d wrappings are accepted", n)
		}
	}
	for _, z := range []int{0, 511, 513, 768, 16384} {
		if err := NewRecord(k, k.id, 0, testWrappings(1)).Marshal(make([]byte, z)); err == nil {
			t.Errorf("slot of %d is accepted", z)
		}
		if _, err := ParseRecord(make([]byte, z)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("slot of %d: got %v", z, err)
		}
	}
	if err := NewRecord(k, k.id, 0, testWrappings(4)).Marshal(make([]byte, 512)); err == nil {
		t.Error("a record over the slot is accepted")
	}
	if _, err := ParseRecord(make([]byte, 4096)); !errors.Is(err, ErrErased) {
		t.Errorf("erased slot: got %v", err)
	}
}

func TestRecordOfAnotherFile(t *testing.T) {
	a := testKey(t, 4096)
	b, err := NewFileKey(pattern(1, KeySize), FileID{9}, a.g)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecord(a, a.id, 0, testWrappings(1))
	if err := r.Verify(b); !errors.Is(err, ErrCorrupt) {
		t.Errorf("same key, another file: got %v", err)
	}
	c, err := NewFileKey(pattern(2, KeySize), a.id, a.g)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(c); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: got %v", err)
	}
}

func TestSlotSizeFor(t *testing.T) {
	for size, want := range map[int]int{1: 512, 496: 512, 497: 1024, 1008: 1024, 1009: 2048, 4081: 8192, 8176: 8192, 8177: 0} {
		if got, err := SlotSizeFor(size); got != want || (err == nil) != (want != 0) {
			t.Errorf("%d: got %d, %v, want %d", size, got, err, want)
		}
	}
}

func TestTableName(t *testing.T) {
	for _, id := range []uint64{1, 0xabcdef, 1<<64 - 1} {
		if got, ok := ParseTableName(TableName(id)); !ok || got != id {
			t.Errorf("%d: got %d, %v", id, got, ok)
		}
	}
	for _, name := range []string{"", "1", "0000000000000000", "000000000000000A", "000000000000000g", "00000000000000001", "+00000000000001f"} {
		if _, ok := ParseTableName(name); ok {
			t.Errorf("%q is accepted", name)
		}
	}
}

func testConfig() *Config {
	return &Config{Volume: VolumeID(pattern(3, 16)), ChunkSize: 65536, Keysource: "awskms:", Key: "alias/<x>&",
		Created: time.Date(2026, 5, 6, 7, 8, 9, 10, time.FixedZone("", 3600)), Wrappings: testWrappings(8)}
}

func TestConfigRewrap(t *testing.T) {
	vk := testVolume(t)
	b, err := testConfig().Marshal(vk)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	c.Wrappings = testWrappings(2)
	if b, err = c.Remarshal(); err != nil {
		t.Fatal(err)
	}
	if c, err = ParseConfig(b); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(vk); err != nil || len(c.Wrappings) != 2 {
		t.Errorf("got %v, %d wrappings", err, len(c.Wrappings))
	}
	c.Key = "alias/y"
	if err := c.Verify(vk); !errors.Is(err, ErrCorrupt) {
		t.Errorf("edited: got %v", err)
	}
	other, err := NewVolumeKeys(pattern(10, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(other); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: got %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	vk := testVolume(t)
	for name, f := range map[string]func(c *Config){
		"feature":       func(c *Config) { c.Features = []string{"x"} },
		"chunk size":    func(c *Config) { c.ChunkSize = 8192 },
		"no keysource":  func(c *Config) { c.Keysource = "" },
		"long key":      func(c *Config) { c.Key = strings.Repeat("k", ConfigStringMax+1) },
		"key not UTF-8": func(c *Config) { c.Key = "\xff" },
		"year 10000":    func(c *Config) { c.Created = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"no date":       func(c *Config) { c.Created = time.Time{} },
		"no wrappings":  func(c *Config) { c.Wrappings = nil },
		"ARN not UTF-8": func(c *Config) { c.Wrappings[0].KeyARN = "\xff" },
		"too large": func(c *Config) {
			for i := range c.Wrappings {
				c.Wrappings[i].Blob = make([]byte, BlobMax)
			}
		},
	} {
		c := testConfig()
		f(c)
		if b, err := c.Marshal(vk); err == nil {
			t.Errorf("%s: accepted: %s", name, b)
		}
	}
}

func TestContexts(t *testing.T) {
	v, id := VolumeID{1}, FileID{2}
	want := map[string]string{"kmsfs:volume": "01000000000000000000000000000000", "kmsfs:format": "1"}
	if got := VolumeContext(v); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	want["kmsfs:file"] = "02000000000000000000000000000000"
	if got := FileContext(v, id); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
