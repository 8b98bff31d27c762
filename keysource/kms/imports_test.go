package kms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"hash"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kmsfs/keysource"
)

// parameters asks for import parameters.
func (b *bench) parameters(k, alg, spec string) (token string, key *rsa.PublicKey, der []byte) {
	b.t.Helper()
	out := b.must(b.root(), "GetParametersForImport", fmt.Sprintf(`{"KeyId":%q,"WrappingAlgorithm":%q,"WrappingKeySpec":%q}`, k, alg, spec))
	der, err := base64.StdEncoding.DecodeString(out["PublicKey"].(string))
	if err != nil {
		b.t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		b.t.Fatal(err)
	}
	return out["ImportToken"].(string), public.(*rsa.PublicKey), der
}

// oaep encrypts for the import.
func oaep(t testing.TB, h hash.Hash, key *rsa.PublicKey, plain []byte) string {
	t.Helper()
	c, err := rsa.EncryptOAEP(h, rand.Reader, key, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(c)
}

// importMaterial imports 32 bytes of fill, with more members of the request, and returns the key material id.
func (b *bench) importMaterial(k string, fill byte, more string) string {
	b.t.Helper()
	token, key, _ := b.parameters(k, "RSAES_OAEP_SHA_256", "RSA_2048")
	if more == "" {
		more = `"ExpirationModel":"KEY_MATERIAL_DOES_NOT_EXPIRE"`
	}
	out := b.must(b.root(), "ImportKeyMaterial", fmt.Sprintf(`{"KeyId":%q,"ImportToken":%q,"EncryptedKeyMaterial":%q,%s}`, k, token,
		oaep(b.t, sha256.New(), key, bytes.Repeat([]byte{fill}, 32)), more))
	return out["KeyMaterialId"].(string)
}

// importPlainly imports 32 bytes of fill without the costly wrapping.
func (b *bench) importPlainly(k string, fill byte) {
	b.t.Helper()
	_, err := b.store.ImportKeyMaterial(b.t.Context(), keysource.ImportKeyMaterialInput{KeyID: keysource.KeyRef(k),
		Material: bytes.NewReader(bytes.Repeat([]byte{fill}, 32))})
	if err != nil {
		b.t.Fatal(err)
	}
}

// state is the KeyState of a CMK.
func (b *bench) state(k string) string {
	b.t.Helper()
	return b.must(b.root(), "DescribeKey", `{"KeyId":"`+k+`"}`)["KeyMetadata"].(map[string]any)["KeyState"].(string)
}

func TestImport(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{Origin: "EXTERNAL"})
	if got := b.state(k); got != "PendingImport" {
		t.Errorf("a new key is %s", got)
	}
	token, key, _ := b.parameters(k, "RSAES_OAEP_SHA_1", "RSA_2048")
	in := func(k, token, material, more string) string {
		return fmt.Sprintf(`{"KeyId":%q,"ImportToken":%q,"EncryptedKeyMaterial":%q%s}`, k, token, material, more)
	}
	good, never := oaep(t, sha1.New(), key, make([]byte, 32)), `,"ExpirationModel":"KEY_MATERIAL_DOES_NOT_EXPIRE"`
	other := b.newKey(CreateKeyInput{Origin: "EXTERNAL"})
	soon := fmt.Sprintf(`,"ValidTo":%d`, b.clock.Now().Add(48*time.Hour).Unix())
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, ""), keysource.CodeValidation) // neither date nor model
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, never+soon), keysource.CodeValidation)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, `,"ValidTo":1`), keysource.CodeValidation)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, `,"ValidTo":99999999999`), keysource.CodeValidation)
	b.refused(b.root(), "ImportKeyMaterial", in(other, token, good, never), keysource.CodeInvalidImportToken)
	b.refused(b.root(), "ImportKeyMaterial", in(k, "AAAA", good, never), keysource.CodeInvalidImportToken)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, "AAAA", never), keysource.CodeInvalidCiphertext)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, oaep(t, sha256.New(), key, make([]byte, 32)), never), keysource.CodeInvalidCiphertext)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, oaep(t, sha1.New(), key, make([]byte, 31)), never), keysource.CodeIncorrectKeyMaterial)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, never+`,"KeyMaterialId":"x"`), keysource.CodeValidation)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, never+`,"ImportType":"EXISTING_KEY_MATERIAL"`), keysource.CodeIncorrectKeyMaterial)
	first := b.must(b.root(), "ImportKeyMaterial", in(k, token, good, soon))["KeyMaterialId"].(string)
	md := b.must(b.root(), "DescribeKey", `{"KeyId":"`+k+`"}`)["KeyMetadata"].(map[string]any)
	if md["KeyState"] != "Enabled" || md["ExpirationModel"] != "KEY_MATERIAL_EXPIRES" || md["ValidTo"] == nil || md["CurrentKeyMaterialId"] != first {
		t.Errorf("got %v", md)
	}
	blob := b.must(b.root(), "Encrypt", `{"KeyId":"`+k+`","Plaintext":"aGk="}`)["CiphertextBlob"].(string)

	// A day later the token has expired, two days later the material.
	b.clock.advance(25 * time.Hour)
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, good, never), keysource.CodeExpiredImportToken)
	b.must(b.root(), "Decrypt", `{"CiphertextBlob":"`+blob+`"}`)
	b.clock.advance(24 * time.Hour)
	b.refused(b.root(), "Decrypt", `{"CiphertextBlob":"`+blob+`"}`, keysource.CodeInvalidState)
	if got := b.state(k); got != "PendingImport" {
		t.Errorf("after expiry the key is %s", got)
	}
	// Only the same material brings it back.
	token, key, _ = b.parameters(k, "RSAES_OAEP_SHA_1", "RSA_2048")
	b.refused(b.root(), "ImportKeyMaterial", in(k, token, oaep(t, sha1.New(), key, bytes.Repeat([]byte{7}, 32)), never), keysource.CodeIncorrectKeyMaterial)
	b.must(b.root(), "ImportKeyMaterial", in(k, token, oaep(t, sha1.New(), key, make([]byte, 32)), never+`,"KeyMaterialId":"`+first+`"`))
	b.must(b.root(), "Decrypt", `{"CiphertextBlob":"`+blob+`"}`)

	// A second material waits for the rotation; both are then needed.
	second := b.importMaterial(k, 9, `"ExpirationModel":"KEY_MATERIAL_DOES_NOT_EXPIRE","ImportType":"NEW_KEY_MATERIAL","KeyMaterialDescription":"second"`)
	b.must(b.root(), "RotateKeyOnDemand", `{"KeyId":"`+k+`"}`)
	list := b.must(b.root(), "ListKeyRotations", `{"KeyId":"`+k+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}`)["Rotations"].([]any)
	if len(list) != 2 || list[1].(map[string]any)["KeyMaterialId"] != second || list[1].(map[string]any)["KeyMaterialState"] != "CURRENT" ||
		list[1].(map[string]any)["KeyMaterialDescription"] != "second" || list[0].(map[string]any)["KeyMaterialState"] != "NON_CURRENT" {
		t.Errorf("got %v", list)
	}
	b.refused(b.root(), "DeleteImportedKeyMaterial", `{"KeyId":"`+k+`","KeyMaterialId":"`+fmt.Sprintf("%064d", 0)+`"}`, keysource.CodeNotFound)
	b.must(b.root(), "DeleteImportedKeyMaterial", `{"KeyId":"`+k+`","KeyMaterialId":"`+first+`"}`)
	b.refused(b.root(), "Encrypt", `{"KeyId":"`+k+`","Plaintext":"aGk="}`, keysource.CodeInvalidState)
	b.importMaterial(k, 0, "")
	b.must(b.root(), "Decrypt", `{"CiphertextBlob":"`+blob+`"}`)
}

// TestImportAnyone imports key material that OpenSSL encrypted, as customers do: RSA-OAEP, and AES key wrap with padding.
func TestImportAnyone(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is missing: apt-get install openssl")
	}
	run := func(input []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(openssl, args...)
		cmd.Stdin = bytes.NewReader(input)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	for _, row := range []struct{ alg, spec, hash string }{
		{"RSAES_OAEP_SHA_256", "RSA_3072", "sha256"}, {"RSAES_OAEP_SHA_1", "RSA_2048", "sha1"},
		{"RSA_AES_KEY_WRAP_SHA_256", "RSA_4096", "sha256"}, {"RSA_AES_KEY_WRAP_SHA_1", "RSA_2048", "sha1"},
	} {
		t.Run(row.alg, func(t *testing.T) {
			b := newBench(t)
			k := b.newKey(CreateKeyInput{Origin: "EXTERNAL"})
			token, _, der := b.parameters(k, row.alg, row.spec)
			file := filepath.Join(t.TempDir(), "key.der")
			writeFile(t, file, der)
			encrypt := func(plain []byte) []byte {
				return run(plain, "pkeyutl", "-encrypt", "-pubin", "-inkey", file, "-keyform", "DER", "-pkeyopt", "rsa_padding_mode:oaep",
					"-pkeyopt", "rsa_oaep_md:"+row.hash, "-pkeyopt", "rsa_mgf1_md:"+row.hash)
			}
			material := bytes.Repeat([]byte{42}, 32)
			var sealed []byte
			if row.alg[:8] == "RSA_AES_" {
				kek := bytes.Repeat([]byte{17}, 32)
				wrapped := run(material, "enc", "-id-aes256-wrap-pad", "-iv", "A65959A6", "-K", fmt.Sprintf("%x", kek))
				sealed = append(encrypt(kek), wrapped...)
			} else {
				sealed = encrypt(material)
			}
			id := b.must(b.root(), "ImportKeyMaterial", fmt.Sprintf(`{"KeyId":%q,"ImportToken":%q,"EncryptedKeyMaterial":%q,"ExpirationModel":"KEY_MATERIAL_DOES_NOT_EXPIRE"}`,
				k, token, base64.StdEncoding.EncodeToString(sealed)))["KeyMaterialId"]
			// The id is that of the material: importing the same in the plain way changes nothing.
			again, err := b.store.ImportKeyMaterial(t.Context(), keysource.ImportKeyMaterialInput{KeyID: keysource.KeyRef(k), Material: bytes.NewReader(material)})
			if err != nil || again != id {
				t.Errorf("got %v, %v, want %v", again, err, id)
			}
			// Any change of a bit is refused.
			for i := 0; i < len(sealed); i += 37 {
				bad := bytes.Clone(sealed)
				bad[i] ^= 4
				b.refused(b.root(), "ImportKeyMaterial", fmt.Sprintf(`{"KeyId":%q,"ImportToken":%q,"EncryptedKeyMaterial":%q,"ExpirationModel":"KEY_MATERIAL_DOES_NOT_EXPIRE"}`,
					k, token, base64.StdEncoding.EncodeToString(bad)), keysource.CodeInvalidCiphertext)
			}
		})
	}
}
