package vault

import (
	"context"
	"crypto/rand"

	"kmsfs/envelope"
	"kmsfs/keysource"
)

// newKey has the keysource make a data key and returns it with its record, which stands nowhere yet. The record has the
// wrapping of the CMK named by key, where that is "" the one that the config names, and one of each further CMK that has wrapped the volume key: any one of them
// opens the file. The plaintext does not leave this process for it.
func (v *Vault) newKey(ctx context.Context, key string) (made, error) {
	var id envelope.FileID
	rand.Read(id[:])
	return v.newKeyOf(ctx, id, key)
}

// newKeyOf is newKey for a file that has an id.
func (v *Vault) newKeyOf(ctx context.Context, id envelope.FileID, key string) (made, error) {
	fk, r, err := NewDataKey(ctx, v.ks, v.current.Load(), v.geo, id, key, v.now())
	if err != nil {
		return made{}, err
	}
	return made{bound: bound{id: id, key: fk}, record: r}, nil
}

// wrapAll returns the wrapping that dk came with, and one by each of the further CMKs. The keysource moves the key from the
// first to the others: the plaintext is not sent.
func wrapAll(ctx context.Context, ks keysource.Keysource, dk keysource.DataKey, kc keysource.Context, more []string) ([]envelope.Wrapping, error) {
	wrappings := []envelope.Wrapping{{
		ContextVersion: envelope.ContextVersion, KeyARN: dk.KeyID, KeyMaterialID: dk.KeyMaterialID, Blob: dk.CiphertextBlob,
	}}
	for _, key := range more {
		r, err := ks.ReEncrypt(ctx, keysource.ReEncryptInput{
			CiphertextBlob: dk.CiphertextBlob, SourceEncryptionContext: kc, SourceKeyID: keysource.KeyRef(dk.KeyID),
			DestinationKeyID: keysource.KeyRef(key), DestinationEncryptionContext: kc,
		})
		if err != nil {
			return nil, err
		}
		for _, w := range wrappings {
			if w.KeyARN == r.KeyID {
				return nil, keysource.NewError("ReEncrypt", key, keysource.CodeValidation, "the CMK "+r.KeyID+" is named twice")
			}
		}
		wrappings = append(wrappings, envelope.Wrapping{
			ContextVersion: envelope.ContextVersion, KeyARN: r.KeyID, KeyMaterialID: r.KeyMaterialID, Blob: r.CiphertextBlob,
		})
	}
	return wrappings, nil
}
