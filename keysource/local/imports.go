package local

import (
	"context"
	"errors"
	"fmt"
	"io"

	"kmsfs/keysource"
)

// maxMaterialDescription is the limit of AWS KMS in bytes.
const maxMaterialDescription = 256

// ImportKeyMaterial gives a CMK of OriginExternal key material from outside, and returns its key material id. The
// first material makes the CMK usable; new material for one that has some waits for RotateKeyOnDemand; existing
// material that is not the same as before is CodeIncorrectKeyMaterial. Keep a copy: the store is the only other one.
func (s *Store) ImportKeyMaterial(ctx context.Context, in keysource.ImportKeyMaterialInput) (string, error) {
	const op = "ImportKeyMaterial"
	if err := checkDescription(op, in.Description, maxMaterialDescription); err != nil {
		return "", err
	}
	switch in.ImportType {
	case "", keysource.ImportExistingKeyMaterial, keysource.ImportNewKeyMaterial:
	default:
		return "", errValue(op, "importType", "NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL")
	}
	secret, err := readMaterial(op, in.Material) // before the lock: it may come from a slow pipe
	if err != nil {
		return "", err
	}
	defer clear(secret[:])
	var id string
	err = s.updateKey(ctx, op, in.KeyID, func(sn *snapshot, k *cmk) error {
		switch {
		case k.origin != keysource.OriginExternal:
			return fail(op, k.arn, keysource.CodeUnsupported, "%s origin is %s which is not valid for this operation.",
				k.arn, k.origin)
		case k.state == keysource.KeyStatePendingDeletion:
			return errState(op, k)
		}
		m := &material{secret: secret, origin: keysource.OriginExternal, since: s.now(), description: in.Description}
		defer func() {
			if k.pending != m && k.material(m.id[:]) != m {
				clear(m.secret[:])
			}
		}()
		m.setID(k.id)
		id = m.idText
		return k.importMaterial(op, m, in.ImportType)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// importMaterial puts m in its place in k, which is a copy.
func (k *cmk) importMaterial(op string, m *material, how keysource.ImportType) error {
	known := k.material(m.id[:]) != nil || k.pending != nil && k.pending.id == m.id
	switch {
	case len(k.materials) == 0:
		k.materials, k.state = []*material{m}, keysource.KeyStateEnabled
		return nil
	case how != keysource.ImportNewKeyMaterial && known:
		return errNoChange
	case how != keysource.ImportNewKeyMaterial:
		return fail(op, k.arn, keysource.CodeIncorrectKeyMaterial,
			"This is not the key material that was imported into %s before.", k.arn)
	case known:
		return fail(op, k.arn, keysource.CodeConflict, "%s has this key material already.", k.arn)
	case k.pending != nil:
		return fail(op, k.arn, keysource.CodeConflict, "%s has key material pending rotation already.", k.arn)
	}
	k.pending = m
	return nil
}

// readMaterial reads exactly 32 bytes.
func readMaterial(op string, r io.Reader) (secret [secretSize]byte, err error) {
	if r == nil {
		return secret, errValue(op, "encryptedKeyMaterial", "not null")
	}
	buf := make([]byte, secretSize+1)
	defer clear(buf)
	n, err := io.ReadFull(r, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return secret, fmt.Errorf("%s: read key material: %w", op, err)
	}
	if n != secretSize {
		return secret, fail(op, "", keysource.CodeIncorrectKeyMaterial, "Key material has exactly 32 bytes.")
	}
	copy(secret[:], buf)
	return secret, nil
}
