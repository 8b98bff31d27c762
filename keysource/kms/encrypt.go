package kms

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// What all CMKs here are.
const (
	symmetric      = "SYMMETRIC_DEFAULT"
	encryptDecrypt = "ENCRYPT_DECRYPT"
)

// algorithms are the encryption algorithms of AWS KMS; only the first is supported.
var algorithms = []string{symmetric, "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"}

// ignoreCiphertext is the DryRunModifier that tests permissions without a wrapped key.
const ignoreCiphertext = "IGNORE_CIPHERTEXT"

// Encrypt wraps 1 to 4096 bytes. The caller of this method still owns in.Plaintext.
func (s *Service) Encrypt(ctx context.Context, c *Call, in *EncryptInput) (*EncryptOutput, error) {
	return serve(s, c, "Encrypt", in, func(r *request) (*EncryptOutput, error) {
		err := first(r.algorithm("EncryptionAlgorithm", in.EncryptionAlgorithm), r.grantTokens(in.GrantTokens),
			r.plaintext(in.Plaintext), keysource.Context(in.EncryptionContext).Validate())
		if err != nil {
			return nil, err
		}
		k, err := r.usable(ctx, "KeyId", in.KeyID, permission{action: "Encrypt", context: in.EncryptionContext})
		if err != nil {
			return nil, err
		}
		if in.DryRun {
			return nil, r.dryRun(k)
		}
		out, err := s.store.Encrypt(ctx, keysource.KeyRef(k.ARN), in.Plaintext, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		r.used(out.KeyID)
		c.Audit.KeyMaterialID = out.KeyMaterialID
		return &EncryptOutput{CiphertextBlob: out.CiphertextBlob, KeyID: out.KeyID, EncryptionAlgorithm: symmetric}, nil
	})
}

// Decrypt opens a wrapped key or ciphertext. Wipe the answer when done.
func (s *Service) Decrypt(ctx context.Context, c *Call, in *DecryptInput) (*DecryptOutput, error) {
	return serve(s, c, "Decrypt", in, func(r *request) (*DecryptOutput, error) {
		err := first(r.algorithm("EncryptionAlgorithm", in.EncryptionAlgorithm), r.grantTokens(in.GrantTokens),
			r.recipient(in.Recipient), r.modifiers(in.DryRun, in.DryRunModifiers),
			keysource.Context(in.EncryptionContext).Validate())
		if err != nil {
			return nil, err
		}
		blind := slices.Contains(in.DryRunModifiers, ignoreCiphertext)
		ref, err := r.wrappingKey(in.KeyID, in.CiphertextBlob, blind)
		if err != nil {
			return nil, err
		}
		k, err := r.usable(ctx, "KeyId", ref, permission{action: "Decrypt", context: in.EncryptionContext})
		if err != nil {
			return nil, r.noSuchKey(in.KeyID, err)
		}
		if blind {
			return nil, r.dryRun(k)
		}
		out, err := s.store.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: in.CiphertextBlob,
			EncryptionContext: in.EncryptionContext, KeyID: keysource.KeyRef(k.ARN)})
		if err != nil {
			return nil, err
		}
		c.Audit.KeyMaterialID = out.KeyMaterialID
		if in.DryRun {
			out.Plaintext.Wipe()
			return nil, r.dryRun(k)
		}
		r.used(out.KeyID)
		return &DecryptOutput{KeyID: out.KeyID, Plaintext: out.Plaintext.Bytes(), EncryptionAlgorithm: symmetric,
			KeyMaterialID: out.KeyMaterialID}, nil
	})
}

// ReEncrypt wraps the same plaintext anew. It needs ReEncryptFrom on the old CMK and ReEncryptTo on the new one.
func (s *Service) ReEncrypt(ctx context.Context, c *Call, in *ReEncryptInput) (*ReEncryptOutput, error) {
	return serve(s, c, "ReEncrypt", in, func(r *request) (*ReEncryptOutput, error) {
		err := first(r.algorithm("SourceEncryptionAlgorithm", in.SourceEncryptionAlgorithm),
			r.algorithm("DestinationEncryptionAlgorithm", in.DestinationEncryptionAlgorithm), r.grantTokens(in.GrantTokens),
			r.modifiers(in.DryRun, in.DryRunModifiers), keysource.Context(in.SourceEncryptionContext).Validate(),
			keysource.Context(in.DestinationEncryptionContext).Validate())
		if err != nil {
			return nil, err
		}
		if in.DestinationKeyID == "" {
			return nil, r.null("DestinationKeyId")
		}
		blind := slices.Contains(in.DryRunModifiers, ignoreCiphertext)
		ref, err := r.wrappingKey(in.SourceKeyID, in.CiphertextBlob, blind)
		if err != nil {
			return nil, err
		}
		src, dst, err := r.reencrypting(ctx, in, ref)
		if err != nil {
			return nil, err
		}
		if blind {
			return nil, r.dryRun(dst)
		}
		out, err := s.store.ReEncrypt(ctx, keysource.ReEncryptInput{CiphertextBlob: in.CiphertextBlob,
			SourceEncryptionContext: in.SourceEncryptionContext, SourceKeyID: keysource.KeyRef(src.ARN),
			DestinationKeyID: keysource.KeyRef(dst.ARN), DestinationEncryptionContext: in.DestinationEncryptionContext})
		if err != nil {
			return nil, err
		}
		c.Audit.SourceKeyMaterialID, c.Audit.DestinationKeyMaterialID = out.SourceKeyMaterialID, out.KeyMaterialID
		if in.DryRun {
			return nil, r.dryRun(dst)
		}
		r.used(out.SourceKeyID)
		r.used(out.KeyID)
		return &ReEncryptOutput{CiphertextBlob: out.CiphertextBlob, SourceKeyID: out.SourceKeyID, KeyID: out.KeyID,
			SourceEncryptionAlgorithm: symmetric, DestinationEncryptionAlgorithm: symmetric,
			SourceKeyMaterialID: out.SourceKeyMaterialID, DestinationKeyMaterialID: out.KeyMaterialID}, nil
	})
}

// reencrypting finds both CMKs of a ReEncrypt, may they be used.
func (r *request) reencrypting(ctx context.Context, in *ReEncryptInput, source string) (src, dst *local.Key, err error) {
	if src, err = r.key(ctx, "SourceKeyId", source, byAlias); err != nil {
		return nil, nil, r.noSuchKey(in.SourceKeyID, err)
	}
	if dst, err = r.key(ctx, "DestinationKeyId", in.DestinationKeyID, byAlias); err != nil {
		return nil, nil, err
	}
	same := map[string][]string{"kms:reencryptonsamekey": {strconv.FormatBool(src.ARN == dst.ARN)}}
	return src, dst, first(
		r.authorize(src, permission{action: "ReEncryptFrom", cryptographic: true, context: in.SourceEncryptionContext,
			alias: requestAlias(in.SourceKeyID), values: same}),
		r.authorize(dst, permission{action: "ReEncryptTo", cryptographic: true, context: in.DestinationEncryptionContext,
			alias: requestAlias(in.DestinationKeyID), values: same}),
		r.allowed(src), r.allowed(dst))
}

// usable finds the CMK of a cryptographic operation, may it be used.
func (r *request) usable(ctx context.Context, member, ref string, p permission) (*local.Key, error) {
	k, err := r.key(ctx, member, ref, byAlias)
	if err != nil {
		return nil, err
	}
	p.cryptographic, p.alias = true, requestAlias(ref)
	return k, first(r.authorize(k, p), r.allowed(k))
}

// wrappingKey names the CMK that is to open a ciphertext: the one that the caller names, or the one in the ciphertext.
// blind is a dry run without a ciphertext.
func (r *request) wrappingKey(named string, blob []byte, blind bool) (string, error) {
	switch {
	case blind && named == "":
		return "", r.invalid("KeyId", "be given with IGNORE_CIPHERTEXT")
	case blind:
		return named, nil
	case len(blob) == 0:
		return "", r.null("CiphertextBlob")
	case len(blob) > keysource.MaxCiphertextBlobSize:
		return "", r.invalid("CiphertextBlob", "have length less than or equal to 6144")
	case named != "":
		return named, nil
	}
	return local.BlobKey(blob)
}

// noSuchKey makes of a CMK that is not found, but was not named by the caller either, a ciphertext that is not valid here.
func (r *request) noSuchKey(named string, err error) error {
	if named == "" && errors.Is(err, keysource.ErrNotFound) {
		return &keysource.Error{Op: r.op, Code: keysource.CodeInvalidCiphertext, Kind: keysource.ErrInvalidCiphertext,
			Message: "The ciphertext refers to a key that does not exist here.", Err: err}
	}
	return err
}

// algorithm refuses an encryption algorithm that is not known, or not that of the CMKs here.
func (r *request) algorithm(member, value string) error {
	if err := r.oneOf(member, value, algorithms...); err != nil || value == "" || value == symmetric {
		return err
	}
	return r.refuse("", keysource.CodeInvalidKeyUsage, "%s is not an encryption algorithm of symmetric keys.", value)
}

// plaintext bounds what Encrypt takes.
func (r *request) plaintext(b Secret) error {
	switch {
	case b == nil:
		return r.null("Plaintext")
	case len(b) == 0:
		return r.invalid("Plaintext", "have length greater than or equal to 1")
	case len(b) > keysource.MaxPlaintextSize:
		return r.invalid("Plaintext", "have length less than or equal to 4096")
	}
	return nil
}

// recipient refuses what only Nitro enclaves ask for.
func (r *request) recipient(in *RecipientInfo) error {
	if in == nil {
		return nil
	}
	return r.refuse("", keysource.CodeUnsupported, "Recipient is not supported.")
}

// modifiers refuses unknown DryRunModifiers, and those without a dry run.
func (r *request) modifiers(dryRun bool, list []string) error {
	for _, m := range list {
		if err := r.oneOf("DryRunModifiers", m, ignoreCiphertext); err != nil {
			return err
		}
	}
	if len(list) > 0 && !dryRun {
		return r.invalid("DryRunModifiers", "not be used without DryRun")
	}
	return nil
}

// dryRun is the answer to a dry run that would have succeeded.
func (r *request) dryRun(k *local.Key) error {
	return r.refuse(k.ARN, keysource.CodeDryRun, "The request would have succeeded, but the DryRun option is set.")
}
