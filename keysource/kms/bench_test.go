package kms

import (
	"testing"

	"kmsfs/keysource/kms/policy"
)

// BenchmarkDecrypt is what a server does for each Decrypt but for the network.
func BenchmarkDecrypt(b *testing.B) {
	s := newBench(b)
	k := s.newKey(CreateKeyInput{})
	size := 32
	ec := map[string]string{"kmsfs:volume": "0b7e8c1f5a6d4e2f9b7c3d1a2e4f6a8b", "kmsfs:file": "5a6d4e2f9b7c3d1a2e4f6a8b0b7e8c1f"}
	c := s.as("u", policy.User)
	dk, err := s.GenerateDataKey(b.Context(), c, &GenerateDataKeyInput{KeyID: k, NumberOfBytes: &size, EncryptionContext: ec})
	if err != nil {
		b.Fatal(err)
	}
	in := &DecryptInput{CiphertextBlob: dk.CiphertextBlob, EncryptionContext: ec}
	b.ReportAllocs()
	for b.Loop() {
		out, err := s.Decrypt(b.Context(), c, in)
		if err != nil {
			b.Fatal(err)
		}
		out.Wipe()
	}
}
