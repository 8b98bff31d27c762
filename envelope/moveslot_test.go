package envelope

import (
	"errors"
	"testing"
)

// TestMoveSlot: a record opens from a larger slot; nothing and damage stay what they are.
func TestMoveSlot(t *testing.T) {
	r := &Record{ID: FileID{1}, Wrappings: []Wrapping{{ContextVersion: ContextVersion, KeyARN: "arn", Blob: []byte("blob")}}}
	whole, later := make([]byte, 512), make([]byte, 512)
	if err := r.Marshal(whole); err != nil {
		t.Fatal(err)
	}
	copy(later, whole)
	later[8] = 4 // an incompatible feature
	putChecksum(later)
	damaged := append([]byte(nil), whole...)
	damaged[100] ^= 1
	for _, c := range []struct {
		name string
		src  []byte
		want error
	}{
		{"whole", whole, nil}, {"later", later, ErrUnsupported}, {"damaged", damaged, ErrCorrupt}, {"erased", make([]byte, 512), ErrErased},
		{"cut short", whole[:300], ErrCorrupt},
	} {
		for _, size := range []int{512, 2048} {
			dst := append(make([]byte, 0, size), make([]byte, size)...)
			dst[size-1] = 7
			MoveSlot(dst, c.src)
			if _, err := ParseRecord(dst); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%s, to %d bytes: %v", c.name, size, err)
			}
		}
	}
}
