package keysource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// wrapper is a Keysource whose wrapped key is the key itself, with its context and the number of its CMK's material.
type wrapper struct {
	generated, decrypted, reencrypted atomic.Int64
	material                          atomic.Int64
	size                              int // of more bytes in each wrapped key
	err                               atomic.Pointer[error]
}

func (w *wrapper) fail() error {
	if err := w.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (w *wrapper) blob(plain []byte, ec Context) []byte {
	return fmt.Appendf(nil, "w|%d|%x|%x|%s", w.material.Load(), plain, ec.Canonical(), strings.Repeat("x", w.size))
}

func (w *wrapper) open(blob []byte, ec Context) ([]byte, string, error) {
	parts := strings.Split(string(blob), "|")
	if len(parts) != 5 || parts[0] != "w" || parts[3] != fmt.Sprintf("%x", ec.Canonical()) {
		return nil, "", NewError("", "", CodeInvalidCiphertext, "")
	}
	var plain []byte
	if _, err := fmt.Sscanf(parts[2], "%x", &plain); err != nil {
		return nil, "", NewError("", "", CodeInvalidCiphertext, "")
	}
	return plain, parts[1], nil
}

func (w *wrapper) GenerateDataKey(_ context.Context, in GenerateDataKeyInput) (DataKey, error) {
	w.generated.Add(1)
	if err := w.fail(); err != nil {
		return DataKey{}, err
	}
	plain := bytes.Repeat([]byte{byte(w.generated.Load())}, in.NumberOfBytes)
	return DataKey{Plaintext: NewPlaintextKey(plain), CiphertextBlob: w.blob(plain, in.EncryptionContext), KeyID: fakeARN,
		KeyMaterialID: fmt.Sprint(w.material.Load())}, nil
}

func (w *wrapper) Decrypt(_ context.Context, in DecryptInput) (DecryptResult, error) {
	w.decrypted.Add(1)
	if err := w.fail(); err != nil {
		return DecryptResult{}, err
	}
	plain, material, err := w.open(in.CiphertextBlob, in.EncryptionContext)
	return DecryptResult{Plaintext: NewPlaintextKey(plain), KeyID: fakeARN, KeyMaterialID: material}, err
}

func (w *wrapper) ReEncrypt(_ context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	w.reencrypted.Add(1)
	plain, material, err := w.open(in.CiphertextBlob, in.SourceEncryptionContext)
	return ReEncryptResult{CiphertextBlob: w.blob(plain, in.DestinationEncryptionContext), SourceKeyID: fakeARN,
		SourceKeyMaterialID: material, KeyID: fakeARN, KeyMaterialID: fmt.Sprint(w.material.Load())}, err
}

func (w *wrapper) DescribeKey(context.Context, KeyRef) (KeyMetadata, error) {
	return KeyMetadata{}, nil
}
func (w *wrapper) Close() error { return nil }

// fileContext is a context as a file has it.
func fileContext(file string) Context {
	return Context{"kmsfs:volume": "v", "kmsfs:format": "1", "kmsfs:file": file}
}

// newBranch makes a Branch over w.
func newBranch(t *testing.T, w *wrapper, limits BranchLimits, cfg CacheConfig) *Branch {
	t.Helper()
	b, err := NewBranch(NewCache(w, cfg), limits, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// branchGenerate makes a data key.
func branchGenerate(t *testing.T, b *Branch, file string) DataKey {
	t.Helper()
	k, err := b.GenerateDataKey(t.Context(), GenerateDataKeyInput{KeyID: "alias/a", EncryptionContext: fileContext(file)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBranchLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapper{}
		b := newBranch(t, w, BranchLimits{MaxAge: time.Hour, MaxCount: 100}, CacheConfig{})
		defer b.Close()
		want := func(what string, generated int64) {
			t.Helper()
			if n := w.generated.Load(); n != generated {
				t.Errorf("%s: %d branch keys, want %d", what, n, generated)
			}
		}
		for range 100 {
			branchGenerate(t, b, "f")
		}
		want("the first hundred", 1)
		branchGenerate(t, b, "f")
		want("one more", 2)
		time.Sleep(time.Hour)
		branchGenerate(t, b, "f")
		want("an hour later", 3)
		if n := w.decrypted.Load(); n != 0 {
			t.Errorf("%d calls of Decrypt", n)
		}
		time.Sleep(10 * time.Minute) // the cache has let go of it
		branchGenerate(t, b, "f")
		want("after the cache let go", 3)
		if n := w.decrypted.Load(); n != 1 {
			t.Errorf("%d calls of Decrypt, want 1", n)
		}
	})
}

func TestBranchOneCall(t *testing.T) {
	w := &wrapper{}
	b := newBranch(t, w, DefaultBranchLimits(), CacheConfig{})
	keys := make([]DataKey, 200)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() { keys[i] = branchGenerate(t, b, fmt.Sprint(i)) })
	}
	wg.Wait()
	b.Purge() // another mount
	for i, k := range keys {
		r, err := b.Decrypt(t.Context(), DecryptInput{CiphertextBlob: k.CiphertextBlob, EncryptionContext: fileContext(fmt.Sprint(i)),
			KeyID: KeyRef(k.KeyID)})
		if err != nil || !r.Plaintext.Equal(k.Plaintext) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if w.generated.Load() != 1 || w.decrypted.Load() != 1 {
		t.Errorf("%d calls of GenerateDataKey, %d of Decrypt, want 1 each", w.generated.Load(), w.decrypted.Load())
	}
}

func TestBranchReEncrypt(t *testing.T) {
	w := &wrapper{}
	b := newBranch(t, w, DefaultBranchLimits(), CacheConfig{})
	keys := []DataKey{branchGenerate(t, b, "0"), branchGenerate(t, b, "1"), branchGenerate(t, b, "2")}
	w.material.Store(1)
	w.decrypted.Store(0)
	for i, k := range keys {
		ec := fileContext(fmt.Sprint(i))
		r, err := b.ReEncrypt(t.Context(), ReEncryptInput{CiphertextBlob: k.CiphertextBlob, SourceEncryptionContext: ec,
			DestinationKeyID: "alias/a", DestinationEncryptionContext: ec})
		if err != nil || r.SourceKeyMaterialID != "0" || r.KeyMaterialID != "1" {
			t.Fatalf("%+v, %v", r, err)
		}
		if w.reencrypted.Load() != 1 || w.decrypted.Load() != int64(i) {
			t.Errorf("%d calls of ReEncrypt and %d of Decrypt for %d keys of one branch key", w.reencrypted.Load(), w.decrypted.Load(), i+1)
		}
		b.cache.Purge()
		got, err := b.Decrypt(t.Context(), DecryptInput{CiphertextBlob: r.CiphertextBlob, EncryptionContext: ec})
		if err != nil || !got.Plaintext.Equal(k.Plaintext) || got.KeyMaterialID != "1" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	other := fileContext("other")
	r, err := b.ReEncrypt(t.Context(), ReEncryptInput{CiphertextBlob: keys[0].CiphertextBlob, SourceEncryptionContext: fileContext("0"),
		DestinationKeyID: "alias/a", DestinationEncryptionContext: other})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Decrypt(t.Context(), DecryptInput{CiphertextBlob: r.CiphertextBlob, EncryptionContext: other}); err != nil ||
		!got.Plaintext.Equal(keys[0].Plaintext) {
		t.Errorf("under another context: %v", err)
	}
}

func TestBranchRefuses(t *testing.T) {
	w := &wrapper{}
	b := newBranch(t, w, DefaultBranchLimits(), CacheConfig{})
	k := branchGenerate(t, b, "f")
	blob := k.CiphertextBlob
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(blob)) }
	for _, c := range []struct {
		name string
		blob []byte
		want error
	}{
		{"version 2", edit(func(b []byte) []byte { b[3] = 2; return b }), ErrUnsupported},
		{"version 0", edit(func(b []byte) []byte { b[3] = 0; return b }), ErrUnsupported},
		{"header alone", blob[:branchKeyOff], ErrInvalidCiphertext},
		{"magic alone", blob[:4], ErrInvalidCiphertext},
		{"no branch key", edit(func(b []byte) []byte { b[branchLenOff], b[branchLenOff+1] = 0, 0; return b }), ErrInvalidCiphertext},
		{"longer branch key", edit(func(b []byte) []byte { b[branchLenOff] = 0xff; return b }), ErrInvalidCiphertext},
		{"branch key of a branch key", edit(func(b []byte) []byte { copy(b[branchKeyOff:], branchMagic); return b }), ErrInvalidCiphertext},
		{"other id", edit(func(b []byte) []byte { b[4] ^= 1; return b }), ErrInvalidCiphertext},
		{"other salt", edit(func(b []byte) []byte { b[branchSaltOff] ^= 1; return b }), ErrInvalidCiphertext},
		{"too long", append(bytes.Clone(blob), make([]byte, MaxCiphertextBlobSize)...), ErrInvalidArgument},
	} {
		if _, err := b.Decrypt(t.Context(), DecryptInput{CiphertextBlob: c.blob, EncryptionContext: fileContext("f")}); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if _, err := b.ReEncrypt(t.Context(), ReEncryptInput{CiphertextBlob: c.blob, SourceEncryptionContext: fileContext("f"),
			DestinationKeyID: fakeARN}); !errors.Is(err, c.want) {
			t.Errorf("%s, ReEncrypt: got %v, want %v", c.name, err, c.want)
		}
	}
	_, err := b.GenerateDataKey(t.Context(), GenerateDataKeyInput{KeyID: "alias/a", EncryptionContext: Context{BranchContextName: "x"}})
	if !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("a context with the reserved name: %v", err)
	}
	w.size = MaxCiphertextBlobSize
	b.Purge()
	_, err = b.GenerateDataKey(t.Context(), GenerateDataKeyInput{KeyID: "alias/a"})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("a branch key that leaves no room: %v", err)
	}
}

// TestBranchDisabled: a branch key wraps no more once the cache's time is up and the CMK is disabled.
func TestBranchDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapper{}
		b := newBranch(t, w, DefaultBranchLimits(), CacheConfig{MaxAge: 5 * time.Minute, MaxIdle: time.Hour})
		defer b.Close()
		branchGenerate(t, b, "f")
		disabled := NewError("", "", CodeDisabled, "")
		var err error = disabled
		w.err.Store(&err)
		branchGenerate(t, b, "f")
		time.Sleep(5 * time.Minute)
		for range 3 {
			if _, err := b.GenerateDataKey(t.Context(), GenerateDataKeyInput{KeyID: "alias/a", EncryptionContext: fileContext("f")}); !errors.Is(err, ErrDisabled) {
				t.Errorf("got %v", err)
			}
		}
	})
}

// TestBranchProtocol holds PROTOCOL.md to the code.
func TestBranchProtocol(t *testing.T) {
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("| 0 | %d | `%s` and the version, `%02x` |", len(branchMagic), branchMagic[:3], branchMagic[3]),
		fmt.Sprintf("| %d | %d | branch key id, random |", len(branchMagic), branchIDSize),
		fmt.Sprintf("| %d | %d | salt, random |", branchSaltOff, branchSaltSize),
		fmt.Sprintf("| %d | 2 | n, size of the wrapped branch key", branchLenOff),
		fmt.Sprintf("| %d | n |", branchKeyOff),
		fmt.Sprintf("| %d+n+m | %d | tag |", branchKeyOff, branchTagSize),
		fmt.Sprintf("derive_key(%q, branch key || salt)", branchDerive),
		fmt.Sprintf("AAD = bytes 0..%d || canonical", branchLenOff-1),
		fmt.Sprintf("{`%s`: its id", BranchContextName),
		fmt.Sprintf("At most %d bytes in all", MaxCiphertextBlobSize),
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("PROTOCOL.md does not have %q", want)
		}
	}
	b := newBranch(t, &wrapper{}, DefaultBranchLimits(), CacheConfig{})
	k := branchGenerate(t, b, "f")
	blob, err := parseBranchBlob("", k.CiphertextBlob)
	if err != nil || len(k.CiphertextBlob) != 54+len(blob.wrapped)+32+16 {
		t.Errorf("%d bytes, %v", len(k.CiphertextBlob), err)
	}
}

func FuzzBranchBlob(f *testing.F) {
	var id branchID
	key := bytes.Repeat([]byte{7}, branchKeySize)
	blob, err := sealBranchBlob("", id, key, []byte("wrapped"), []byte("data key"), fileContext("f"))
	if err != nil {
		f.Fatal(err)
	}
	for n := range blob {
		f.Add(blob[:n])
	}
	f.Add(blob)
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		b, err := parseBranchBlob("Decrypt", in)
		if err != nil {
			if !errors.Is(err, ErrInvalidCiphertext) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrInvalidArgument) {
				t.Errorf("got %v", err)
			}
			return
		}
		again, err := b.withWrapped("", b.wrapped)
		if err != nil || !bytes.Equal(again, in) {
			t.Errorf("%x is %x, %v", in, again, err)
		}
		if _, err := b.open("", key, fileContext("f")); err == nil { // one of the seeds: each process has its own
			if _, err := b.open("", key, fileContext("g")); err == nil {
				t.Errorf("%x opens under another context", in)
			}
		}
		if !bytes.Equal(in, before) {
			t.Error("the input was changed")
		}
	})
}
