package local

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"kmsfs/keysource"
)

// externalKey makes a CMK that waits for material.
func externalKey(t testing.TB, s *Store) keysource.KeyRef {
	t.Helper()
	md, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{Origin: keysource.OriginExternal})
	if err != nil {
		t.Fatal(err)
	}
	return keysource.KeyRef(md.ARN)
}

// TestImportToken shows that a token opens in its store alone, for its CMK alone, over reopening, for a day; and that the
// private key stands nowhere in clear.
func TestImportToken(t *testing.T) {
	clock := new(testClock)
	s, stranger := create(t, Config{Clock: clock}), create(t, Config{Clock: clock})
	k := externalKey(t, s)
	p, err := s.GetParametersForImport(t.Context(), k, WrapOAEPSHA256, WrapRSA2048)
	if err != nil {
		t.Fatal(err)
	}
	if p.KeyID != string(k) || p.ValidTo.Sub(clock.Now()).Round(time.Minute) != importValid {
		t.Errorf("got %s, %v", p.KeyID, p.ValidTo)
	}
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), bytes.Repeat([]byte{1}, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	use := func(s *Store, k keysource.KeyRef, token []byte) error {
		_, err := s.ImportWrappedKeyMaterial(t.Context(), keysource.ImportKeyMaterialInput{KeyID: k}, token, wrapped)
		return err
	}
	for name, err := range map[string]error{"other store": use(stranger, externalKey(t, stranger), p.ImportToken),
		"other CMK": use(s, externalKey(t, s), p.ImportToken), "cut": use(s, k, p.ImportToken[:len(p.ImportToken)-1]),
		"empty": use(s, k, nil), "long": use(s, k, append(bytes.Clone(p.ImportToken), make([]byte, 6144)...))} {
		if e, ok := errors.AsType[*keysource.Error](err); !ok || e.Code != keysource.CodeInvalidImportToken {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for i := 0; i < len(p.ImportToken); i += 11 {
		bad := bytes.Clone(p.ImportToken)
		bad[i] ^= 1
		if err := use(s, k, bad); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	again := mustOpenDir(t, Config{Dir: s.cfg.Dir, Clock: clock})
	if err := use(again, k, p.ImportToken); err != nil {
		t.Errorf("after reopening: %v", err)
	}
	clock.advance(importValid)
	if e, ok := errors.AsType[*keysource.Error](use(again, k, p.ImportToken)); !ok || e.Code != keysource.CodeExpiredImportToken {
		t.Errorf("a day later: %v", e)
	}
	big, err := s.GetParametersForImport(t.Context(), k, WrapAESSHA256, WrapRSA4096)
	if err != nil || len(big.ImportToken) > maxTokenSize {
		t.Errorf("a token of %d bytes, %v", len(big.ImportToken), err)
	}
	own := mustCreateKey(t, s)
	if _, err := s.GetParametersForImport(t.Context(), own, WrapOAEPSHA256, WrapRSA2048); !errors.Is(err, keysource.ErrUnsupported) {
		t.Errorf("own material: %v", err)
	}
	for _, row := range []struct {
		alg  WrappingAlgorithm
		spec WrappingKeySpec
	}{{"", WrapRSA2048}, {"RSAES_PKCS1_V1_5", WrapRSA2048}, {WrapOAEPSHA256, ""}, {WrapOAEPSHA256, "RSA_1024"}} {
		if _, err := s.GetParametersForImport(t.Context(), k, row.alg, row.spec); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("%v: %v", row, err)
		}
	}
}

// FuzzImportToken opens any bytes as an import token of a CMK.
func FuzzImportToken(f *testing.F) {
	s, err := Create(f.Context(), Config{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	k := externalKey(f, s)
	p, err := s.GetParametersForImport(f.Context(), k, WrapOAEPSHA256, WrapRSA2048)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.ImportToken)
	f.Add(p.ImportToken[:tokenSealed])
	f.Add([]byte(tokenMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := s.openToken("", s.snap.refs[string(k)].id, b); err == nil && !bytes.Equal(b, p.ImportToken) {
			t.Error("another token opens")
		}
	})
}
