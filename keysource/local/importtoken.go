package local

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"time"

	"kmsfs/keysource"
)

// importValid is how long the parameters of an import are good for, as with AWS.
const importValid = 24 * time.Hour

// The layout of an import token, version 1; see PROTOCOL.md, "Import token".
const (
	tokenMagic   = "kfi\x01" // the last byte is the version
	tokenKeyID   = len(tokenMagic)
	tokenSalt    = tokenKeyID + len(uuid{})
	tokenSealed  = tokenSalt + saltSize
	tokenExpires = 0 // in the sealed part
	tokenAlg     = tokenExpires + 8
	tokenPrivate = tokenAlg + 1
	// maxTokenSize is the limit of AWS KMS.
	maxTokenSize = 6144
)

// ImportParameters are what somebody needs to send key material that nobody on the way can read.
type ImportParameters struct {
	// KeyID is the ARN of the CMK.
	KeyID string
	// ImportToken goes with the material. It holds the private key, sealed, so that the store keeps nothing.
	ImportToken []byte
	// PublicKey encrypts the material: DER, SubjectPublicKeyInfo.
	PublicKey []byte
	// ValidTo is when both expire.
	ValidTo time.Time
}

// GetParametersForImport makes a key pair for the import of key material into a CMK of OriginExternal. It changes
// nothing; a large RSA key takes seconds to make.
func (s *Store) GetParametersForImport(ctx context.Context, key keysource.KeyRef, alg WrappingAlgorithm, spec WrappingKeySpec) (ImportParameters, error) {
	const op = "GetParametersForImport"
	bits, err := spec.bits()
	if err != nil {
		return ImportParameters{}, err
	}
	if !alg.valid() {
		return ImportParameters{}, errValue(op, "wrappingAlgorithm",
			"one of RSAES_OAEP_SHA_256, RSAES_OAEP_SHA_1, RSA_AES_KEY_WRAP_SHA_256, RSA_AES_KEY_WRAP_SHA_1")
	}
	var arn string
	var id uuid
	err = s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find(op, key)
		switch {
		case err != nil:
			return err
		case k.origin != keysource.OriginExternal:
			return errOrigin(op, k)
		case k.state == keysource.KeyStatePendingDeletion:
			return errState(op, k.arn, k.state)
		}
		arn, id = k.arn, k.id
		return nil
	})
	if err != nil {
		return ImportParameters{}, err
	}
	private, err := rsa.GenerateKey(s.cfg.Rand, bits)
	if err != nil {
		return ImportParameters{}, &keysource.Error{Op: op, Code: keysource.CodeInternal, Kind: keysource.ErrUnavailable,
			Message: "RSA key", Err: err}
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return ImportParameters{}, err
	}
	p := ImportParameters{KeyID: arn, PublicKey: public, ValidTo: s.now().Add(importValid).Truncate(time.Second)}
	p.ImportToken, err = s.sealToken(id, importToken{p.ValidTo, alg, private})
	return p, err
}

// importToken is what an import token holds.
type importToken struct {
	expires time.Time
	alg     WrappingAlgorithm
	private *rsa.PrivateKey
}

// sealToken makes the import token of a CMK.
func (s *Store) sealToken(id uuid, t importToken) ([]byte, error) {
	der := x509.MarshalPKCS1PrivateKey(t.private)
	defer clear(der)
	body := make([]byte, 0, tokenPrivate+len(der))
	body = binary.BigEndian.AppendUint64(body, uint64(t.expires.Unix()))
	body = append(append(body, t.alg.number()), der...)
	defer clear(body)
	b := make([]byte, tokenSealed, tokenSealed+len(body)+tagSize)
	copy(b, tokenMagic)
	copy(b[tokenKeyID:], id[:])
	if err := s.fillRandom(b[tokenSalt:]); err != nil {
		return nil, err
	}
	key, err := s.deriveFromStoreKey(contextImportToken, b[tokenSalt:])
	if err != nil {
		return nil, err
	}
	defer clear(key[:])
	return sealOnce(&key, b, body, b[:tokenSealed:tokenSealed]), nil
}

// openToken opens an import token. What is not one of this store is CodeInvalidImportToken; one of another CMK too.
func (s *Store) openToken(op string, id uuid, b []byte) (importToken, error) {
	invalid := fail(op, "", keysource.CodeInvalidImportToken, "The import token is invalid, or of another key.")
	if len(b) < tokenSealed+tokenPrivate+tagSize || len(b) > maxTokenSize || string(b[:tokenKeyID]) != tokenMagic ||
		uuid(b[tokenKeyID:tokenSalt]) != id {
		return importToken{}, invalid
	}
	key, err := s.deriveFromStoreKey(contextImportToken, b[tokenSalt:tokenSealed])
	if err != nil {
		return importToken{}, err
	}
	defer clear(key[:])
	body, err := openOnce(&key, nil, b[tokenSealed:], b[:tokenSealed])
	if err != nil {
		return importToken{}, invalid
	}
	defer clear(body)
	t := importToken{expires: time.Unix(int64(binary.BigEndian.Uint64(body)), 0)}
	if !s.now().Before(t.expires) {
		return importToken{}, fail(op, "", keysource.CodeExpiredImportToken, "The import token has expired.")
	}
	t.alg = wrappingAlgorithmOf(body[tokenAlg])
	if t.private, err = x509.ParsePKCS1PrivateKey(body[tokenPrivate:]); err != nil {
		return importToken{}, invalid
	}
	return t, nil
}
