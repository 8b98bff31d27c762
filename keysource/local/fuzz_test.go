package local

import (
	"bytes"
	"path/filepath"
	"testing"

	"kmsfs/keysource"
)

// FuzzBlob opens any bytes as a wrapped key. Only what the store itself has wrapped may open.
func FuzzBlob(f *testing.F) {
	s, err := Create(f.Context(), Config{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	k, err := s.GenerateDataKey(f.Context(), keysource.GenerateDataKeyInput{KeyID: DefaultAlias})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.CiphertextBlob)
	f.Add(k.CiphertextBlob[:BlobOverhead])
	f.Add([]byte(blobMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := s.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: b})
		if err == nil && !bytes.Equal(b, k.CiphertextBlob) {
			t.Errorf("opened %x as %d bytes", b, r.Plaintext.Len())
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}

// FuzzHeader parses any bytes as a store file.
func FuzzHeader(f *testing.F) {
	for _, name := range []string{"v1-keyfile", "v1-passphrase"} {
		b, err := readFile(osFS{}, filepath.Join("testdata", name, StoreName), maxBodySize)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:headerSize])
		f.Add(b[:headerSize-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHeader(b); err == nil && !bytes.Equal(h.marshal(), b[:headerSize]) {
			t.Error("a header does not read back as it was")
		}
		if _, err := openStore(b, new([secretSize]byte)); err == nil {
			t.Error("a store opened under a zero key")
		}
	})
}

// FuzzBody parses any bytes as the body of a store, as if they had been authenticated.
func FuzzBody(f *testing.F) {
	s, err := Open(f.Context(), Config{Dir: golden(f, "v1-keyfile")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	b, err := marshalBody(s.snap)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sn, err := unmarshalBody(b)
		if err != nil {
			return
		}
		again, err := marshalBody(sn)
		if err != nil {
			t.Fatal(err)
		}
		next, err := unmarshalBody(again)
		if err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		if third, err := marshalBody(next); err != nil || !bytes.Equal(third, again) {
			t.Error("the body has no canonical form")
		}
	})
}

// FuzzKeyFile parses any bytes as a key file.
func FuzzKeyFile(f *testing.F) {
	f.Add([]byte(keyFilePrefix + "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"))
	f.Add([]byte(keyFilePrefix))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, ok := parseKeyFile(b); ok && len(key) != secretSize {
			t.Errorf("a key of %d bytes", len(key))
		}
	})
}
