package keysourcetest

import (
	"bytes"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// isMaterialID tells whether id has the form of a key material id: 64 hexadecimal digits.
func isMaterialID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

func testGenerate(t *testing.T, target Target) {
	a, b := generate(t, target, exampleContext()), generate(t, target, exampleContext())
	for _, k := range []keysource.DataKey{a, b} {
		if k.Plaintext.Len() != keysource.DataKeySize {
			t.Errorf("got a key of %d bytes, want %d", k.Plaintext.Len(), keysource.DataKeySize)
		}
		if n := len(k.CiphertextBlob); n == 0 || n > keysource.MaxCiphertextBlobSize {
			t.Errorf("got a blob of %d bytes", n)
		}
		if k.KeyID != string(target.KeyA) {
			t.Errorf("got key %s, want the ARN %s", k.KeyID, target.KeyA)
		}
		if !isMaterialID(k.KeyMaterialID) {
			t.Errorf("got key material id %q, want 64 hexadecimal digits", k.KeyMaterialID)
		}
		if bytes.Contains(k.CiphertextBlob, k.Plaintext.Bytes()) {
			t.Error("the blob holds the key in clear")
		}
	}
	if a.Plaintext.Equal(b.Plaintext) || bytes.Equal(a.CiphertextBlob, b.CiphertextBlob) {
		t.Error("two calls gave the same key or blob")
	}
	if a.KeyMaterialID != b.KeyMaterialID {
		t.Error("two calls used different key material")
	}
}

func testSizes(t *testing.T, target Target) {
	for _, n := range []int{1, 16, 31, 32, 33, 64, keysource.MaxDataKeySize} {
		k, err := target.Keysource.GenerateDataKey(t.Context(),
			keysource.GenerateDataKeyInput{KeyID: target.KeyA, NumberOfBytes: n})
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if k.Plaintext.Len() != n {
			t.Errorf("got %d bytes, want %d", k.Plaintext.Len(), n)
		}
		wantOpens(t, target, k.CiphertextBlob, nil, k.Plaintext)
	}
	for _, n := range []int{-1, keysource.MaxDataKeySize + 1, 1 << 30} {
		_, err := target.Keysource.GenerateDataKey(t.Context(),
			keysource.GenerateDataKeyInput{KeyID: target.KeyA, NumberOfBytes: n})
		wantKind(t, "size out of bounds", err, keysource.ErrInvalidArgument)
	}
}

func testNames(t *testing.T, target Target) {
	k := generate(t, target, nil)
	for _, name := range append([]keysource.KeyRef{target.KeyA}, target.OtherNames...) {
		got, err := target.Keysource.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: name})
		if err != nil {
			t.Errorf("GenerateDataKey with %s: %v", name, err)
			continue
		}
		if got.KeyID != string(target.KeyA) {
			t.Errorf("%s is %s, want %s", name, got.KeyID, target.KeyA)
		}
		r, err := target.Keysource.Decrypt(t.Context(),
			keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, KeyID: name})
		if err != nil || r.KeyID != string(target.KeyA) {
			t.Errorf("Decrypt with %s: %s, %v", name, r.KeyID, err)
		}
		md, err := target.Keysource.DescribeKey(t.Context(), name)
		if err != nil || md.ARN != string(target.KeyA) {
			t.Errorf("DescribeKey with %s: %s, %v", name, md.ARN, err)
		}
	}
}

func testNotFound(t *testing.T, target Target) {
	ks, blob := target.Keysource, generate(t, target, nil).CiphertextBlob
	const id = "00000000-0000-4000-8000-000000000000"
	prefix := string(target.KeyA[:strings.LastIndexByte(string(target.KeyA), '/')])
	for _, ref := range []keysource.KeyRef{id, "alias/none", keysource.KeyRef(prefix + "/" + id)} {
		_, err := ks.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: ref})
		wantKind(t, "GenerateDataKey", err, keysource.ErrNotFound)
		_, err = ks.DescribeKey(t.Context(), ref)
		wantKind(t, "DescribeKey", err, keysource.ErrNotFound)
		_, err = ks.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: blob, DestinationKeyID: ref})
		wantKind(t, "ReEncrypt", err, keysource.ErrNotFound)
		_, err = ks.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: blob, KeyID: ref})
		wantKind(t, "Decrypt", err, keysource.ErrNotFound, keysource.ErrIncorrectKey)
	}
	for _, ref := range []keysource.KeyRef{"", "no such thing", "arn:aws:s3:::bucket", "alias/", "alias/ü"} {
		_, err := ks.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: ref})
		wantKind(t, "GenerateDataKey of nonsense", err, keysource.ErrInvalidArgument, keysource.ErrNotFound)
		_, err = ks.DescribeKey(t.Context(), ref)
		wantKind(t, "DescribeKey of nonsense", err, keysource.ErrInvalidArgument, keysource.ErrNotFound)
	}
}

func testRoundTrip(t *testing.T, target Target) {
	for _, ec := range []keysource.Context{nil, {}, exampleContext(), {"name": ""}, {"Ünïcode": "日本"}} {
		k := generate(t, target, ec)
		for range 2 { // the second may come from a cache
			r := wantOpens(t, target, k.CiphertextBlob, ec.Clone(), k.Plaintext)
			if r.KeyID != k.KeyID || r.KeyMaterialID != k.KeyMaterialID {
				t.Errorf("Decrypt says %s %s, GenerateDataKey said %s %s", r.KeyID, r.KeyMaterialID, k.KeyID,
					k.KeyMaterialID)
			}
			target.Settle()
		}
	}
	k := generate(t, target, nil)
	wantOpens(t, target, k.CiphertextBlob, keysource.Context{}, k.Plaintext)
}

func testDescribe(t *testing.T, target Target) {
	md, err := target.Keysource.DescribeKey(t.Context(), target.KeyA)
	if err != nil {
		t.Fatal(err)
	}
	k := generate(t, target, nil)
	if md.ARN != string(target.KeyA) || !strings.HasSuffix(md.ARN, "/"+md.KeyID) {
		t.Errorf("got ARN %s, id %s", md.ARN, md.KeyID)
	}
	if !md.Enabled || md.KeyState != keysource.KeyStateEnabled {
		t.Errorf("got state %s, enabled %v", md.KeyState, md.Enabled)
	}
	if md.CurrentKeyMaterialID != k.KeyMaterialID {
		t.Errorf("current key material is %s, a new key has %s", md.CurrentKeyMaterialID, k.KeyMaterialID)
	}
	if md.CreationDate.IsZero() || md.Origin == "" || md.KeyManager == "" || md.AccountID == "" {
		t.Errorf("metadata is not complete: %+v", md)
	}
}
