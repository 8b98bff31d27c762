package keysourcetest

import (
	"bytes"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// refusals are the kinds that a blob may be refused with whose bytes were changed: a change in the part that names
// the CMK may look like the blob of another, and one in its version like one of another version.
func refusals() []error {
	return []error{keysource.ErrInvalidCiphertext, keysource.ErrNotFound, keysource.ErrDenied,
		keysource.ErrIncorrectKey, keysource.ErrInvalidArgument, keysource.ErrUnsupported}
}

func testContext(t *testing.T, target Target) {
	k := generate(t, target, exampleContext())
	change := func(f func(ec keysource.Context)) keysource.Context {
		ec := exampleContext()
		f(ec)
		return ec
	}
	for _, test := range []struct {
		name string
		ec   keysource.Context
	}{
		{"none", nil},
		{"empty", keysource.Context{}},
		{"one less", change(func(ec keysource.Context) { delete(ec, "kmsfs:file") })},
		{"one more", change(func(ec keysource.Context) { ec["more"] = "" })},
		{"other value", change(func(ec keysource.Context) { ec["kmsfs:file"] = "ffd4" })},
		{"other case of value", change(func(ec keysource.Context) { ec["kmsfs:file"] = "FFD3" })},
		{"other case of name", change(func(ec keysource.Context) {
			delete(ec, "kmsfs:file")
			ec["kmsfs:File"] = "ffd3"
		})},
		{"swapped values", change(func(ec keysource.Context) {
			ec["kmsfs:file"], ec["kmsfs:volume"] = ec["kmsfs:volume"], ec["kmsfs:file"]
		})},
		{"moved boundary", change(func(ec keysource.Context) {
			delete(ec, "kmsfs:file")
			ec["kmsfs:filef"] = "fd3"
		})},
	} {
		r, err := target.Keysource.Decrypt(t.Context(),
			keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, EncryptionContext: test.ec})
		wantKind(t, test.name, err, keysource.ErrInvalidCiphertext)
		if r.Plaintext.Len() != 0 {
			t.Errorf("%s: a key came with the error", test.name)
		}
		_, err = target.Keysource.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob,
			SourceEncryptionContext: test.ec, DestinationKeyID: target.KeyB})
		wantKind(t, test.name+", ReEncrypt", err, keysource.ErrInvalidCiphertext)
	}
	wantOpens(t, target, k.CiphertextBlob, exampleContext(), k.Plaintext)
}

func testInvalidContext(t *testing.T, target Target) {
	for _, test := range []struct {
		name string
		ec   keysource.Context
	}{
		{"empty name", keysource.Context{"": "x"}},
		{"not UTF-8", keysource.Context{"a": "\xff"}},
		{"too long", keysource.Context{"a": strings.Repeat("x", keysource.MaxContextSize)}},
	} {
		_, err := target.Keysource.GenerateDataKey(t.Context(),
			keysource.GenerateDataKeyInput{KeyID: target.KeyA, EncryptionContext: test.ec})
		wantKind(t, test.name, err, keysource.ErrInvalidArgument)
	}
}

func testDamage(t *testing.T, target Target) {
	k := generate(t, target, exampleContext())
	refuse := func(what string, blob []byte) {
		t.Helper()
		r, err := target.Keysource.Decrypt(t.Context(),
			keysource.DecryptInput{CiphertextBlob: blob, EncryptionContext: exampleContext()})
		wantKind(t, what, err, refusals()...)
		if r.Plaintext.Len() != 0 {
			t.Errorf("%s: a key came with the error", what)
		}
		if err != nil && bytes.Contains([]byte(err.Error()), k.Plaintext.Bytes()) {
			t.Errorf("%s: the error holds the key", what)
		}
	}
	for i := range k.CiphertextBlob {
		for _, bit := range []byte{0x01, 0x80} {
			blob := bytes.Clone(k.CiphertextBlob)
			blob[i] ^= bit
			refuse("flipped bit", blob)
		}
	}
	for n := range k.CiphertextBlob {
		refuse("cut short", k.CiphertextBlob[:n])
	}
	refuse("one byte more", append(bytes.Clone(k.CiphertextBlob), 0))
	refuse("twice", append(bytes.Clone(k.CiphertextBlob), k.CiphertextBlob...))
	refuse("zeros", make([]byte, len(k.CiphertextBlob)))
	refuse("too long", make([]byte, keysource.MaxCiphertextBlobSize+1))
	wantOpens(t, target, k.CiphertextBlob, exampleContext(), k.Plaintext)
}

func testIncorrectKey(t *testing.T, target Target) {
	k := generate(t, target, nil)
	for range 2 { // a cache that knows the key must refuse too
		_, err := target.Keysource.Decrypt(t.Context(),
			keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, KeyID: target.KeyB})
		wantKind(t, "Decrypt", err, keysource.ErrIncorrectKey)
		_, err = target.Keysource.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob,
			SourceKeyID: target.KeyB, DestinationKeyID: target.KeyB})
		wantKind(t, "ReEncrypt", err, keysource.ErrIncorrectKey)
		wantOpens(t, target, k.CiphertextBlob, nil, k.Plaintext)
	}
}
