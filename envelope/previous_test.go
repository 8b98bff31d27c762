package envelope

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"crypto/aes"
	"crypto/cipher"
	"github.com/zeebo/blake3"
)

// previousFile holds vectors of records with a previous data key, beside v1.json, which was written before there were any.
const previousFile = "testdata/v1-previous.json"

// previousVectors is the file. All is hex.
type previousVectors struct {
	Comment            string
	NewKey, OldKey, ID string
	Table              uint64
	Slot               uint32
	Record             string
	Refused            []struct{ Name, Error, Record string }
}

func previousKeys(t testing.TB, v *previousVectors) (k, old *FileKey) {
	t.Helper()
	g, err := NewGeometry(4096)
	if err != nil {
		t.Fatal(err)
	}
	id := FileID(unhexT(t, v.ID))
	if k, err = NewFileKey(unhexT(t, v.NewKey), id, g); err != nil {
		t.Fatal(err)
	}
	if old, err = NewFileKey(unhexT(t, v.OldKey), id, g); err != nil {
		t.Fatal(err)
	}
	return k, old
}

// TestPreviousWrite writes the vectors where they do not exist and the variable is set, as TestGenerateVectors does.
func TestPreviousWrite(t *testing.T) {
	if os.Getenv("KMSFS_WRITE_VECTORS") == "" {
		t.Skip("KMSFS_WRITE_VECTORS=1 writes " + previousFile + " where it does not exist")
	}
	v := &previousVectors{Comment: "kmsfs vault format 1: the record of a file that is being reencrypted",
		NewKey: hex.EncodeToString(pattern(3, 32)), OldKey: hex.EncodeToString(pattern(21, 32)),
		ID: hex.EncodeToString(pattern(4, 16)), Table: 0x0123456789abcdef, Slot: 77}
	k, old := previousKeys(t, v)
	nonce := [NonceSize]byte(pattern(22, NonceSize))
	w, err := k.WrapPrevious(old, Locator{v.Table, v.Slot}, &nonce)
	if err != nil {
		t.Fatal(err)
	}
	first := Wrapping{ContextVersion: 1, KeyARN: "arn:kmsfs:local", Blob: pattern(13, 60)}
	good := make([]byte, 512)
	if err := NewRecord(k, k.id, 1234567890123456789, []Wrapping{first, w}).Marshal(good); err != nil {
		t.Fatal(err)
	}
	v.Record = hex.EncodeToString(good)
	refuse := func(name, as string, edit func(b []byte) []byte) {
		b := edit(slices.Clone(good))
		putChecksum(b)
		v.Refused = append(v.Refused, struct{ Name, Error, Record string }{name, as, hex.EncodeToString(b)})
	}
	at := recordHead + first.marshaledSize() // of the wrapping
	refuse("context version 1", "unsupported", func(b []byte) []byte { b[at+1] = 1; return b })
	refuse("kind 2", "unsupported", func(b []byte) []byte { b[at] = 2; return b })
	refuse("table 0", "corrupt", func(b []byte) []byte { clear(b[at+wrappingHead:][:8]); return b })
	refuse("slot 0", "corrupt", func(b []byte) []byte { clear(b[at+wrappingHead+8:][:4]); return b })
	refuse("another slot", "corrupt", func(b []byte) []byte { b[at+wrappingHead+8]++; return b })
	refuse("another nonce", "corrupt", func(b []byte) []byte { b[at+wrappingHead+12]++; return b })
	refuse("another key", "corrupt", func(b []byte) []byte { b[at+wrappingHead+24]++; return b })
	refuse("another tag", "corrupt", func(b []byte) []byte { b[at+wrappingHead+56]++; return b })
	join := func(count byte, ws ...[]byte) func(b []byte) []byte {
		return func(b []byte) []byte {
			clear(b[recordHead : len(b)-TagSize])
			n := recordHead
			for _, w := range ws {
				n += copy(b[n:], w)
			}
			b[6], b[7], b[84] = byte(n), byte(n>>8), count
			return b
		}
	}
	a, p := first.appendTo(nil), w.appendTo(nil)
	refuse("alone", "unsupported", join(1, p))
	refuse("first", "unsupported", join(2, p, a))
	refuse("twice", "unsupported", join(3, a, p, p))
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(previousFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func loadPrevious(t testing.TB) *previousVectors {
	t.Helper()
	b, err := os.ReadFile(previousFile)
	if err != nil {
		t.Fatal(err)
	}
	v := &previousVectors{}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPreviousVectors opens what must open, with the package and without it, and has the rest refused.
func TestPreviousVectors(t *testing.T) {
	v := loadPrevious(t)
	k, old := previousKeys(t, v)
	b := unhexT(t, v.Record)
	r, err := ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(k); err != nil {
		t.Fatal(err)
	}
	got, loc, err := k.OpenPrevious(r)
	if err != nil || got.key != old.key || loc != (Locator{v.Table, v.Slot}) {
		t.Fatalf("previous key at %v: %v", loc, err)
	}
	again := make([]byte, len(b))
	if err := r.Marshal(again); err != nil || !bytes.Equal(b, again) {
		t.Errorf("it is not written as it was read: %v", err)
	}
	without := r.WithoutPrevious()
	if _, ok := without.Previous(); ok || len(without.Wrappings) != 1 || without.Verify(k) != nil {
		t.Error("without its previous key the record is another")
	}
	if _, _, err := old.OpenPrevious(r); !errors.Is(err, ErrCorrupt) {
		t.Errorf("under another key: %v", err)
	}
	// By the text of FORMAT.md.
	blob := b[recordHead+38+len("arn:kmsfs:local")+60+38:][:72]
	var key [32]byte
	blake3.DeriveKey("kmsfs 2026 v1 previous data key", unhexT(t, v.NewKey), key[:])
	block, _ := aes.NewCipher(key[:])
	gcm, _ := cipher.NewGCM(block)
	plain, err := gcm.Open(nil, blob[12:24], blob[24:], append(unhexT(t, v.ID), blob[:12]...))
	if err != nil || hex.EncodeToString(plain) != v.OldKey {
		t.Errorf("the text opens it as %x: %v", plain, err)
	}
	for _, c := range v.Refused {
		want := map[string]error{"corrupt": ErrCorrupt, "unsupported": ErrUnsupported}[c.Error]
		r, err := ParseRecord(unhexT(t, c.Record))
		if err == nil {
			_, _, err = k.OpenPrevious(r)
		}
		if want == nil || !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", c.Name, err, c.Error)
		}
	}
}

// FuzzPrevious parses records with arbitrary wrappings: what parses is written as it was read.
func FuzzPrevious(f *testing.F) {
	b, err := os.ReadFile(previousFile)
	if err != nil {
		f.Fatal(err)
	}
	var v previousVectors
	if err := json.Unmarshal(b, &v); err != nil {
		f.Fatal(err)
	}
	for _, s := range append([]string{v.Record}, v.Refused[0].Record) {
		f.Add(unhexT(f, s))
	}
	k, _ := previousKeys(f, &v)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < TagSize {
			return
		}
		putChecksum(b)
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again := make([]byte, len(b))
		if err := r.Marshal(again); err != nil || !bytes.Equal(b, again) {
			t.Fatalf("not written as it was read: %v", err)
		}
		_, _, err = k.OpenPrevious(r)
		if _, ok := r.WithoutPrevious().Previous(); ok || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("previous: %v", err)
		}
	})
}
