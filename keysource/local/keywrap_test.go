package local

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// wrapKey is AES key wrap with padding, RFC 5649 section 4.1, which only tests need.
func wrapKey(t testing.TB, kek, key []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(key), make([]byte, (8-len(key)%8)%8)...)
	b := binary.BigEndian.AppendUint32(nil, keyWrapMagic)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(key))), padded...)
	n := len(padded) / 8
	if n == 1 {
		block.Encrypt(b, b)
		return b
	}
	for j := range 6 {
		for i := 1; i <= n; i++ {
			buf := append(bytes.Clone(b[:8]), b[i*8:i*8+8]...)
			block.Encrypt(buf, buf)
			binary.BigEndian.PutUint64(b, binary.BigEndian.Uint64(buf)^uint64(n*j+i))
			copy(b[i*8:], buf[8:])
		}
	}
	return b
}

// TestKeyWrap has the examples of RFC 5649 section 6.
func TestKeyWrap(t *testing.T) {
	kek, _ := hex.DecodeString("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	for _, row := range []struct{ wrapped, key string }{
		{"138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a", "c37b7e6492584340bed12207808941155068f738"},
		{"afbeb0f07dfbf5419200f2ccb50bb24f", "466f7250617369"},
	} {
		wrapped, _ := hex.DecodeString(row.wrapped)
		got, err := unwrapKey(kek, wrapped)
		if err != nil || hex.EncodeToString(got) != row.key {
			t.Errorf("got %x, %v, want %s", got, err, row.key)
		}
		if again := wrapKey(t, kek, got); !bytes.Equal(again, wrapped) {
			t.Errorf("the test's own wrapping gives %x", again)
		}
		for i := range 8 * len(wrapped) {
			bad := bytes.Clone(wrapped)
			bad[i/8] ^= 1 << (i % 8)
			if _, err := unwrapKey(kek, bad); err == nil {
				t.Errorf("bit %d changed, and it unwraps", i)
			}
		}
		for n := range len(wrapped) {
			if _, err := unwrapKey(kek, wrapped[:n]); err == nil {
				t.Errorf("cut to %d bytes, and it unwraps", n)
			}
		}
	}
	if _, err := unwrapKey(kek[:5], make([]byte, 16)); err == nil {
		t.Error("a key of 5 bytes")
	}
}

// FuzzKeyWrap unwraps any bytes, and wraps and unwraps any key.
func FuzzKeyWrap(f *testing.F) {
	kek := bytes.Repeat([]byte{3}, 32)
	f.Add([]byte("0123456789abcdef0123456789abcdef"))
	f.Add(wrapKey(f, kek, []byte("0123456789abcdef")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := unwrapKey(kek, b); err == nil && !bytes.Equal(wrapKey(t, kek, key), b) {
			t.Error("two wrappings of one key")
		}
		if len(b) == 0 || len(b) > 4096 {
			return
		}
		got, err := unwrapKey(kek, wrapKey(t, kek, b))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("got %x, %v", got, err)
		}
	})
}
