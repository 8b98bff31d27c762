package kms

import (
	"context"

	"kmsfs/keysource"
)

// Encrypt is the operation of AWS KMS of that name.
func (s *Service) Encrypt(ctx context.Context, c *Call, in *EncryptInput) (*EncryptOutput, error) {
	return nil, errNotYet("Encrypt")
}

// Decrypt is the operation of AWS KMS of that name.
func (s *Service) Decrypt(ctx context.Context, c *Call, in *DecryptInput) (*DecryptOutput, error) {
	return nil, errNotYet("Decrypt")
}

// ReEncrypt is the operation of AWS KMS of that name.
func (s *Service) ReEncrypt(ctx context.Context, c *Call, in *ReEncryptInput) (*ReEncryptOutput, error) {
	return nil, errNotYet("ReEncrypt")
}

// GenerateDataKey is the operation of AWS KMS of that name.
func (s *Service) GenerateDataKey(ctx context.Context, c *Call, in *GenerateDataKeyInput) (*GenerateDataKeyOutput, error) {
	return nil, errNotYet("GenerateDataKey")
}

// GenerateDataKeyWithoutPlaintext is the operation of AWS KMS of that name.
func (s *Service) GenerateDataKeyWithoutPlaintext(ctx context.Context, c *Call, in *GenerateDataKeyWithoutPlaintextInput) (*GenerateDataKeyWithoutPlaintextOutput, error) {
	return nil, errNotYet("GenerateDataKeyWithoutPlaintext")
}

// GenerateRandom is the operation of AWS KMS of that name.
func (s *Service) GenerateRandom(ctx context.Context, c *Call, in *GenerateRandomInput) (*GenerateRandomOutput, error) {
	return nil, errNotYet("GenerateRandom")
}

// CreateKey is the operation of AWS KMS of that name.
func (s *Service) CreateKey(ctx context.Context, c *Call, in *CreateKeyInput) (*CreateKeyOutput, error) {
	return nil, errNotYet("CreateKey")
}

// DescribeKey is the operation of AWS KMS of that name.
func (s *Service) DescribeKey(ctx context.Context, c *Call, in *DescribeKeyInput) (*DescribeKeyOutput, error) {
	return nil, errNotYet("DescribeKey")
}

// ListKeys is the operation of AWS KMS of that name.
func (s *Service) ListKeys(ctx context.Context, c *Call, in *ListKeysInput) (*ListKeysOutput, error) {
	return nil, errNotYet("ListKeys")
}

// UpdateKeyDescription is the operation of AWS KMS of that name.
func (s *Service) UpdateKeyDescription(ctx context.Context, c *Call, in *UpdateKeyDescriptionInput) (*NoOutput, error) {
	return nil, errNotYet("UpdateKeyDescription")
}

// CreateAlias is the operation of AWS KMS of that name.
func (s *Service) CreateAlias(ctx context.Context, c *Call, in *CreateAliasInput) (*NoOutput, error) {
	return nil, errNotYet("CreateAlias")
}

// UpdateAlias is the operation of AWS KMS of that name.
func (s *Service) UpdateAlias(ctx context.Context, c *Call, in *UpdateAliasInput) (*NoOutput, error) {
	return nil, errNotYet("UpdateAlias")
}

// DeleteAlias is the operation of AWS KMS of that name.
func (s *Service) DeleteAlias(ctx context.Context, c *Call, in *DeleteAliasInput) (*NoOutput, error) {
	return nil, errNotYet("DeleteAlias")
}

// ListAliases is the operation of AWS KMS of that name.
func (s *Service) ListAliases(ctx context.Context, c *Call, in *ListAliasesInput) (*ListAliasesOutput, error) {
	return nil, errNotYet("ListAliases")
}

// EnableKey is the operation of AWS KMS of that name.
func (s *Service) EnableKey(ctx context.Context, c *Call, in *EnableKeyInput) (*NoOutput, error) {
	return nil, errNotYet("EnableKey")
}

// DisableKey is the operation of AWS KMS of that name.
func (s *Service) DisableKey(ctx context.Context, c *Call, in *DisableKeyInput) (*NoOutput, error) {
	return nil, errNotYet("DisableKey")
}

// ScheduleKeyDeletion is the operation of AWS KMS of that name.
func (s *Service) ScheduleKeyDeletion(ctx context.Context, c *Call, in *ScheduleKeyDeletionInput) (*ScheduleKeyDeletionOutput, error) {
	return nil, errNotYet("ScheduleKeyDeletion")
}

// CancelKeyDeletion is the operation of AWS KMS of that name.
func (s *Service) CancelKeyDeletion(ctx context.Context, c *Call, in *CancelKeyDeletionInput) (*CancelKeyDeletionOutput, error) {
	return nil, errNotYet("CancelKeyDeletion")
}

// EnableKeyRotation is the operation of AWS KMS of that name.
func (s *Service) EnableKeyRotation(ctx context.Context, c *Call, in *EnableKeyRotationInput) (*NoOutput, error) {
	return nil, errNotYet("EnableKeyRotation")
}

// DisableKeyRotation is the operation of AWS KMS of that name.
func (s *Service) DisableKeyRotation(ctx context.Context, c *Call, in *DisableKeyRotationInput) (*NoOutput, error) {
	return nil, errNotYet("DisableKeyRotation")
}

// GetKeyRotationStatus is the operation of AWS KMS of that name.
func (s *Service) GetKeyRotationStatus(ctx context.Context, c *Call, in *GetKeyRotationStatusInput) (*GetKeyRotationStatusOutput, error) {
	return nil, errNotYet("GetKeyRotationStatus")
}

// RotateKeyOnDemand is the operation of AWS KMS of that name.
func (s *Service) RotateKeyOnDemand(ctx context.Context, c *Call, in *RotateKeyOnDemandInput) (*RotateKeyOnDemandOutput, error) {
	return nil, errNotYet("RotateKeyOnDemand")
}

// ListKeyRotations is the operation of AWS KMS of that name.
func (s *Service) ListKeyRotations(ctx context.Context, c *Call, in *ListKeyRotationsInput) (*ListKeyRotationsOutput, error) {
	return nil, errNotYet("ListKeyRotations")
}

// GetParametersForImport is the operation of AWS KMS of that name.
func (s *Service) GetParametersForImport(ctx context.Context, c *Call, in *GetParametersForImportInput) (*GetParametersForImportOutput, error) {
	return nil, errNotYet("GetParametersForImport")
}

// ImportKeyMaterial is the operation of AWS KMS of that name.
func (s *Service) ImportKeyMaterial(ctx context.Context, c *Call, in *ImportKeyMaterialInput) (*ImportKeyMaterialOutput, error) {
	return nil, errNotYet("ImportKeyMaterial")
}

// DeleteImportedKeyMaterial is the operation of AWS KMS of that name.
func (s *Service) DeleteImportedKeyMaterial(ctx context.Context, c *Call, in *DeleteImportedKeyMaterialInput) (*DeleteImportedKeyMaterialOutput, error) {
	return nil, errNotYet("DeleteImportedKeyMaterial")
}

// PutKeyPolicy is the operation of AWS KMS of that name.
func (s *Service) PutKeyPolicy(ctx context.Context, c *Call, in *PutKeyPolicyInput) (*NoOutput, error) {
	return nil, errNotYet("PutKeyPolicy")
}

// GetKeyPolicy is the operation of AWS KMS of that name.
func (s *Service) GetKeyPolicy(ctx context.Context, c *Call, in *GetKeyPolicyInput) (*GetKeyPolicyOutput, error) {
	return nil, errNotYet("GetKeyPolicy")
}

// ListKeyPolicies is the operation of AWS KMS of that name.
func (s *Service) ListKeyPolicies(ctx context.Context, c *Call, in *ListKeyPoliciesInput) (*ListKeyPoliciesOutput, error) {
	return nil, errNotYet("ListKeyPolicies")
}

// CreateGrant is the operation of AWS KMS of that name.
func (s *Service) CreateGrant(ctx context.Context, c *Call, in *CreateGrantInput) (*CreateGrantOutput, error) {
	return nil, errNotYet("CreateGrant")
}

// ListGrants is the operation of AWS KMS of that name.
func (s *Service) ListGrants(ctx context.Context, c *Call, in *ListGrantsInput) (*ListGrantsOutput, error) {
	return nil, errNotYet("ListGrants")
}

// ListRetirableGrants is the operation of AWS KMS of that name.
func (s *Service) ListRetirableGrants(ctx context.Context, c *Call, in *ListRetirableGrantsInput) (*ListRetirableGrantsOutput, error) {
	return nil, errNotYet("ListRetirableGrants")
}

// RetireGrant is the operation of AWS KMS of that name.
func (s *Service) RetireGrant(ctx context.Context, c *Call, in *RetireGrantInput) (*NoOutput, error) {
	return nil, errNotYet("RetireGrant")
}

// RevokeGrant is the operation of AWS KMS of that name.
func (s *Service) RevokeGrant(ctx context.Context, c *Call, in *RevokeGrantInput) (*NoOutput, error) {
	return nil, errNotYet("RevokeGrant")
}

// TagResource is the operation of AWS KMS of that name.
func (s *Service) TagResource(ctx context.Context, c *Call, in *TagResourceInput) (*NoOutput, error) {
	return nil, errNotYet("TagResource")
}

// UntagResource is the operation of AWS KMS of that name.
func (s *Service) UntagResource(ctx context.Context, c *Call, in *UntagResourceInput) (*NoOutput, error) {
	return nil, errNotYet("UntagResource")
}

// ListResourceTags is the operation of AWS KMS of that name.
func (s *Service) ListResourceTags(ctx context.Context, c *Call, in *ListResourceTagsInput) (*ListResourceTagsOutput, error) {
	return nil, errNotYet("ListResourceTags")
}

// GetKeyLastUsage is the operation of AWS KMS of that name.
func (s *Service) GetKeyLastUsage(ctx context.Context, c *Call, in *GetKeyLastUsageInput) (*GetKeyLastUsageOutput, error) {
	return nil, errNotYet("GetKeyLastUsage")
}

// errNotYet is for operations that are still to come.
func errNotYet(op string) error {
	return keysource.NewError(op, "", keysource.CodeUnsupported, op+" is not supported yet.")
}
