package kms

import (
	"context"
	"errors"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/keysourcetest"
	"kmsfs/keysource/kms/policy"
)

// keys is the service as a keysource.Keysource, for the contract.
type keys struct {
	s    *Service
	call func() *Call
}

// GenerateDataKey implements keysource.Keysource.
func (k keys) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	n := in.NumberOfBytes
	if n == 0 {
		n = keysource.DataKeySize
	}
	out, err := k.s.GenerateDataKey(ctx, k.call(), &GenerateDataKeyInput{KeyID: string(in.KeyID),
		EncryptionContext: in.EncryptionContext, NumberOfBytes: &n})
	if err != nil {
		return keysource.DataKey{}, err
	}
	defer out.Wipe()
	return keysource.DataKey{Plaintext: keysource.NewPlaintextKey(out.Plaintext), CiphertextBlob: out.CiphertextBlob,
		KeyID: out.KeyID, KeyMaterialID: out.KeyMaterialID}, nil
}

// Decrypt implements keysource.Keysource.
func (k keys) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	out, err := k.s.Decrypt(ctx, k.call(), &DecryptInput{CiphertextBlob: in.CiphertextBlob, EncryptionContext: in.EncryptionContext,
		KeyID: string(in.KeyID)})
	if err != nil {
		if len(in.CiphertextBlob) == 0 || len(in.CiphertextBlob) > keysource.MaxCiphertextBlobSize {
			err = errors.Join(keysource.NewError("Decrypt", "", keysource.CodeInvalidCiphertext, "no blob"), err)
		}
		return keysource.DecryptResult{}, err
	}
	defer out.Wipe()
	return keysource.DecryptResult{Plaintext: keysource.NewPlaintextKey(out.Plaintext), KeyID: out.KeyID,
		KeyMaterialID: out.KeyMaterialID}, nil
}

// ReEncrypt implements keysource.Keysource.
func (k keys) ReEncrypt(ctx context.Context, in keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	out, err := k.s.ReEncrypt(ctx, k.call(), &ReEncryptInput{CiphertextBlob: in.CiphertextBlob,
		SourceEncryptionContext: in.SourceEncryptionContext, SourceKeyID: string(in.SourceKeyID),
		DestinationKeyID: string(in.DestinationKeyID), DestinationEncryptionContext: in.DestinationEncryptionContext})
	if err != nil {
		return keysource.ReEncryptResult{}, err
	}
	return keysource.ReEncryptResult{CiphertextBlob: out.CiphertextBlob, SourceKeyID: out.SourceKeyID,
		SourceKeyMaterialID: out.SourceKeyMaterialID, KeyID: out.KeyID, KeyMaterialID: out.DestinationKeyMaterialID}, nil
}

// DescribeKey implements keysource.Keysource.
func (k keys) DescribeKey(ctx context.Context, key keysource.KeyRef) (keysource.KeyMetadata, error) {
	if _, err := k.s.DescribeKey(ctx, k.call(), &DescribeKeyInput{KeyID: string(key)}); err != nil {
		return keysource.KeyMetadata{}, err
	}
	return k.s.store.DescribeKey(ctx, key)
}

// Close implements keysource.Keysource.
func (k keys) Close() error { return k.s.store.Close() }

// TestContract runs the contract of a keysource as a user with no more than the permissions of one.
func TestContract(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		b := newBench(t)
		k1, k2 := b.newKey(CreateKeyInput{}), b.newKey(CreateKeyInput{})
		b.must(b.root(), "CreateAlias", `{"AliasName":"alias/a","TargetKeyId":"`+k1+`"}`)
		id := k1[len(k1)-36:]
		return keysourcetest.Target{
			Keysource: keys{b.Service, func() *Call { return b.as("u", policy.User) }},
			KeyA:      keysource.KeyRef(k1), KeyB: keysource.KeyRef(k2),
			OtherNames: []keysource.KeyRef{keysource.KeyRef(id), "alias/a",
				keysource.KeyRef("arn:aws:kms:local:" + testAccount + ":alias/a")},
			Disable: func(ctx context.Context) error { return b.store.DisableKey(ctx, keysource.KeyRef(k2)) },
			Enable:  func(ctx context.Context) error { return b.store.EnableKey(ctx, keysource.KeyRef(k2)) },
			Rotate: func(ctx context.Context) error {
				_, err := b.store.RotateKeyOnDemand(ctx, keysource.KeyRef(k1))
				return err
			},
		}
	})
}
