package keysource

import (
	"io"
	"time"
)

// CreateKeyInput is the request of CreateKey.
type CreateKeyInput struct {
	// Description is the customer's text, up to 8192 bytes of UTF-8.
	Description string
	// Origin is OriginAWSKMS (also when empty) or OriginExternal; the latter makes a CMK without key material, in
	// KeyStatePendingImport.
	Origin KeyOrigin
	// Policy is the key policy; empty is the default one, which leaves all to the identity policies of the account.
	Policy string
	// Tags are the tags, no two of one key.
	Tags []Tag
}

// ImportType says whether ImportKeyMaterial brings new material or material that the CMK already had.
type ImportType string

// The import types.
const (
	// ImportExistingKeyMaterial brings the same material again; the default once a CMK has material.
	ImportExistingKeyMaterial ImportType = "EXISTING_KEY_MATERIAL"
	// ImportNewKeyMaterial brings further material, which the next RotateKeyOnDemand makes current.
	ImportNewKeyMaterial ImportType = "NEW_KEY_MATERIAL"
)

// ImportKeyMaterialInput is the request of ImportKeyMaterial in plain form, for an administrator on the key store's
// own machine.
type ImportKeyMaterialInput struct {
	// KeyID is a CMK of origin EXTERNAL.
	KeyID KeyRef
	// Material yields exactly 32 bytes and then ends.
	Material io.Reader
	// ImportType is empty for the default: new material for a CMK that has none, else existing.
	ImportType ImportType
	// Description is the customer's text for this material, up to 256 bytes of UTF-8; empty keeps that of existing
	// material.
	Description string
	// ValidTo is when the material expires: it is then deleted, and the CMK unusable until the same is imported again.
	// Zero is never.
	ValidTo time.Time
	// KeyMaterialID, where not empty, is the id that existing material must have.
	KeyMaterialID string
}

// Tag is a name and a value at a CMK. They are not secret.
type Tag struct {
	// Key has 1 to 128 characters, Value 0 to 256.
	Key, Value string
}

// Grant lets one principal use a CMK, beside its key policy.
type Grant struct {
	// ID is 64 hexadecimal digits.
	ID string
	// Name is the customer's, or empty.
	Name string
	// CreationDate is when it was made.
	CreationDate time.Time
	// GranteePrincipal is the ARN of who may use the CMK, RetiringPrincipal of who may end that, or empty.
	GranteePrincipal, RetiringPrincipal string
	// IssuingAccount is the account in which it was made, as the ARN of its root.
	IssuingAccount string
	// Operations are what is granted, in the names of AWS KMS: "Decrypt", "ReEncryptFrom".
	Operations []string
	// ContextSubset must be part of the encryption context of a call, ContextEquals all of it; nil is no constraint. At
	// most one of them is set.
	ContextSubset, ContextEquals Context
}
