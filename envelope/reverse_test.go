package envelope

import (
	"bytes"
	"testing"

	"github.com/zeebo/blake3"
)

// TestReverseDerivations computes what FORMAT.md says of a reverse mount anew, from BLAKE3 alone.
func TestReverseDerivations(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, KeySize)
	vk, err := NewVolumeKeys(secret)
	if err != nil {
		t.Fatal(err)
	}
	key := blake3Derive("kmsfs 2026 v1 reverse id", secret, 32)
	id := func(in string) (id [16]byte) {
		h, _ := blake3.NewKeyed(key)
		h.Write([]byte(in))
		copy(id[:], h.Sum(nil))
		return id
	}
	for _, c := range []struct {
		what      string
		got, want [16]byte
	}{
		{"root", vk.ReverseDirID(""), vk.RootDir()},
		{"directory", vk.ReverseDirID("a/b"), id("\x01a/b")},
		{"file", vk.ReverseFileID("a/b"), id("\x02a/b")},
		{"linked file", vk.ReverseLinkedID("", 5, -1, 9), id("\x03\x05\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x09\x00\x00\x00")},
		{"linked file elsewhere", vk.ReverseLinkedID("a/b", 5, -1, 9), id("\x03\x05\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x09\x00\x00\x00a/b")},
		{"salt", vk.ReverseSalt("a/b"), id("\x04a/b")},
	} {
		if c.got != c.want {
			t.Errorf("%s: %x, want %x", c.what, c.got, c.want)
		}
	}

	g, err := NewGeometry(16384)
	if err != nil {
		t.Fatal(err)
	}
	fk, err := NewFileKey(secret, FileID{1, 2}, g)
	if err != nil {
		t.Fatal(err)
	}
	var s Scratch
	plain := bytes.Repeat([]byte("plain"), 3000)
	aad := append(append([]byte{1, 2}, make([]byte, 14)...), 66, 0, 0, 0, 0, 0, 0, 0, Suite, 14, 0, 0)
	got := fk.ChunkNonce(66, plain, &s)
	if want := blake3Derive("kmsfs 2026 v1 reverse nonce", bytes.Join([][]byte{secret, {28}, aad, plain}, nil), NonceSize); !bytes.Equal(got[:], want) {
		t.Errorf("nonce of a chunk: %x, want %x", got, want)
	}
	h := Header{Loc: Locator{Table: 3, Slot: 4}, Flags: FlagXattr}
	got = fk.InlineNonce(h, plain[:9], &s)
	gk, err := fk.Group(0)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, BlockSize)
	n := SealInline(fk, gk, h, plain[:9], &got, block, &s)
	if want := blake3Derive("kmsfs 2026 v1 reverse nonce", bytes.Join([][]byte{secret, {60}, block[:60], plain[:9]}, nil), NonceSize); !bytes.Equal(got[:], want) {
		t.Errorf("nonce of an inline block: %x, want %x", got, want)
	}
	if _, _, err := OpenInline(gk, block[:n], make([]byte, InlineMax), &s); err != nil {
		t.Error(err)
	}
}

// TestSealedTargetSize holds it against what SealTarget gives.
func TestSealedTargetSize(t *testing.T) {
	vk, err := NewVolumeKeys(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, 3, 4, 100, TargetMax} {
		stored, err := vk.SealTarget(string(bytes.Repeat([]byte{'x'}, n)), &[16]byte{})
		if got := SealedTargetSize(int64(n)); err != nil || got != int64(len(stored)) {
			t.Errorf("%d bytes: %d, want %d, %v", n, got, len(stored), err)
		}
	}
}

// blake3Derive is derive_key of n bytes.
func blake3Derive(context string, material []byte, n int) []byte {
	out := make([]byte, n)
	blake3.DeriveKey(context, material, out)
	return out
}
