package kms

// EnableKeyRotationInput is the request of EnableKeyRotation.
type EnableKeyRotationInput struct {
	KeyID                string `json:"KeyId,omitempty"`
	RotationPeriodInDays *int   `json:"RotationPeriodInDays,omitempty"`
}

// DisableKeyRotationInput is the request of DisableKeyRotation.
type DisableKeyRotationInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// GetKeyRotationStatusInput is the request of GetKeyRotationStatus.
type GetKeyRotationStatusInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// GetKeyRotationStatusOutput is the answer of GetKeyRotationStatus.
type GetKeyRotationStatusOutput struct {
	KeyRotationEnabled        bool   `json:"KeyRotationEnabled"`
	KeyID                     string `json:"KeyId"`
	RotationPeriodInDays      int    `json:"RotationPeriodInDays,omitempty"`
	NextRotationDate          *Time  `json:"NextRotationDate,omitempty"`
	OnDemandRotationStartDate *Time  `json:"OnDemandRotationStartDate,omitempty"`
}

// RotateKeyOnDemandInput is the request of RotateKeyOnDemand.
type RotateKeyOnDemandInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// RotateKeyOnDemandOutput is the answer of RotateKeyOnDemand.
type RotateKeyOnDemandOutput struct {
	KeyID string `json:"KeyId"`
}

// ListKeyRotationsInput is the request of ListKeyRotations.
type ListKeyRotationsInput struct {
	KeyID              string `json:"KeyId,omitempty"`
	IncludeKeyMaterial string `json:"IncludeKeyMaterial,omitempty"`
	Limit              *int   `json:"Limit,omitempty"`
	Marker             string `json:"Marker,omitempty"`
}

// ListKeyRotationsOutput is the answer of ListKeyRotations.
type ListKeyRotationsOutput struct {
	Rotations  []RotationsListEntry `json:"Rotations"`
	NextMarker string               `json:"NextMarker,omitempty"`
	Truncated  bool                 `json:"Truncated"`
}

// RotationsListEntry is a key material in the answer of ListKeyRotations.
type RotationsListEntry struct {
	KeyID                  string `json:"KeyId"`
	KeyMaterialID          string `json:"KeyMaterialId,omitempty"`
	KeyMaterialDescription string `json:"KeyMaterialDescription,omitempty"`
	ImportState            string `json:"ImportState,omitempty"`
	KeyMaterialState       string `json:"KeyMaterialState,omitempty"`
	ExpirationModel        string `json:"ExpirationModel,omitempty"`
	ValidTo                *Time  `json:"ValidTo,omitempty"`
	RotationDate           *Time  `json:"RotationDate,omitempty"`
	RotationType           string `json:"RotationType,omitempty"`
}

// GetParametersForImportInput is the request of GetParametersForImport.
type GetParametersForImportInput struct {
	KeyID             string `json:"KeyId,omitempty"`
	WrappingAlgorithm string `json:"WrappingAlgorithm,omitempty"`
	WrappingKeySpec   string `json:"WrappingKeySpec,omitempty"`
}

// GetParametersForImportOutput is the answer of GetParametersForImport.
type GetParametersForImportOutput struct {
	KeyID             string `json:"KeyId"`
	ImportToken       []byte `json:"ImportToken,omitempty"`
	PublicKey         []byte `json:"PublicKey,omitempty"`
	ParametersValidTo *Time  `json:"ParametersValidTo,omitempty"`
}

// ImportKeyMaterialInput is the request of ImportKeyMaterial.
type ImportKeyMaterialInput struct {
	KeyID                  string `json:"KeyId,omitempty"`
	ImportToken            []byte `json:"ImportToken,omitempty"`
	EncryptedKeyMaterial   []byte `json:"EncryptedKeyMaterial,omitempty"`
	ValidTo                *Time  `json:"ValidTo,omitempty"`
	ExpirationModel        string `json:"ExpirationModel,omitempty"`
	ImportType             string `json:"ImportType,omitempty"`
	KeyMaterialDescription string `json:"KeyMaterialDescription,omitempty"`
	KeyMaterialID          string `json:"KeyMaterialId,omitempty"`
}

// ImportKeyMaterialOutput is the answer of ImportKeyMaterial.
type ImportKeyMaterialOutput struct {
	KeyID         string `json:"KeyId"`
	KeyMaterialID string `json:"KeyMaterialId,omitempty"`
}

// DeleteImportedKeyMaterialInput is the request of DeleteImportedKeyMaterial.
type DeleteImportedKeyMaterialInput struct {
	KeyID         string `json:"KeyId,omitempty"`
	KeyMaterialID string `json:"KeyMaterialId,omitempty"`
}

// DeleteImportedKeyMaterialOutput is the answer of DeleteImportedKeyMaterial.
type DeleteImportedKeyMaterialOutput struct {
	KeyID         string `json:"KeyId"`
	KeyMaterialID string `json:"KeyMaterialId,omitempty"`
}

// GetKeyLastUsageInput is the request of GetKeyLastUsage.
type GetKeyLastUsageInput struct {
	KeyID string `json:"KeyId,omitempty"`
}

// GetKeyLastUsageOutput is the answer of GetKeyLastUsage.
type GetKeyLastUsageOutput struct {
	KeyID             string            `json:"KeyId"`
	KeyLastUsage      *KeyLastUsageData `json:"KeyLastUsage,omitempty"`
	TrackingStartDate *Time             `json:"TrackingStartDate,omitempty"`
	KeyCreationDate   *Time             `json:"KeyCreationDate,omitempty"`
}

// KeyLastUsageData is the last use of a CMK.
type KeyLastUsageData struct {
	Operation         string `json:"Operation,omitempty"`
	Timestamp         *Time  `json:"Timestamp,omitempty"`
	CloudTrailEventID string `json:"CloudTrailEventId,omitempty"`
	KMSRequestID      string `json:"KmsRequestId,omitempty"`
}
