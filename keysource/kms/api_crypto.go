package kms

// EncryptInput is the request of Encrypt.
type EncryptInput struct {
	KeyID               string            `json:"KeyId,omitempty"`
	Plaintext           Secret            `json:"Plaintext,omitempty"`
	EncryptionContext   map[string]string `json:"EncryptionContext,omitempty"`
	GrantTokens         []string          `json:"GrantTokens,omitempty"`
	EncryptionAlgorithm string            `json:"EncryptionAlgorithm,omitempty"`
	DryRun              bool              `json:"DryRun,omitempty"`
}

// EncryptOutput is the answer of Encrypt.
type EncryptOutput struct {
	CiphertextBlob      []byte `json:"CiphertextBlob,omitempty"`
	KeyID               string `json:"KeyId"`
	EncryptionAlgorithm string `json:"EncryptionAlgorithm,omitempty"`
}

// DecryptInput is the request of Decrypt.
type DecryptInput struct {
	CiphertextBlob      []byte            `json:"CiphertextBlob,omitempty"`
	EncryptionContext   map[string]string `json:"EncryptionContext,omitempty"`
	GrantTokens         []string          `json:"GrantTokens,omitempty"`
	KeyID               string            `json:"KeyId,omitempty"`
	EncryptionAlgorithm string            `json:"EncryptionAlgorithm,omitempty"`
	Recipient           *RecipientInfo    `json:"Recipient,omitempty"`
	DryRun              bool              `json:"DryRun,omitempty"`
	DryRunModifiers     []string          `json:"DryRunModifiers,omitempty"`
}

// DecryptOutput is the answer of Decrypt.
type DecryptOutput struct {
	KeyID               string `json:"KeyId"`
	Plaintext           Secret `json:"Plaintext,omitempty"`
	EncryptionAlgorithm string `json:"EncryptionAlgorithm,omitempty"`
	KeyMaterialID       string `json:"KeyMaterialId,omitempty"`
}

// ReEncryptInput is the request of ReEncrypt.
type ReEncryptInput struct {
	CiphertextBlob                 []byte            `json:"CiphertextBlob,omitempty"`
	SourceEncryptionContext        map[string]string `json:"SourceEncryptionContext,omitempty"`
	SourceKeyID                    string            `json:"SourceKeyId,omitempty"`
	DestinationKeyID               string            `json:"DestinationKeyId,omitempty"`
	DestinationEncryptionContext   map[string]string `json:"DestinationEncryptionContext,omitempty"`
	SourceEncryptionAlgorithm      string            `json:"SourceEncryptionAlgorithm,omitempty"`
	DestinationEncryptionAlgorithm string            `json:"DestinationEncryptionAlgorithm,omitempty"`
	GrantTokens                    []string          `json:"GrantTokens,omitempty"`
	DryRun                         bool              `json:"DryRun,omitempty"`
	DryRunModifiers                []string          `json:"DryRunModifiers,omitempty"`
}

// ReEncryptOutput is the answer of ReEncrypt.
type ReEncryptOutput struct {
	CiphertextBlob                 []byte `json:"CiphertextBlob,omitempty"`
	SourceKeyID                    string `json:"SourceKeyId,omitempty"`
	KeyID                          string `json:"KeyId"`
	SourceEncryptionAlgorithm      string `json:"SourceEncryptionAlgorithm,omitempty"`
	DestinationEncryptionAlgorithm string `json:"DestinationEncryptionAlgorithm,omitempty"`
	SourceKeyMaterialID            string `json:"SourceKeyMaterialId,omitempty"`
	DestinationKeyMaterialID       string `json:"DestinationKeyMaterialId,omitempty"`
}

// GenerateDataKeyInput is the request of GenerateDataKey.
type GenerateDataKeyInput struct {
	KeyID             string            `json:"KeyId,omitempty"`
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	NumberOfBytes     *int              `json:"NumberOfBytes,omitempty"`
	KeySpec           string            `json:"KeySpec,omitempty"`
	GrantTokens       []string          `json:"GrantTokens,omitempty"`
	Recipient         *RecipientInfo    `json:"Recipient,omitempty"`
	DryRun            bool              `json:"DryRun,omitempty"`
}

// GenerateDataKeyOutput is the answer of GenerateDataKey.
type GenerateDataKeyOutput struct {
	CiphertextBlob []byte `json:"CiphertextBlob,omitempty"`
	Plaintext      Secret `json:"Plaintext,omitempty"`
	KeyID          string `json:"KeyId"`
	KeyMaterialID  string `json:"KeyMaterialId,omitempty"`
}

// GenerateDataKeyWithoutPlaintextInput is the request of GenerateDataKeyWithoutPlaintext.
type GenerateDataKeyWithoutPlaintextInput struct {
	KeyID             string            `json:"KeyId,omitempty"`
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	KeySpec           string            `json:"KeySpec,omitempty"`
	NumberOfBytes     *int              `json:"NumberOfBytes,omitempty"`
	GrantTokens       []string          `json:"GrantTokens,omitempty"`
	DryRun            bool              `json:"DryRun,omitempty"`
}

// GenerateDataKeyWithoutPlaintextOutput is the answer of GenerateDataKeyWithoutPlaintext.
type GenerateDataKeyWithoutPlaintextOutput struct {
	CiphertextBlob []byte `json:"CiphertextBlob,omitempty"`
	KeyID          string `json:"KeyId"`
	KeyMaterialID  string `json:"KeyMaterialId,omitempty"`
}

// GenerateRandomInput is the request of GenerateRandom.
type GenerateRandomInput struct {
	NumberOfBytes    *int           `json:"NumberOfBytes,omitempty"`
	CustomKeyStoreID string         `json:"CustomKeyStoreId,omitempty"`
	Recipient        *RecipientInfo `json:"Recipient,omitempty"`
}

// GenerateRandomOutput is the answer of GenerateRandom.
type GenerateRandomOutput struct {
	Plaintext Secret `json:"Plaintext,omitempty"`
}

// RecipientInfo asks for an answer to a Nitro enclave, which is not supported here.
type RecipientInfo struct {
	KeyEncryptionAlgorithm string `json:"KeyEncryptionAlgorithm,omitempty"`
	AttestationDocument    []byte `json:"AttestationDocument,omitempty"`
}
