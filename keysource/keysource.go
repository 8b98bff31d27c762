package keysource

import "context"

// Sizes in bytes, the limits of AWS KMS.
const (
	// DataKeySize is the size of a data key when GenerateDataKeyInput.NumberOfBytes is zero.
	DataKeySize = 32
	// MaxDataKeySize is the largest data key that GenerateDataKey makes.
	MaxDataKeySize = 1024
	// MaxPlaintextSize is the largest plaintext that Encrypt takes.
	MaxPlaintextSize = 4096
	// MaxCiphertextBlobSize is the largest wrapped key or ciphertext that Decrypt and ReEncrypt take.
	MaxCiphertextBlobSize = 6144
)

// Keysource is what the rest of kmsfs uses CMKs through. All methods are safe for concurrent use and end with an
// error when their context ends. On failure nothing has changed. After Close they answer [ErrClosed].
type Keysource interface {
	// GenerateDataKey makes a new random data key and answers it both in plaintext and wrapped by the CMK.
	GenerateDataKey(ctx context.Context, in GenerateDataKeyInput) (DataKey, error)

	// Decrypt opens a wrapped key. A wrong encryption context and a damaged blob are both ErrInvalidCiphertext; a
	// blob wrapped by another CMK than in.KeyID is ErrIncorrectKey.
	Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error)

	// ReEncrypt wraps the same plaintext anew: under another CMK, the current key material, another context, or
	// several of these. The plaintext does not leave the keysource.
	ReEncrypt(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error)

	// DescribeKey answers what is known of a CMK, in any state.
	DescribeKey(ctx context.Context, key KeyRef) (KeyMetadata, error)

	// Close ends the keysource, waits for its goroutines and wipes the secrets that it holds. A second call does
	// nothing.
	Close() error
}

// GenerateDataKeyInput is the request of GenerateDataKey.
type GenerateDataKeyInput struct {
	// KeyID is the CMK: id, ARN, alias name or alias ARN.
	KeyID KeyRef
	// EncryptionContext is bound to the wrapped key; nil and empty are the same.
	EncryptionContext Context
	// NumberOfBytes is the size of the data key, 1 to MaxDataKeySize; 0 means DataKeySize.
	NumberOfBytes int
}

// DataKey is the answer of GenerateDataKey. The caller owns all of it and wipes Plaintext when done.
type DataKey struct {
	// Plaintext is the data key.
	Plaintext PlaintextKey
	// CiphertextBlob is the wrapped key, at most MaxCiphertextBlobSize bytes, opaque.
	CiphertextBlob []byte
	// KeyID is the ARN of the CMK that wrapped it, never an alias.
	KeyID string
	// KeyMaterialID is the id of the key material that wrapped it, 64 hexadecimal digits; empty where a foreign
	// KMS does not tell.
	KeyMaterialID string
}

// DecryptInput is the request of Decrypt.
type DecryptInput struct {
	// CiphertextBlob is what GenerateDataKey, Encrypt or ReEncrypt answered.
	CiphertextBlob []byte
	// EncryptionContext must equal the one that the blob was made with.
	EncryptionContext Context
	// KeyID, where not empty, is the only CMK that may open the blob. Recommended.
	KeyID KeyRef
}

// DecryptResult is the answer of Decrypt. The caller owns all of it and wipes Plaintext when done.
type DecryptResult struct {
	// Plaintext is the data key, or what was given to Encrypt.
	Plaintext PlaintextKey
	// KeyID is the ARN of the CMK that had wrapped it.
	KeyID string
	// KeyMaterialID is the id of the key material that had wrapped it.
	KeyMaterialID string
}

// ReEncryptInput is the request of ReEncrypt.
type ReEncryptInput struct {
	// CiphertextBlob is the old wrapping.
	CiphertextBlob []byte
	// SourceEncryptionContext is the context of the old wrapping.
	SourceEncryptionContext Context
	// SourceKeyID, where not empty, is the only CMK that may open the old wrapping.
	SourceKeyID KeyRef
	// DestinationKeyID is the CMK of the new wrapping. The CMK of the old one moves it to the current material.
	DestinationKeyID KeyRef
	// DestinationEncryptionContext is the context of the new wrapping; it is not copied from the source.
	DestinationEncryptionContext Context
}

// ReEncryptResult is the answer of ReEncrypt.
type ReEncryptResult struct {
	// CiphertextBlob is the new wrapping of the same plaintext.
	CiphertextBlob []byte
	// SourceKeyID is the ARN of the CMK of the old wrapping.
	SourceKeyID string
	// SourceKeyMaterialID is the key material of the old wrapping.
	SourceKeyMaterialID string
	// KeyID is the ARN of the CMK of the new wrapping.
	KeyID string
	// KeyMaterialID is the key material of the new wrapping.
	KeyMaterialID string
	// RequestID is the KMS's id of the request; empty where there is none.
	RequestID string
}
