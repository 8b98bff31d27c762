package local

import (
	"context"
	"fmt"

	"kmsfs/keysource"
)

// with calls f with the present snapshot. When f fails because something is missing or refused, and the file has
// changed since, f is called again with what another process wrote.
func (s *Store) with(ctx context.Context, f func(sn *snapshot) error) error {
	for attempt := 0; ; attempt++ {
		sn, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		err = f(sn)
		s.release()
		if err == nil || attempt > 0 || !mayBeStale(err) || !s.refreshNow(ctx, sn) {
			return err
		}
	}
}

// GenerateDataKey implements keysource.Keysource.
func (s *Store) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	const op = "GenerateDataKey"
	n := in.NumberOfBytes
	if n == 0 {
		n = keysource.DataKeySize
	}
	if n < 0 || n > keysource.MaxDataKeySize {
		return keysource.DataKey{}, errValue(op, "numberOfBytes", "between 1 and 1024")
	}
	if err := in.EncryptionContext.Validate(); err != nil {
		return keysource.DataKey{}, fmt.Errorf("%s: %w", op, err)
	}
	var out keysource.DataKey
	err := s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find(op, in.KeyID)
		if err != nil {
			return err
		}
		if err := s.usable(op, k); err != nil {
			return err
		}
		key := keysource.MakePlaintextKey(n)
		if err := s.fillRandom(key.Bytes()); err != nil {
			return err
		}
		b, m, err := s.sealBlob(k, key.Bytes(), in.EncryptionContext)
		if err != nil {
			key.Wipe()
			return err
		}
		s.used(k, op)
		out = keysource.DataKey{Plaintext: key, CiphertextBlob: b, KeyID: k.arn, KeyMaterialID: m.idText}
		return nil
	})
	return out, err
}

// GenerateRandom returns 1 to keysource.MaxDataKeySize random bytes. The caller wipes them.
func (s *Store) GenerateRandom(ctx context.Context, n int) (keysource.PlaintextKey, error) {
	const op = "GenerateRandom"
	if n < 1 || n > keysource.MaxDataKeySize {
		return keysource.PlaintextKey{}, errValue(op, "numberOfBytes", "between 1 and 1024")
	}
	var out keysource.PlaintextKey
	err := s.with(ctx, func(*snapshot) error {
		out = keysource.MakePlaintextKey(n)
		return s.fillRandom(out.Bytes())
	})
	return out, err
}

// Encrypt wraps 1 to keysource.MaxPlaintextSize bytes, as the Encrypt of AWS KMS does. The caller still owns plaintext.
func (s *Store) Encrypt(ctx context.Context, key keysource.KeyRef, plaintext []byte, ec keysource.Context) (EncryptResult, error) {
	const op = "Encrypt"
	if len(plaintext) < 1 || len(plaintext) > keysource.MaxPlaintextSize {
		return EncryptResult{}, errValue(op, "plaintext", "of a length between 1 and 4096")
	}
	if err := ec.Validate(); err != nil {
		return EncryptResult{}, fmt.Errorf("%s: %w", op, err)
	}
	var out EncryptResult
	err := s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find(op, key)
		if err != nil {
			return err
		}
		if err := s.usable(op, k); err != nil {
			return err
		}
		b, m, err := s.sealBlob(k, plaintext, ec)
		out = EncryptResult{CiphertextBlob: b, KeyID: k.arn}
		if err == nil {
			s.used(k, op)
			out.KeyMaterialID = m.idText
		}
		return err
	})
	return out, err
}

// EncryptResult is the answer of Encrypt.
type EncryptResult struct {
	// CiphertextBlob is BlobOverhead bytes longer than the plaintext.
	CiphertextBlob []byte
	// KeyID is the ARN of the CMK, KeyMaterialID the key material.
	KeyID, KeyMaterialID string
}

// Decrypt implements keysource.Keysource.
func (s *Store) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	var out keysource.DecryptResult
	err := s.with(ctx, func(sn *snapshot) error {
		key, k, m, err := s.decrypt("Decrypt", sn, in)
		if err == nil {
			s.used(k, "Decrypt")
			out = keysource.DecryptResult{Plaintext: key, KeyID: k.arn, KeyMaterialID: m.idText}
		}
		return err
	})
	return out, err
}

// ReEncrypt implements keysource.Keysource.
func (s *Store) ReEncrypt(ctx context.Context, in keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	const op = "ReEncrypt"
	if err := in.DestinationEncryptionContext.Validate(); err != nil {
		return keysource.ReEncryptResult{}, fmt.Errorf("%s: %w", op, err)
	}
	var out keysource.ReEncryptResult
	err := s.with(ctx, func(sn *snapshot) error {
		dst, err := sn.find(op, in.DestinationKeyID)
		if err != nil {
			return err
		}
		if err := s.usable(op, dst); err != nil {
			return err
		}
		key, src, srcMaterial, err := s.decrypt(op, sn, keysource.DecryptInput{CiphertextBlob: in.CiphertextBlob,
			EncryptionContext: in.SourceEncryptionContext, KeyID: in.SourceKeyID})
		if err != nil {
			return err
		}
		defer key.Wipe()
		b, dstMaterial, err := s.sealBlob(dst, key.Bytes(), in.DestinationEncryptionContext)
		if err != nil {
			return err
		}
		s.used(src, op)
		s.used(dst, op)
		out = keysource.ReEncryptResult{CiphertextBlob: b, SourceKeyID: src.arn, SourceKeyMaterialID: srcMaterial.idText,
			KeyID: dst.arn, KeyMaterialID: dstMaterial.idText}
		return nil
	})
	return out, err
}

// decrypt opens a wrapped key and says what had wrapped it.
func (s *Store) decrypt(op string, sn *snapshot, in keysource.DecryptInput) (keysource.PlaintextKey, *cmk, *material, error) {
	var none keysource.PlaintextKey
	if err := in.EncryptionContext.Validate(); err != nil {
		return none, nil, nil, fmt.Errorf("%s: %w", op, err)
	}
	b, err := parseBlob(in.CiphertextBlob)
	if err != nil {
		return none, nil, nil, errInvalidCiphertext(op, "", err)
	}
	if in.KeyID != "" {
		named, err := sn.find(op, in.KeyID)
		if err != nil {
			return none, nil, nil, err
		}
		if named.id != b.keyID {
			return none, nil, nil, fail(op, named.arn, keysource.CodeIncorrectKey,
				"The key ID in the request does not identify a CMK that can perform this operation.")
		}
	}
	k := sn.keys[b.keyID]
	if k == nil {
		// A damaged blob, or one of another store, or of a CMK that was deleted: ErrInvalidCiphertext and ErrNotFound.
		arn := sn.arnPrefix() + "key/" + b.keyID.String()
		return none, nil, nil, errInvalidCiphertext(op, "",
			fail("", arn, keysource.CodeNotFound, "Key '%s' does not exist", arn))
	}
	if err := s.usable(op, k); err != nil {
		return none, nil, nil, err
	}
	m := k.material(b.materialID)
	if m == nil {
		return none, nil, nil, errInvalidCiphertext(op, k.arn, errNoMaterial)
	}
	if m.missing { // of a CMK that is not usable; so only if the store were wrong
		return none, nil, nil, errState(op, k.arn, keysource.KeyStatePendingImport)
	}
	key, err := s.openBlob(m, b, in.EncryptionContext)
	if err != nil {
		return none, nil, nil, errInvalidCiphertext(op, k.arn, nil)
	}
	return key, k, m, nil
}

// DescribeKey implements keysource.Keysource.
func (s *Store) DescribeKey(ctx context.Context, key keysource.KeyRef) (keysource.KeyMetadata, error) {
	var md keysource.KeyMetadata
	err := s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find("DescribeKey", key)
		if err == nil {
			md = s.describe(sn, k)
		}
		return err
	})
	return md, err
}
