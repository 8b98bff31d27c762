package envelope

import (
	"bytes"
	"testing"
)

// A record and a directory's id file in which one bit is wrong come back; those in which two are do not. A bit of the magic that makes
// another version of it is no different.
func TestOneBit(t *testing.T) {
	vk := testVolume(t)
	dir := vk.MarshalDirFile(DirID{1, 2, 3}, "alias/zone")
	r := &Record{ID: FileID{4, 5}, Created: 6, Wrappings: []Wrapping{{ContextVersion: 1, KeyARN: "arn:aws:kms:local:000000000000:key/k", Blob: pattern(3, 100)}}}
	slot := make([]byte, MinSlotSize)
	if err := r.Marshal(slot); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		whole []byte
		mend  func([]byte) bool
	}{"directory id": {dir, vk.MendDirFile}, "record": {slot, MendRecord}} {
		for bit := 0; bit < 8*len(c.whole); bit += 19 {
			b := bytes.Clone(c.whole)
			b[bit/8] ^= 1 << (bit % 8)
			if !c.mend(b) || !bytes.Equal(b, c.whole) {
				t.Fatalf("%s: bit %d does not come back", name, bit)
			}
		}
		b := bytes.Clone(c.whole)
		b[20] ^= 1
		b[50] ^= 1
		twice := bytes.Clone(b)
		if c.mend(b) || !bytes.Equal(b, twice) {
			t.Errorf("%s: two bits: it says that it is whole, or has changed it", name)
		}
	}
}
