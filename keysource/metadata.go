package keysource

import "time"

// KeyState is the state of a CMK, in the words of AWS KMS. More states may come; an unknown one is not usable.
type KeyState string

// The key states that kmsfs knows.
const (
	// KeyStateEnabled is the only state in which a CMK encrypts and decrypts.
	KeyStateEnabled KeyState = "Enabled"
	// KeyStateDisabled is set by DisableKey and left by EnableKey.
	KeyStateDisabled KeyState = "Disabled"
	// KeyStatePendingImport is a CMK of origin EXTERNAL that has no key material yet, or of which some has expired or
	// was deleted.
	KeyStatePendingImport KeyState = "PendingImport"
	// KeyStatePendingDeletion is a CMK that will be deleted at KeyMetadata.DeletionDate.
	KeyStatePendingDeletion KeyState = "PendingDeletion"
	// KeyStateUnavailable is a CMK whose custom key store cannot be reached.
	KeyStateUnavailable KeyState = "Unavailable"
)

// KeyOrigin says where the key material of a CMK comes from.
type KeyOrigin string

// The origins that kmsfs knows.
const (
	// OriginAWSKMS is material that the key store made.
	OriginAWSKMS KeyOrigin = "AWS_KMS"
	// OriginExternal is material that the customer imported.
	OriginExternal KeyOrigin = "EXTERNAL"
)

// KeyManager tells CMKs made on the user's behalf from those that the user made.
type KeyManager string

// The key managers.
const (
	// ManagerAWS is an AWS managed key: alias/aws/..., made by the store itself, not to be disabled or deleted.
	ManagerAWS KeyManager = "AWS"
	// ManagerCustomer is a customer managed key.
	ManagerCustomer KeyManager = "CUSTOMER"
)

// KeyMetadata describes a CMK, as the KeyMetadata of AWS KMS does. It holds no secret.
type KeyMetadata struct {
	// ARN is the full name of the CMK.
	ARN string
	// KeyID is the last part of the ARN, a UUID for keys that are not multi-Region.
	KeyID string
	// AccountID is the 12 digits of the owning account.
	AccountID string
	// Description is the customer's text, up to 8192 bytes.
	Description string
	// CreationDate is when the CMK was made.
	CreationDate time.Time
	// KeyState is the state; Enabled is true for KeyStateEnabled alone.
	KeyState KeyState
	// Enabled tells that the CMK can be used.
	Enabled bool
	// Origin says where its key material comes from.
	Origin KeyOrigin
	// KeyManager tells AWS managed from customer managed.
	KeyManager KeyManager
	// CurrentKeyMaterialID is the material that new wrapped keys use; empty while PendingImport.
	CurrentKeyMaterialID string
	// DeletionDate is when a CMK in PendingDeletion goes; zero otherwise.
	DeletionDate time.Time
	// ValidTo is when the first of its imported key materials expires; zero is never.
	ValidTo time.Time
}

// KeyListEntry is one CMK in the answer of ListKeys.
type KeyListEntry struct {
	// KeyID is the id, ARN the full name.
	KeyID, ARN string
}

// AliasListEntry is one alias in the answer of ListAliases.
type AliasListEntry struct {
	// AliasName begins with "alias/", AliasARN is its full name.
	AliasName, AliasARN string
	// TargetKeyID is the id (not the ARN) of the CMK.
	TargetKeyID string
	// CreationDate and LastUpdatedDate are when the alias was made and last moved.
	CreationDate, LastUpdatedDate time.Time
}

// RotationType says what made key material current.
type RotationType string

// The rotation types; the first key material of a CMK has the empty one.
const (
	// RotationAutomatic is by schedule.
	RotationAutomatic RotationType = "AUTOMATIC"
	// RotationOnDemand is by RotateKeyOnDemand.
	RotationOnDemand RotationType = "ON_DEMAND"
)

// KeyMaterialState is the place of one key material in its CMK.
type KeyMaterialState string

// The key material states that kmsfs knows.
const (
	// MaterialCurrent wraps new keys.
	MaterialCurrent KeyMaterialState = "CURRENT"
	// MaterialNonCurrent only opens what it wrapped.
	MaterialNonCurrent KeyMaterialState = "NON_CURRENT"
	// MaterialPendingRotation was imported and becomes current at the next rotation.
	MaterialPendingRotation KeyMaterialState = "PENDING_ROTATION"
)

// KeyRotation is one key material of a CMK in the answer of ListKeyRotations.
type KeyRotation struct {
	// KeyID is the ARN of the CMK.
	KeyID string
	// KeyMaterialID is 64 hexadecimal digits.
	KeyMaterialID string
	// KeyMaterialDescription is the customer's text for imported material.
	KeyMaterialDescription string
	// State is the place of the material in its CMK.
	State KeyMaterialState
	// Origin says where this material comes from.
	Origin KeyOrigin
	// RotationType says what made it current; empty for the first and for pending material.
	RotationType RotationType
	// RotationDate is when it became current; for pending material, when it was imported.
	RotationDate time.Time
	// ValidTo is when imported material expires; zero is never.
	ValidTo time.Time
	// Missing tells that imported material expired or was deleted, and waits to be imported again.
	Missing bool
}
