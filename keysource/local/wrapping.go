package local

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"hash"
	"slices"

	"kmsfs/keysource"
)

// WrappingAlgorithm says how key material is encrypted on its way into the store, in the names of AWS KMS.
type WrappingAlgorithm string

// The wrapping algorithms. A number in an import token is the place in wrappingAlgorithms.
const (
	// WrapOAEPSHA256 is RSA-OAEP with SHA-256 and MGF1 with SHA-256.
	WrapOAEPSHA256 WrappingAlgorithm = "RSAES_OAEP_SHA_256"
	// WrapOAEPSHA1 is RSA-OAEP with SHA-1 and MGF1 with SHA-1.
	WrapOAEPSHA1 WrappingAlgorithm = "RSAES_OAEP_SHA_1"
	// WrapAESSHA256 is an AES-256 key in RSA-OAEP with SHA-256, then the material in AES key wrap with padding under it.
	WrapAESSHA256 WrappingAlgorithm = "RSA_AES_KEY_WRAP_SHA_256"
	// WrapAESSHA1 is the same with SHA-1.
	WrapAESSHA1 WrappingAlgorithm = "RSA_AES_KEY_WRAP_SHA_1"
)

// wrappingAlgorithms are all of them, in the order of their numbers in import tokens.
var wrappingAlgorithms = []WrappingAlgorithm{WrapOAEPSHA256, WrapOAEPSHA1, WrapAESSHA256, WrapAESSHA1}

// WrappingKeySpec is the size of the RSA key, in the names of AWS KMS.
type WrappingKeySpec string

// The sizes.
const (
	WrapRSA2048 WrappingKeySpec = "RSA_2048" // 2048 bits
	WrapRSA3072 WrappingKeySpec = "RSA_3072" // 3072 bits
	WrapRSA4096 WrappingKeySpec = "RSA_4096" // 4096 bits
)

// bits is the size in bits.
func (s WrappingKeySpec) bits() (int, error) {
	switch s {
	case WrapRSA2048:
		return 2048, nil
	case WrapRSA3072:
		return 3072, nil
	case WrapRSA4096:
		return 4096, nil
	}
	return 0, errValue("GetParametersForImport", "wrappingKeySpec", "one of RSA_2048, RSA_3072, RSA_4096")
}

// valid tells whether a is known.
func (a WrappingAlgorithm) valid() bool { return slices.Contains(wrappingAlgorithms, a) }

// number is what stands for a in an import token.
func (a WrappingAlgorithm) number() byte { return byte(slices.Index(wrappingAlgorithms, a)) }

// wrappingAlgorithmOf is the algorithm with a number, or empty.
func wrappingAlgorithmOf(n byte) WrappingAlgorithm {
	if int(n) < len(wrappingAlgorithms) {
		return wrappingAlgorithms[n]
	}
	return ""
}

// hash is that of the RSA-OAEP in a.
func (a WrappingAlgorithm) hash() hash.Hash {
	if a == WrapOAEPSHA1 || a == WrapAESSHA1 {
		return sha1.New()
	}
	return sha256.New()
}

// ImportWrappedKeyMaterial is ImportKeyMaterial for material that was encrypted as GetParametersForImport says; in.Material
// is not used. A token that is not of this store and CMK is CodeInvalidImportToken, an old one CodeExpiredImportToken, and
// material that does not open CodeInvalidCiphertext. A token may be used again until it expires.
func (s *Store) ImportWrappedKeyMaterial(ctx context.Context, in keysource.ImportKeyMaterialInput, token, encrypted []byte) (string, error) {
	const op = "ImportKeyMaterial"
	var id uuid
	err := s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find(op, in.KeyID)
		if err != nil {
			return err
		}
		if k.origin != keysource.OriginExternal {
			return errOrigin(op, k)
		}
		id, in.KeyID = k.id, keysource.KeyRef(k.arn)
		return nil
	})
	if err != nil {
		return "", err
	}
	t, err := s.openToken(op, id, token)
	if err != nil {
		return "", err
	}
	secret, err := t.unwrap(encrypted)
	if err != nil {
		return "", fail(op, string(in.KeyID), keysource.CodeInvalidCiphertext,
			"The encrypted key material does not open with the private key of the import token.")
	}
	defer clear(secret)
	in.Material = bytes.NewReader(secret)
	return s.ImportKeyMaterial(ctx, in)
}

// unwrap decrypts key material. The caller wipes it.
func (t importToken) unwrap(encrypted []byte) ([]byte, error) {
	size := t.private.Size()
	if t.alg == WrapOAEPSHA256 || t.alg == WrapOAEPSHA1 {
		return rsa.DecryptOAEP(t.alg.hash(), nil, t.private, encrypted, nil)
	}
	if len(encrypted) <= size {
		return nil, errKeyWrap
	}
	kek, err := rsa.DecryptOAEP(t.alg.hash(), nil, t.private, encrypted[:size], nil)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	return unwrapKey(kek, encrypted[size:])
}
