package kms

import (
	"context"
	"regexp"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// The expiration models of imported key material.
const (
	expires       = "KEY_MATERIAL_EXPIRES"
	doesNotExpire = "KEY_MATERIAL_DOES_NOT_EXPIRE"
)

// maxValidTo is how far ahead the expiry of key material may be, as with AWS.
const maxValidTo = 365 * 24 * time.Hour

// Forms of AWS KMS.
var (
	materialIDForm          = regexp.MustCompile(`^[a-f0-9]{64}$`)
	materialDescriptionForm = regexp.MustCompile(`^[a-zA-Z0-9:/_\s.-]{0,256}$`)
)

// expirationModel is the model of key material that expires then, or never.
func expirationModel(validTo *Time) string {
	if validTo == nil {
		return doesNotExpire
	}
	return expires
}

// GetParametersForImport returns a public key to encrypt key material with, and the import token that goes with it.
func (s *Service) GetParametersForImport(ctx context.Context, c *Call, in *GetParametersForImportInput) (*GetParametersForImportOutput, error) {
	return serve(s, c, "GetParametersForImport", in, func(r *request) (*GetParametersForImportOutput, error) {
		if in.WrappingAlgorithm == "" {
			return nil, r.null("WrappingAlgorithm")
		}
		if in.WrappingKeySpec == "" {
			return nil, r.null("WrappingKeySpec")
		}
		k, err := r.administered(ctx, in.KeyID, permission{values: map[string][]string{
			"kms:wrappingalgorithm": {in.WrappingAlgorithm}, "kms:wrappingkeyspec": {in.WrappingKeySpec}}})
		if err != nil {
			return nil, err
		}
		p, err := s.store.GetParametersForImport(ctx, keysource.KeyRef(k.ARN), local.WrappingAlgorithm(in.WrappingAlgorithm),
			local.WrappingKeySpec(in.WrappingKeySpec))
		if err != nil {
			return nil, err
		}
		return &GetParametersForImportOutput{KeyID: p.KeyID, ImportToken: p.ImportToken, PublicKey: p.PublicKey,
			ParametersValidTo: newTime(p.ValidTo)}, nil
	})
}

// ImportKeyMaterial takes in key material that was encrypted with the public key of GetParametersForImport.
func (s *Service) ImportKeyMaterial(ctx context.Context, c *Call, in *ImportKeyMaterialInput) (*ImportKeyMaterialOutput, error) {
	return serve(s, c, "ImportKeyMaterial", in, func(r *request) (*ImportKeyMaterialOutput, error) {
		validTo, err := r.expiry(in)
		if err == nil {
			err = r.importForm(in)
		}
		if err != nil {
			return nil, err
		}
		p := permission{values: map[string][]string{"kms:expirationmodel": {in.ExpirationModel}}}
		if in.ExpirationModel == "" {
			p.values["kms:expirationmodel"] = []string{expires}
		}
		k, err := r.administered(ctx, in.KeyID, p)
		if err != nil {
			return nil, err
		}
		id, err := s.store.ImportWrappedKeyMaterial(ctx, keysource.ImportKeyMaterialInput{KeyID: keysource.KeyRef(k.ARN),
			ImportType: keysource.ImportType(in.ImportType), Description: in.KeyMaterialDescription, ValidTo: validTo,
			KeyMaterialID: in.KeyMaterialID}, in.ImportToken, in.EncryptedKeyMaterial)
		if err != nil {
			return nil, err
		}
		c.Audit.KeyMaterialID = id
		return &ImportKeyMaterialOutput{KeyID: k.ARN, KeyMaterialID: id}, nil
	})
}

// importForm checks the form of an ImportKeyMaterialInput.
func (r *request) importForm(in *ImportKeyMaterialInput) error {
	for _, blob := range []struct {
		member string
		value  []byte
	}{{"ImportToken", in.ImportToken}, {"EncryptedKeyMaterial", in.EncryptedKeyMaterial}} {
		switch {
		case len(blob.value) == 0:
			return r.null(blob.member)
		case len(blob.value) > keysource.MaxCiphertextBlobSize:
			return r.invalid(blob.member, "have length less than or equal to 6144")
		}
	}
	switch {
	case in.KeyMaterialID != "" && !materialIDForm.MatchString(in.KeyMaterialID):
		return r.invalid("KeyMaterialId", "satisfy regular expression pattern: ^[a-f0-9]+$")
	case in.KeyMaterialID != "" && in.ImportType == string(keysource.ImportNewKeyMaterial):
		return r.invalid("KeyMaterialId", "not be given with ImportType NEW_KEY_MATERIAL")
	case !materialDescriptionForm.MatchString(in.KeyMaterialDescription):
		return r.invalid("KeyMaterialDescription", "satisfy regular expression pattern: ^[a-zA-Z0-9:/_\\s.-]+$")
	}
	return r.oneOf("ImportType", in.ImportType, string(keysource.ImportNewKeyMaterial), string(keysource.ImportExistingKeyMaterial))
}

// expiry is when the key material shall expire, or zero.
func (r *request) expiry(in *ImportKeyMaterialInput) (time.Time, error) {
	if err := r.oneOf("ExpirationModel", in.ExpirationModel, expires, doesNotExpire); err != nil {
		return time.Time{}, err
	}
	never := in.ExpirationModel == doesNotExpire
	switch now := r.s.cfg.Clock.Now(); {
	case never && in.ValidTo != nil:
		return time.Time{}, r.invalid("ValidTo", "not be given with KEY_MATERIAL_DOES_NOT_EXPIRE")
	case never:
		return time.Time{}, nil
	case in.ValidTo == nil:
		return time.Time{}, r.refuse("", keysource.CodeValidation,
			"A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES, which is the default.")
	case !in.ValidTo.After(now) || in.ValidTo.After(now.Add(maxValidTo)):
		return time.Time{}, r.invalid("ValidTo", "be in the future, and at most 365 days away")
	}
	return in.ValidTo.Time, nil
}

// DeleteImportedKeyMaterial deletes imported key material: the current one, or the one that is named.
func (s *Service) DeleteImportedKeyMaterial(ctx context.Context, c *Call, in *DeleteImportedKeyMaterialInput) (*DeleteImportedKeyMaterialOutput, error) {
	return serve(s, c, "DeleteImportedKeyMaterial", in, func(r *request) (*DeleteImportedKeyMaterialOutput, error) {
		if in.KeyMaterialID != "" && !materialIDForm.MatchString(in.KeyMaterialID) {
			return nil, r.invalid("KeyMaterialId", "satisfy regular expression pattern: ^[a-f0-9]+$")
		}
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		id, err := s.store.DeleteImportedKeyMaterial(ctx, keysource.KeyRef(k.ARN), in.KeyMaterialID)
		if err != nil {
			return nil, err
		}
		c.Audit.KeyMaterialID = id
		return &DeleteImportedKeyMaterialOutput{KeyID: k.ARN, KeyMaterialID: id}, nil
	})
}
