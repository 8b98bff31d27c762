package envelope_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"kmsfs/envelope"
)

// TestZone holds the id file of an encryption zone against one put together by hand, and has what is not one refused.
func TestZone(t *testing.T) {
	vk, err := envelope.NewVolumeKeys(bytes.Repeat([]byte{5}, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	id := envelope.DirID{1, 2, 3}
	byHand := func(features uint32, zone []byte) []byte {
		b := make([]byte, 64, 64+len(zone))
		copy(b, "KMD1")
		binary.LittleEndian.PutUint32(b[4:], features)
		copy(b[8:], id[:])
		b = append(b, zone...)
		key := derive("kmsfs 2026 v1 directory mac", bytes.Repeat([]byte{5}, envelope.KeySize))
		copy(b[48:], prf(key, append(bytes.Clone(b[:48]), zone...), 16))
		return b
	}
	sized := func(n int, s string) []byte { return append(binary.LittleEndian.AppendUint16(nil, uint16(n)), s...) }
	long := strings.Repeat("k", envelope.ZoneKeyMax)
	for _, zone := range []string{"a", "alias/finance", long} {
		b := vk.MarshalDirFile(id, zone)
		if want := byHand(1, sized(len(zone), zone)); !bytes.Equal(b, want) {
			t.Errorf("%.20s: %x, want %x", zone, b, want)
		}
		gotID, got, err := vk.ParseDirFile(b)
		if gotID != id || got != zone || err != nil {
			t.Errorf("%.20s: read as %v %.20q: %v", zone, gotID, got, err)
		}
		for i := range b {
			if i > 100 && i < len(b)-2 {
				continue
			}
			c := bytes.Clone(b)
			c[i] ^= 1
			if _, _, err := vk.ParseDirFile(c); err == nil {
				t.Errorf("%.20s: byte %d may be changed", zone, i)
			}
			if _, _, err := vk.ParseDirFile(b[:i]); !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("%.20s: cut to %d: %v", zone, i, err)
			}
		}
	}
	if b := vk.MarshalDirFile(id, ""); !bytes.Equal(b, byHand(0, nil)) {
		t.Errorf("no zone: %x", b)
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"no length":         {byHand(1, nil), envelope.ErrCorrupt},
		"half a length":     {byHand(1, []byte{1}), envelope.ErrCorrupt},
		"empty":             {byHand(1, sized(0, "")), envelope.ErrCorrupt},
		"cut short":         {byHand(1, sized(3, "ab")), envelope.ErrCorrupt},
		"more":              {byHand(1, sized(2, "abc")), envelope.ErrCorrupt},
		"too long":          {byHand(1, sized(envelope.ZoneKeyMax+1, long+"k")), envelope.ErrCorrupt},
		"without the bit":   {byHand(0, sized(1, "a")), envelope.ErrCorrupt},
		"another feature":   {byHand(2, sized(1, "a")), envelope.ErrUnsupported},
		"one more feature":  {byHand(3, sized(1, "a")), envelope.ErrUnsupported},
		"a forged zone":     {append(byHand(0, nil)[:64], sized(1, "a")...), envelope.ErrCorrupt},
		"a zone taken away": {byHand(1, sized(1, "a"))[:64], envelope.ErrCorrupt},
	} {
		if _, _, err := vk.ParseDirFile(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
