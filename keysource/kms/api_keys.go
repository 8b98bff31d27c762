package kms

// CreateKeyInput is the request of CreateKey.
type CreateKeyInput struct {
	Policy                         string `json:"Policy,omitempty"`
	Description                    string `json:"Description,omitempty"`
	KeyUsage                       string `json:"KeyUsage,omitempty"`
	CustomerMasterKeySpec          string `json:"CustomerMasterKeySpec,omitempty"`
	KeySpec                        string `json:"KeySpec,omitempty"`
	Origin                         string `json:"Origin,omitempty"`
	BypassPolicyLockoutSafetyCheck bool   `json:"BypassPolicyLockoutSafetyCheck,omitempty"`
	Tags                           []Tag  `json:"Tags,omitempty"`
	MultiRegion                    bool   `json:"MultiRegion,omitempty"`
}

// CreateKeyOutput is the answer of CreateKey.
type CreateKeyOutput struct {
	KeyMetadata *KeyMetadata `json:"KeyMetadata,omitempty"`
}

// DescribeKeyInput is the request of DescribeKey.
type DescribeKeyInput struct {
	KeyID       string   `json:"KeyId,omitempty"`
	GrantTokens []string `json:"GrantTokens,omitempty"`
}

// DescribeKeyOutput is the answer of DescribeKey.
type DescribeKeyOutput struct {
	KeyMetadata *KeyMetadata `json:"KeyMetadata,omitempty"`
}

// ListKeysInput is the request of ListKeys.
type ListKeysInput struct {
	Limit  *int   `json:"Limit,omitempty"`
	Marker string `json:"Marker,omitempty"`
}

// ListKeysOutput is the answer of ListKeys.
type ListKeysOutput struct {
	Keys       []KeyListEntry `json:"Keys"`
	NextMarker string         `json:"NextMarker,omitempty"`
	Truncated  bool           `json:"Truncated"`
}

// UpdateKeyDescriptionInput is the request of UpdateKeyDescription.
type UpdateKeyDescriptionInput struct {
	KeyID       string  `json:"KeyId,omitempty"`
	Description *string `json:"Description,omitempty"`
}

// KeyMetadata describes a CMK.
type KeyMetadata struct {
	AWSAccountID          string   `json:"AWSAccountId,omitempty"`
	KeyID                 string   `json:"KeyId"`
	ARN                   string   `json:"Arn,omitempty"`
	CreationDate          *Time    `json:"CreationDate,omitempty"`
	Enabled               bool     `json:"Enabled"`
	Description           string   `json:"Description"`
	KeyUsage              string   `json:"KeyUsage,omitempty"`
	KeyState              string   `json:"KeyState,omitempty"`
	DeletionDate          *Time    `json:"DeletionDate,omitempty"`
	ValidTo               *Time    `json:"ValidTo,omitempty"`
	Origin                string   `json:"Origin,omitempty"`
	ExpirationModel       string   `json:"ExpirationModel,omitempty"`
	KeyManager            string   `json:"KeyManager,omitempty"`
	CustomerMasterKeySpec string   `json:"CustomerMasterKeySpec,omitempty"`
	KeySpec               string   `json:"KeySpec,omitempty"`
	EncryptionAlgorithms  []string `json:"EncryptionAlgorithms"`
	MultiRegion           bool     `json:"MultiRegion"`
	CurrentKeyMaterialID  string   `json:"CurrentKeyMaterialId,omitempty"`
}

// KeyListEntry is a CMK in the answer of ListKeys.
type KeyListEntry struct {
	KeyID  string `json:"KeyId"`
	KeyARN string `json:"KeyArn,omitempty"`
}

// CreateAliasInput is the request of CreateAlias.
type CreateAliasInput struct {
	AliasName   string `json:"AliasName,omitempty"`
	TargetKeyID string `json:"TargetKeyId,omitempty"`
}

// UpdateAliasInput is the request of UpdateAlias.
type UpdateAliasInput struct {
	AliasName   string `json:"AliasName,omitempty"`
	TargetKeyID string `json:"TargetKeyId,omitempty"`
}

// DeleteAliasInput is the request of DeleteAlias.
type DeleteAliasInput struct {
	AliasName string `json:"AliasName,omitempty"`
}

// ListAliasesInput is the request of ListAliases.
type ListAliasesInput struct {
	KeyID  string `json:"KeyId,omitempty"`
	Limit  *int   `json:"Limit,omitempty"`
	Marker string `json:"Marker,omitempty"`
}

// ListAliasesOutput is the answer of ListAliases.
type ListAliasesOutput struct {
	Aliases    []AliasListEntry `json:"Aliases"`
	NextMarker string           `json:"NextMarker,omitempty"`
	Truncated  bool             `json:"Truncated"`
}

// AliasListEntry is an alias in the answer of ListAliases.
type AliasListEntry struct {
	AliasName       string `json:"AliasName,omitempty"`
	AliasARN        string `json:"AliasArn,omitempty"`
	TargetKeyID     string `json:"TargetKeyId,omitempty"`
	CreationDate    *Time  `json:"CreationDate,omitempty"`
	LastUpdatedDate *Time  `json:"LastUpdatedDate,omitempty"`
}

// EnableKeyInput is the request of EnableKey.
type EnableKeyInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// DisableKeyInput is the request of DisableKey.
type DisableKeyInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// ScheduleKeyDeletionInput is the request of ScheduleKeyDeletion.
type ScheduleKeyDeletionInput struct {
	KeyID               string `json:"KeyId,omitempty"`
	PendingWindowInDays *int   `json:"PendingWindowInDays,omitempty"`
}

// ScheduleKeyDeletionOutput is the answer of ScheduleKeyDeletion.
type ScheduleKeyDeletionOutput struct {
	KeyID               string `json:"KeyId"`
	DeletionDate        *Time  `json:"DeletionDate,omitempty"`
	KeyState            string `json:"KeyState,omitempty"`
	PendingWindowInDays int    `json:"PendingWindowInDays,omitempty"`
}

// CancelKeyDeletionInput is the request of CancelKeyDeletion.
type CancelKeyDeletionInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// CancelKeyDeletionOutput is the answer of CancelKeyDeletion.
type CancelKeyDeletionOutput struct {
	KeyID string `json:"KeyId"`
}
