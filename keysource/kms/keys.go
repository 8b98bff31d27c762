package kms

import (
	"context"
	"strconv"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// maxDescription is the limit of AWS KMS in characters.
const maxDescription = 8192

// CreateKey makes a customer managed CMK. Unless it is told to bypass the check, it refuses a key policy that would not
// let the caller change it again.
func (s *Service) CreateKey(ctx context.Context, c *Call, in *CreateKeyInput) (*CreateKeyOutput, error) {
	return serve(s, c, "CreateKey", in, func(r *request) (*CreateKeyOutput, error) {
		create, err := r.newKey(in)
		if err != nil {
			return nil, err
		}
		p := permission{action: r.op, tags: create.Tags, values: map[string][]string{
			"kms:keyorigin": {string(create.Origin)}, "kms:keyspec": {symmetric}, "kms:keyusage": {encryptDecrypt},
			"kms:multiregion":                    {"false"},
			"kms:bypasspolicylockoutsafetycheck": {strconv.FormatBool(in.BypassPolicyLockoutSafetyCheck)}}}
		if err := r.authorizeAccount("*", p); err != nil {
			return nil, err
		}
		if len(create.Tags) > 0 {
			p.action = "TagResource"
			if err := r.authorizeAccount("*", p); err != nil {
				return nil, err
			}
		}
		if !in.BypassPolicyLockoutSafetyCheck {
			if err := r.keepsAdministrator(create); err != nil {
				return nil, err
			}
		}
		md, err := s.store.CreateKey(ctx, create)
		if err != nil {
			return nil, err
		}
		r.concerns(md.ARN, md.AccountID)
		out := metadata(&local.Key{KeyMetadata: md})
		c.Audit.ResponseElements = map[string]any{"keyMetadata": out}
		return &CreateKeyOutput{KeyMetadata: out}, nil
	})
}

// newKey reads a CreateKeyInput.
func (r *request) newKey(in *CreateKeyInput) (keysource.CreateKeyInput, error) {
	create := keysource.CreateKeyInput{Description: in.Description, Origin: keysource.KeyOrigin(in.Origin), Policy: in.Policy}
	if create.Origin == "" {
		create.Origin = keysource.OriginAWSKMS
	}
	err := first(
		r.oneOf("KeyUsage", in.KeyUsage, encryptDecrypt, "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT"),
		r.oneOf("Origin", in.Origin, "AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"),
		r.length("Description", in.Description, maxDescription), r.policyForm(in.Policy))
	if err != nil {
		return create, err
	}
	for _, spec := range []string{in.KeySpec, in.CustomerMasterKeySpec} {
		if spec != "" && spec != symmetric {
			return create, r.refuse("", keysource.CodeUnsupported, "Only KeySpec SYMMETRIC_DEFAULT is supported.")
		}
	}
	switch {
	case in.KeySpec != "" && in.CustomerMasterKeySpec != "":
		return create, r.refuse("", keysource.CodeValidation, "You cannot specify KeySpec and CustomerMasterKeySpec in the same request.")
	case in.KeyUsage != "" && in.KeyUsage != encryptDecrypt:
		return create, r.refuse("", keysource.CodeUnsupported, "Only KeyUsage ENCRYPT_DECRYPT is supported.")
	case in.MultiRegion:
		return create, r.refuse("", keysource.CodeUnsupported, "Multi-Region keys are not supported.")
	case create.Origin != keysource.OriginAWSKMS && create.Origin != keysource.OriginExternal:
		return create, r.refuse("", keysource.CodeUnsupported, "Origin %s is not supported.", in.Origin)
	}
	if in.Policy != "" {
		if _, err := policy.Parse(in.Policy, policy.KeyPolicy); err != nil {
			return create, err
		}
	}
	create.Tags = tagsOf(in.Tags)
	return create, nil
}

// metadata describes a CMK as AWS does.
func metadata(k *local.Key) *KeyMetadata {
	md := &KeyMetadata{
		AWSAccountID: k.AccountID, KeyID: k.KeyID, ARN: k.ARN, CreationDate: newTime(k.CreationDate), Enabled: k.Enabled,
		Description: k.Description, KeyUsage: encryptDecrypt, KeyState: string(k.KeyState),
		DeletionDate: newTime(k.DeletionDate), Origin: string(k.Origin), KeyManager: string(k.KeyManager),
		CustomerMasterKeySpec: symmetric, KeySpec: symmetric, EncryptionAlgorithms: []string{symmetric},
		CurrentKeyMaterialID: k.CurrentKeyMaterialID,
	}
	if k.Origin == keysource.OriginExternal && k.CurrentKeyMaterialID != "" {
		md.ExpirationModel, md.ValidTo = expirationModel(newTime(k.ValidTo)), newTime(k.ValidTo)
	}
	return md
}

// DescribeKey describes a CMK in any state.
func (s *Service) DescribeKey(ctx context.Context, c *Call, in *DescribeKeyInput) (*DescribeKeyOutput, error) {
	return serve(s, c, "DescribeKey", in, func(r *request) (*DescribeKeyOutput, error) {
		if err := r.grantTokens(in.GrantTokens); err != nil {
			return nil, err
		}
		k, err := r.key(ctx, "KeyId", in.KeyID, byAlias)
		if err != nil {
			return nil, err
		}
		if err := r.authorize(k, permission{action: r.op, alias: requestAlias(in.KeyID)}); err != nil {
			return nil, err
		}
		return &DescribeKeyOutput{KeyMetadata: metadata(k)}, nil
	})
}

// ListKeys lists all CMKs of the account, by id.
func (s *Service) ListKeys(ctx context.Context, c *Call, in *ListKeysInput) (*ListKeysOutput, error) {
	return serve(s, c, "ListKeys", in, func(r *request) (*ListKeysOutput, error) {
		if err := r.authorizeAccount("*", permission{action: r.op}); err != nil {
			return nil, err
		}
		list, err := s.store.ListKeys(ctx)
		if err != nil {
			return nil, err
		}
		p, err := paged(r, list, func(k keysource.KeyListEntry) string { return k.KeyID }, in.Limit, 1000, 100, in.Marker)
		if err != nil {
			return nil, err
		}
		out := &ListKeysOutput{Keys: []KeyListEntry{}, NextMarker: p.next, Truncated: p.truncated}
		for _, k := range p.items {
			out.Keys = append(out.Keys, KeyListEntry{KeyID: k.KeyID, KeyARN: k.ARN})
		}
		return out, nil
	})
}

// UpdateKeyDescription replaces the description of a CMK.
func (s *Service) UpdateKeyDescription(ctx context.Context, c *Call, in *UpdateKeyDescriptionInput) (*NoOutput, error) {
	return serve(s, c, "UpdateKeyDescription", in, func(r *request) (*NoOutput, error) {
		if in.Description == nil {
			return nil, r.null("Description")
		}
		if err := r.length("Description", *in.Description, maxDescription); err != nil {
			return nil, err
		}
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		return done(s.store.UpdateKeyDescription(ctx, keysource.KeyRef(k.ARN), *in.Description))
	})
}

// administered finds the CMK of an administrative operation, may the caller and does the state of the CMK allow it. The
// permission is that of the operation.
func (r *request) administered(ctx context.Context, ref string, p permission) (*local.Key, error) {
	k, err := r.key(ctx, "KeyId", ref, byID)
	if err != nil {
		return nil, err
	}
	p.action = r.op
	return k, first(r.authorize(k, p), r.allowed(k))
}

// done is the answer of an operation that answers nothing.
func done(err error) (*NoOutput, error) {
	if err != nil {
		return nil, err
	}
	return &NoOutput{}, nil
}
