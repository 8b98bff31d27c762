package keysource

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/zeebo/blake3"
)

// movedKey is a branch key that was wrapped anew, so that all its data keys cost one call.
type movedKey struct {
	result ReEncryptResult
	born   time.Time
}

// How long and how many branch keys that were wrapped anew are remembered.
const (
	movedAge  = time.Minute
	movedMost = 1024
)

// ReEncrypt implements Keysource. Where the encryption context stays, the KMS wraps the branch key anew and the data key
// stays as it is under it: no plaintext comes here, and all data keys of one branch key cost one call a minute. That the
// context is the right one is not checked then; a wrong one gives a blob that opens as little as before. Where the context
// changes, the data key is unwrapped here and wrapped under a branch key of the new context.
func (b *Branch) ReEncrypt(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	if !isBranchBlob(in.CiphertextBlob) {
		return b.cache.ReEncrypt(ctx, in)
	}
	if err := b.check(ctx, in.SourceEncryptionContext); err != nil {
		return ReEncryptResult{}, err
	}
	if err := checkBranchContext(in.DestinationEncryptionContext); err != nil {
		return ReEncryptResult{}, err
	}
	blob, err := parseBranchBlob("ReEncrypt", in.CiphertextBlob)
	if err != nil {
		return ReEncryptResult{}, err
	}
	if !in.SourceEncryptionContext.Equal(in.DestinationEncryptionContext) {
		return b.rewrap(ctx, in)
	}
	r, err := b.move(ctx, blob, in)
	if err != nil {
		return ReEncryptResult{}, err
	}
	r.CiphertextBlob, err = blob.withWrapped("ReEncrypt", r.CiphertextBlob)
	if err != nil {
		return ReEncryptResult{}, err
	}
	return r, nil
}

// move has the branch key of blob wrapped anew, or remembers that it was.
func (b *Branch) move(ctx context.Context, blob branchBlob, in ReEncryptInput) (ReEncryptResult, error) {
	ec := branchContext(blob.id, in.SourceEncryptionContext)
	name := binary.BigEndian.AppendUint32(nil, uint32(len(blob.wrapped)))
	name = append(append(name, blob.wrapped...), ec.Canonical()...)
	name = append(append(append(name, in.SourceKeyID...), 0), in.DestinationKeyID...)
	key := cacheKey(blake3.Sum256(name))
	b.mu.Lock()
	m, ok := b.moved[key]
	b.mu.Unlock()
	if ok && b.clock.Now().Sub(m.born) < movedAge {
		return m.result, nil
	}
	r, err := b.cache.ReEncrypt(ctx, ReEncryptInput{CiphertextBlob: blob.wrapped, SourceEncryptionContext: ec, SourceKeyID: in.SourceKeyID,
		DestinationKeyID: in.DestinationKeyID, DestinationEncryptionContext: ec})
	if err != nil {
		return ReEncryptResult{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.moved) >= movedMost {
		clear(b.moved)
	}
	b.moved[key] = movedKey{r, b.clock.Now()}
	return r, nil
}

// rewrap unwraps the data key and wraps it under a branch key of the new context.
func (b *Branch) rewrap(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	old, err := b.Decrypt(ctx, DecryptInput{CiphertextBlob: in.CiphertextBlob, EncryptionContext: in.SourceEncryptionContext,
		KeyID: in.SourceKeyID})
	if err != nil {
		return ReEncryptResult{}, err
	}
	defer old.Plaintext.Wipe()
	k, err := b.wrap(ctx, "ReEncrypt", in.DestinationKeyID, old.Plaintext, in.DestinationEncryptionContext)
	if err != nil {
		return ReEncryptResult{}, err
	}
	return ReEncryptResult{CiphertextBlob: k.CiphertextBlob, SourceKeyID: old.KeyID, SourceKeyMaterialID: old.KeyMaterialID,
		KeyID: k.KeyID, KeyMaterialID: k.KeyMaterialID}, nil
}
