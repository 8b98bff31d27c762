package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"kmsfs/keysource"
)

// maxMaterialDescription is the limit of AWS KMS in bytes.
const maxMaterialDescription = 256

// ImportKeyMaterial gives a CMK of OriginExternal key material from outside, and returns its key material id. The
// first material makes the CMK usable; new material for one that has some waits for RotateKeyOnDemand; existing
// material sets another expiry, or restores what expired or was deleted. Existing material that is not the same as
// before, and new material that is, are CodeIncorrectKeyMaterial. Keep a copy: the store is the only other one.
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
	err = s.updateKey(ctx, op, in.KeyID, func(_ *snapshot, k *cmk) error {
		switch {
		case k.origin != keysource.OriginExternal:
			return errOrigin(op, k)
		case k.state == keysource.KeyStatePendingDeletion:
			return errState(op, k.arn, k.state)
		case !in.ValidTo.IsZero() && !in.ValidTo.After(s.now()):
			return errValue(op, "validTo", "in the future")
		}
		m := &material{secret: secret, origin: keysource.OriginExternal, since: s.now(), description: in.Description,
			validTo: in.ValidTo.UTC()}
		defer func() {
			if k.pending != m && k.material(m.id[:]) != m {
				clear(m.secret[:])
			}
		}()
		m.setID(k.id)
		id = m.idText
		if in.KeyMaterialID != "" && in.KeyMaterialID != id {
			return fail(op, k.arn, keysource.CodeIncorrectKeyMaterial,
				"The key material is not the one with the id %s.", in.KeyMaterialID)
		}
		if in.ImportType == keysource.ImportNewKeyMaterial || in.ImportType == "" && len(k.materials) == 0 {
			return k.importNew(op, m)
		}
		return k.importExisting(op, m)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// importNew takes in material that the CMK never had: its first, or one for the next rotation. k is a copy.
func (k *cmk) importNew(op string, m *material) error {
	switch {
	case k.material(m.id[:]) != nil, k.pending != nil && k.pending.id == m.id:
		return fail(op, k.arn, keysource.CodeIncorrectKeyMaterial, "%s has this key material already.", k.arn)
	case len(k.materials) == 0:
		k.materials, k.state = []*material{m}, keysource.KeyStateEnabled
		return nil
	case k.pending != nil:
		return fail(op, k.arn, keysource.CodeConflict, "%s has key material pending rotation already.", k.arn)
	}
	k.pending = m
	return nil
}

// importExisting takes in material that the CMK has, with a new expiry, or had before it expired or was deleted. k is a
// copy.
func (k *cmk) importExisting(op string, m *material) error {
	old := k.material(m.id[:])
	if k.pending != nil && k.pending.id == m.id {
		old = k.pending
	}
	if old == nil {
		return fail(op, k.arn, keysource.CodeIncorrectKeyMaterial,
			"This is not the key material that was imported into %s before.", k.arn)
	}
	if m.description == "" {
		m.description = old.description
	}
	if !old.missing && old.validTo.Equal(m.validTo) && old.description == m.description {
		return errNoChange
	}
	m.rotation, m.since = old.rotation, old.since
	if old == k.pending {
		k.pending = m
		return nil
	}
	k.materials[slices.Index(k.materials, old)] = m
	if k.state == keysource.KeyStatePendingImport && k.complete() {
		k.state = keysource.KeyStateEnabled
	}
	return nil
}

// DeleteImportedKeyMaterial deletes imported key material, the current one where id is empty, and returns its id. A CMK
// whose material it was waits, unusable, for the same to be imported again; material that was pending rotation is just
// gone. Where there is nothing to delete nothing changes.
func (s *Store) DeleteImportedKeyMaterial(ctx context.Context, key keysource.KeyRef, id string) (string, error) {
	const op = "DeleteImportedKeyMaterial"
	err := s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		if k.origin != keysource.OriginExternal {
			return errOrigin(op, k)
		}
		if id == "" && len(k.materials) > 0 {
			id = k.current().idText
		}
		if k.pending != nil && k.pending.idText == id {
			k.pending = nil
			return nil
		}
		i := slices.IndexFunc(k.materials, func(m *material) bool { return m.idText == id })
		switch {
		case id == "", i >= 0 && k.materials[i].missing:
			return errNoChange
		case i < 0:
			return fail(op, k.arn, keysource.CodeNotFound, "Key material %s of %s does not exist.", id, k.arn)
		}
		k.materials[i] = k.materials[i].withoutSecret()
		if k.state != keysource.KeyStatePendingDeletion {
			k.state = keysource.KeyStatePendingImport
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return id, nil
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
