package kms

// PutKeyPolicyInput is the request of PutKeyPolicy.
type PutKeyPolicyInput struct {
	KeyID                          string `json:"KeyId,omitempty"`
	PolicyName                     string `json:"PolicyName,omitempty"`
	Policy                         string `json:"Policy,omitempty"`
	BypassPolicyLockoutSafetyCheck bool   `json:"BypassPolicyLockoutSafetyCheck,omitempty"`
}

// GetKeyPolicyInput is the request of GetKeyPolicy.
type GetKeyPolicyInput struct {
	KeyID      string `json:"KeyId,omitempty"`
	PolicyName string `json:"PolicyName,omitempty"`
}

// GetKeyPolicyOutput is the answer of GetKeyPolicy.
type GetKeyPolicyOutput struct {
	Policy     string `json:"Policy"`
	PolicyName string `json:"PolicyName,omitempty"`
}

// ListKeyPoliciesInput is the request of ListKeyPolicies.
type ListKeyPoliciesInput struct {
	KeyID  string `json:"KeyId,omitempty"`
	Limit  *int   `json:"Limit,omitempty"`
	Marker string `json:"Marker,omitempty"`
}

// ListKeyPoliciesOutput is the answer of ListKeyPolicies.
type ListKeyPoliciesOutput struct {
	PolicyNames []string `json:"PolicyNames"`
	NextMarker  string   `json:"NextMarker,omitempty"`
	Truncated   bool     `json:"Truncated"`
}

// CreateGrantInput is the request of CreateGrant.
type CreateGrantInput struct {
	KeyID             string            `json:"KeyId,omitempty"`
	GranteePrincipal  string            `json:"GranteePrincipal,omitempty"`
	RetiringPrincipal string            `json:"RetiringPrincipal,omitempty"`
	Operations        []string          `json:"Operations,omitempty"`
	Constraints       *GrantConstraints `json:"Constraints,omitempty"`
	GrantTokens       []string          `json:"GrantTokens,omitempty"`
	Name              string            `json:"Name,omitempty"`
	DryRun            bool              `json:"DryRun,omitempty"`
}

// CreateGrantOutput is the answer of CreateGrant.
type CreateGrantOutput struct {
	GrantToken string `json:"GrantToken,omitempty"`
	GrantID    string `json:"GrantId,omitempty"`
}

// ListGrantsInput is the request of ListGrants.
type ListGrantsInput struct {
	Limit            *int   `json:"Limit,omitempty"`
	Marker           string `json:"Marker,omitempty"`
	KeyID            string `json:"KeyId,omitempty"`
	GrantID          string `json:"GrantId,omitempty"`
	GranteePrincipal string `json:"GranteePrincipal,omitempty"`
}

// ListGrantsOutput is the answer of ListGrants.
type ListGrantsOutput struct {
	Grants     []GrantListEntry `json:"Grants"`
	NextMarker string           `json:"NextMarker,omitempty"`
	Truncated  bool             `json:"Truncated"`
}

// ListRetirableGrantsInput is the request of ListRetirableGrants.
type ListRetirableGrantsInput struct {
	Limit             *int   `json:"Limit,omitempty"`
	Marker            string `json:"Marker,omitempty"`
	RetiringPrincipal string `json:"RetiringPrincipal,omitempty"`
}

// ListRetirableGrantsOutput is the answer of ListRetirableGrants.
type ListRetirableGrantsOutput struct {
	Grants     []GrantListEntry `json:"Grants"`
	NextMarker string           `json:"NextMarker,omitempty"`
	Truncated  bool             `json:"Truncated"`
}

// RetireGrantInput is the request of RetireGrant.
type RetireGrantInput struct {
	GrantToken string `json:"GrantToken,omitempty"`
	KeyID      string `json:"KeyId,omitempty"`
	GrantID    string `json:"GrantId,omitempty"`
	DryRun     bool   `json:"DryRun,omitempty"`
}

// RevokeGrantInput is the request of RevokeGrant.
type RevokeGrantInput struct {
	KeyID   string `json:"KeyId,omitempty"`
	GrantID string `json:"GrantId,omitempty"`
	DryRun  bool   `json:"DryRun,omitempty"`
}

// GrantListEntry is a grant in the answers of ListGrants and ListRetirableGrants.
type GrantListEntry struct {
	KeyID             string            `json:"KeyId"`
	GrantID           string            `json:"GrantId,omitempty"`
	Name              string            `json:"Name,omitempty"`
	CreationDate      *Time             `json:"CreationDate,omitempty"`
	GranteePrincipal  string            `json:"GranteePrincipal,omitempty"`
	RetiringPrincipal string            `json:"RetiringPrincipal,omitempty"`
	IssuingAccount    string            `json:"IssuingAccount,omitempty"`
	Operations        []string          `json:"Operations"`
	Constraints       *GrantConstraints `json:"Constraints,omitempty"`
}

// GrantConstraints bounds a grant by the encryption context of the calls that it allows.
type GrantConstraints struct {
	EncryptionContextSubset map[string]string `json:"EncryptionContextSubset,omitempty"`
	EncryptionContextEquals map[string]string `json:"EncryptionContextEquals,omitempty"`
}

// TagResourceInput is the request of TagResource.
type TagResourceInput struct {
	KeyID string `json:"KeyId,omitempty"`
	Tags  []Tag  `json:"Tags,omitempty"`
}

// UntagResourceInput is the request of UntagResource.
type UntagResourceInput struct {
	KeyID   string   `json:"KeyId,omitempty"`
	TagKeys []string `json:"TagKeys,omitempty"`
}

// ListResourceTagsInput is the request of ListResourceTags.
type ListResourceTagsInput struct {
	KeyID  string `json:"KeyId,omitempty"`
	Limit  *int   `json:"Limit,omitempty"`
	Marker string `json:"Marker,omitempty"`
}

// ListResourceTagsOutput is the answer of ListResourceTags.
type ListResourceTagsOutput struct {
	Tags       []Tag  `json:"Tags"`
	NextMarker string `json:"NextMarker,omitempty"`
	Truncated  bool   `json:"Truncated"`
}

// Tag is a name and a value at a CMK.
type Tag struct {
	TagKey   string `json:"TagKey"`
	TagValue string `json:"TagValue"`
}
