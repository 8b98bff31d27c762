package kms

import (
	"context"

	"kmsfs/keysource"
)

// GenerateDataKey makes a data key, in plaintext and wrapped. Wipe the answer when done.
func (s *Service) GenerateDataKey(ctx context.Context, c *Call, in *GenerateDataKeyInput) (*GenerateDataKeyOutput, error) {
	return serve(s, c, "GenerateDataKey", in, func(r *request) (*GenerateDataKeyOutput, error) {
		if err := r.recipient(in.Recipient); err != nil {
			return nil, err
		}
		k, err := r.dataKey(ctx, &GenerateDataKeyWithoutPlaintextInput{KeyID: in.KeyID, EncryptionContext: in.EncryptionContext,
			KeySpec: in.KeySpec, NumberOfBytes: in.NumberOfBytes, GrantTokens: in.GrantTokens, DryRun: in.DryRun})
		if err != nil {
			return nil, err
		}
		return &GenerateDataKeyOutput{CiphertextBlob: k.CiphertextBlob, Plaintext: k.Plaintext.Bytes(), KeyID: k.KeyID,
			KeyMaterialID: k.KeyMaterialID}, nil
	})
}

// GenerateDataKeyWithoutPlaintext makes a data key that only the CMK can open.
func (s *Service) GenerateDataKeyWithoutPlaintext(ctx context.Context, c *Call, in *GenerateDataKeyWithoutPlaintextInput) (*GenerateDataKeyWithoutPlaintextOutput, error) {
	return serve(s, c, "GenerateDataKeyWithoutPlaintext", in, func(r *request) (*GenerateDataKeyWithoutPlaintextOutput, error) {
		k, err := r.dataKey(ctx, in)
		if err != nil {
			return nil, err
		}
		k.Plaintext.Wipe()
		return &GenerateDataKeyWithoutPlaintextOutput{CiphertextBlob: k.CiphertextBlob, KeyID: k.KeyID,
			KeyMaterialID: k.KeyMaterialID}, nil
	})
}

// dataKey makes a data key for either operation.
func (r *request) dataKey(ctx context.Context, in *GenerateDataKeyWithoutPlaintextInput) (keysource.DataKey, error) {
	n, err := r.dataKeySize(in.KeySpec, in.NumberOfBytes)
	if err := first(err, r.grantTokens(in.GrantTokens), keysource.Context(in.EncryptionContext).Validate()); err != nil {
		return keysource.DataKey{}, err
	}
	k, err := r.usable(ctx, "KeyId", in.KeyID, permission{action: r.op, context: in.EncryptionContext})
	if err != nil {
		return keysource.DataKey{}, err
	}
	if in.DryRun {
		return keysource.DataKey{}, r.dryRun(k)
	}
	out, err := r.s.store.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: keysource.KeyRef(k.ARN),
		EncryptionContext: in.EncryptionContext, NumberOfBytes: n})
	if err != nil {
		return keysource.DataKey{}, err
	}
	r.used(out.KeyID)
	r.c.Audit.KeyMaterialID = out.KeyMaterialID
	return out, nil
}

// dataKeySize is the size of a data key, by its spec or its number of bytes.
func (r *request) dataKeySize(spec string, n *int) (int, error) {
	if err := r.oneOf("KeySpec", spec, "AES_256", "AES_128"); err != nil {
		return 0, err
	}
	switch {
	case (spec == "") == (n == nil):
		return 0, r.refuse("", keysource.CodeValidation, "Please specify either number of bytes or key spec.")
	case spec == "AES_256":
		return 32, nil
	case spec == "AES_128":
		return 16, nil
	}
	return *n, r.randomSize(*n)
}

// randomSize bounds NumberOfBytes.
func (r *request) randomSize(n int) error {
	if n < 1 || n > keysource.MaxDataKeySize {
		return r.invalid("NumberOfBytes", "have value between 1 and 1024")
	}
	return nil
}

// GenerateRandom returns random bytes. Wipe the answer when done.
func (s *Service) GenerateRandom(ctx context.Context, c *Call, in *GenerateRandomInput) (*GenerateRandomOutput, error) {
	return serve(s, c, "GenerateRandom", in, func(r *request) (*GenerateRandomOutput, error) {
		if in.NumberOfBytes == nil {
			return nil, r.null("NumberOfBytes")
		}
		err := first(r.randomSize(*in.NumberOfBytes), r.recipient(in.Recipient))
		if err == nil && in.CustomKeyStoreID != "" {
			err = r.refuse("", keysource.CodeUnsupported, "Custom key stores are not supported.")
		}
		if err == nil {
			err = r.authorizeAccount("*", permission{action: r.op})
		}
		if err != nil {
			return nil, err
		}
		b, err := s.store.GenerateRandom(ctx, *in.NumberOfBytes)
		if err != nil {
			return nil, err
		}
		return &GenerateRandomOutput{Plaintext: b.Bytes()}, nil
	})
}
