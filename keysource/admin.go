package keysource

import "io"

// CreateKeyInput is the request of CreateKey.
type CreateKeyInput struct {
	// Description is the customer's text, up to 8192 bytes of UTF-8.
	Description string
	// Origin is OriginAWSKMS (also when empty) or OriginExternal; the latter makes a CMK without key material, in
	// KeyStatePendingImport.
	Origin KeyOrigin
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
	// Description is the customer's text for this material, up to 256 bytes of UTF-8.
	Description string
}
