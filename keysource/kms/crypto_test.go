package kms

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
)

func TestEncryptDecrypt(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	id := k[strings.LastIndexByte(k, '/')+1:]
	b.must(b.root(), "CreateAlias", `{"AliasName":"alias/k","TargetKeyId":"`+id+`"}`)
	u := b.as("ursula", policy.User)
	plain := base64.StdEncoding.EncodeToString([]byte("hello"))
	for _, ref := range []string{k, id, "alias/k", "arn:aws:kms:local:" + testAccount + ":alias/k"} {
		out := b.must(u, "Encrypt", fmt.Sprintf(`{"KeyId":%q,"Plaintext":%q,"EncryptionContext":{"a":"b"}}`, ref, plain))
		if out["KeyId"] != k || out["EncryptionAlgorithm"] != "SYMMETRIC_DEFAULT" {
			t.Errorf("%s: %v", ref, out)
		}
		blob := out["CiphertextBlob"].(string)
		for _, with := range []string{"", `"KeyId":"` + ref + `",`} {
			got := b.must(u, "Decrypt", fmt.Sprintf(`{%s"CiphertextBlob":%q,"EncryptionContext":{"a":"b"}}`, with, blob))
			if got["Plaintext"] != plain || got["KeyId"] != k || len(got["KeyMaterialId"].(string)) != 64 {
				t.Errorf("%s: %v", ref, got)
			}
			if u.Audit.KeyMaterialID != got["KeyMaterialId"] || len(u.Audit.Resources) != 1 || u.Audit.Resources[0].ARN != k ||
				u.Audit.RequestParameters["plaintext"] != nil || u.Audit.RequestParameters["ciphertextBlob"] != nil {
				t.Errorf("audit: %+v", u.Audit)
			}
		}
		b.refused(u, "Decrypt", fmt.Sprintf(`{"CiphertextBlob":%q}`, blob), keysource.CodeInvalidCiphertext)
		other := b.newKey(CreateKeyInput{})
		b.refused(u, "Decrypt", fmt.Sprintf(`{"KeyId":%q,"CiphertextBlob":%q,"EncryptionContext":{"a":"b"}}`, other, blob),
			keysource.CodeIncorrectKey)
	}
}

// TestLimits has the bounds of the cryptographic operations.
func TestLimits(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	bytes := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, row := range []struct{ op, in, want string }{
		{"Encrypt", `"Plaintext":"` + bytes(1) + `"`, ""},
		{"Encrypt", `"Plaintext":"` + bytes(4096) + `"`, ""},
		{"Encrypt", `"Plaintext":"` + bytes(4097) + `"`, keysource.CodeValidation},
		{"Encrypt", `"Plaintext":""`, keysource.CodeValidation},
		{"Encrypt", `"X":1`, keysource.CodeValidation},
		{"Encrypt", `"Plaintext":"` + bytes(1) + `","EncryptionAlgorithm":"RSAES_OAEP_SHA_256"`, keysource.CodeInvalidKeyUsage},
		{"Encrypt", `"Plaintext":"` + bytes(1) + `","EncryptionAlgorithm":"ROT13"`, keysource.CodeValidation},
		{"Encrypt", `"Plaintext":"` + bytes(1) + `","GrantTokens":["x"]`, keysource.CodeInvalidGrantToken},
		{"Encrypt", `"Plaintext":"` + bytes(1) + `","EncryptionContext":{"":"x"}`, keysource.CodeValidation},
		{"Encrypt", `"Plaintext":"` + bytes(1) + `","EncryptionContext":{"x":"` + strings.Repeat("x", 9000) + `"}`, keysource.CodeValidation},
		{"Encrypt", `"Plaintext":"` + bytes(1) + `","DryRun":true`, keysource.CodeDryRun},
		{"Decrypt", `"CiphertextBlob":""`, keysource.CodeValidation},
		{"Decrypt", `"CiphertextBlob":"` + bytes(6145) + `"`, keysource.CodeValidation},
		{"Decrypt", `"CiphertextBlob":"` + bytes(200) + `"`, keysource.CodeInvalidCiphertext},
		{"Decrypt", `"CiphertextBlob":"` + bytes(200) + `","Recipient":{}`, keysource.CodeUnsupported},
		{"Decrypt", `"DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]`, keysource.CodeDryRun},
		{"Decrypt", `"DryRunModifiers":["IGNORE_CIPHERTEXT"]`, keysource.CodeValidation},
		{"Decrypt", `"DryRun":true,"DryRunModifiers":["X"]`, keysource.CodeValidation},
		{"GenerateDataKey", `"NumberOfBytes":1`, ""},
		{"GenerateDataKey", `"NumberOfBytes":1024`, ""},
		{"GenerateDataKey", `"NumberOfBytes":1025`, keysource.CodeValidation},
		{"GenerateDataKey", `"NumberOfBytes":0`, keysource.CodeValidation},
		{"GenerateDataKey", `"KeySpec":"AES_256"`, ""},
		{"GenerateDataKey", `"KeySpec":"AES_128"`, ""},
		{"GenerateDataKey", `"KeySpec":"AES_192"`, keysource.CodeValidation},
		{"GenerateDataKey", `"KeySpec":"AES_256","NumberOfBytes":32`, keysource.CodeValidation},
		{"GenerateDataKey", `"X":1`, keysource.CodeValidation},
		{"GenerateDataKey", `"KeySpec":"AES_256","DryRun":true`, keysource.CodeDryRun},
		{"GenerateDataKeyWithoutPlaintext", `"KeySpec":"AES_256"`, ""},
		{"GenerateDataKeyWithoutPlaintext", `"KeySpec":"AES_256","DryRun":true`, keysource.CodeDryRun},
		{"GenerateRandom", `"NumberOfBytes":16`, ""},
		{"GenerateRandom", `"NumberOfBytes":1025`, keysource.CodeValidation},
		{"GenerateRandom", `"X":1`, keysource.CodeValidation},
		{"GenerateRandom", `"NumberOfBytes":16,"CustomKeyStoreId":"cks-1"`, keysource.CodeUnsupported},
	} {
		b.refused(b.root(), row.op, `{"KeyId":"`+k+`",`+row.in+`}`, row.want)
	}
	_, err := b.run(b.root(), "Encrypt", `{"KeyId":"`+k+`","Plaintext":"`+bytes(4097)+`"}`)
	want := "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	for ref, want := range map[string]string{"": keysource.CodeValidation, "alias/none": keysource.CodeNotFound,
		"1234abcd-12ab-34cd-56ef-1234567890ab": keysource.CodeNotFound, "arn:aws:s3:::x": keysource.CodeInvalidARN,
		strings.Repeat("x", 3000): keysource.CodeValidation, "a b": keysource.CodeValidation} {
		b.refused(b.root(), "Encrypt", fmt.Sprintf(`{"KeyId":%q,"Plaintext":"aGk="}`, ref), want)
	}
}

func TestReEncrypt(t *testing.T) {
	b := newBench(t)
	from, to := b.newKey(CreateKeyInput{}), b.newKey(CreateKeyInput{})
	blob := b.must(b.root(), "Encrypt", `{"KeyId":"`+from+`","Plaintext":"aGk=","EncryptionContext":{"a":"1"}}`)["CiphertextBlob"].(string)
	in := func(more string) string {
		return fmt.Sprintf(`{"CiphertextBlob":%q,"SourceEncryptionContext":{"a":"1"},"DestinationKeyId":%q,"DestinationEncryptionContext":{"a":"2"}%s}`, blob, to, more)
	}
	w := b.as("walter", policy.Rewrapper)
	b.refused(w, "ReEncrypt", in(`,"DryRun":true`), keysource.CodeDryRun)
	b.refused(w, "ReEncrypt", fmt.Sprintf(`{"SourceKeyId":%q,"DestinationKeyId":%q,"DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}`, from, to), keysource.CodeDryRun)
	b.refused(w, "ReEncrypt", in(`,"SourceKeyId":"`+to+`"`), keysource.CodeIncorrectKey)
	out := b.must(w, "ReEncrypt", in(""))
	if out["SourceKeyId"] != from || out["KeyId"] != to || w.Audit.SourceKeyMaterialID != out["SourceKeyMaterialId"] ||
		w.Audit.DestinationKeyMaterialID != out["DestinationKeyMaterialId"] || len(w.Audit.Resources) != 2 || w.Audit.Resources[0].ARN != from {
		t.Errorf("got %v, audit %+v", out, w.Audit)
	}
	b.refused(w, "Decrypt", fmt.Sprintf(`{"CiphertextBlob":%q,"EncryptionContext":{"a":"2"}}`, out["CiphertextBlob"]), keysource.CodeAccessDenied)
	got := b.must(b.root(), "Decrypt", fmt.Sprintf(`{"CiphertextBlob":%q,"EncryptionContext":{"a":"2"}}`, out["CiphertextBlob"]))
	if got["Plaintext"] != "aGk=" {
		t.Errorf("got %v", got)
	}
	// Both CMKs must be usable, and both permissions be there.
	b.refused(b.as("reader", policy.Reader), "ReEncrypt", in(""), keysource.CodeAccessDenied)
	b.must(b.root(), "DisableKey", `{"KeyId":"`+from+`"}`)
	b.refused(w, "ReEncrypt", in(""), keysource.CodeDisabled)
}
