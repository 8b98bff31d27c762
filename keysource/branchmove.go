package keysource

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/zeebo/blake3"
)

// movedKey is a branch key that was wrapped anew, so that all its data keys cost one call.
type movedKey struct {
	ready  chan struct{} // closed when what follows is set
	result ReEncryptResult
	err    error
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

// move has the branch key of blob wrapped anew, or remembers that it was. Concurrent callers wait for one call.
func (b *Branch) move(ctx context.Context, blob branchBlob, in ReEncryptInput) (ReEncryptResult, error) {
	ec := branchContext(blob.id, in.SourceEncryptionContext)
	name := binary.BigEndian.AppendUint32(nil, uint32(len(blob.wrapped)))
	name = append(append(name, blob.wrapped...), ec.Canonical()...)
	name = append(append(append(name, in.SourceKeyID...), 0), in.DestinationKeyID...)
	key := cacheKey(blake3.Sum256(name))
	for {
		b.mu.Lock()
		m := b.moved[key]
		if m == nil || m.done() && (m.err != nil || b.clock.Now().Sub(m.born) >= movedAge) {
			if len(b.moved) >= movedMost {
				clear(b.moved)
			}
			m = &movedKey{ready: make(chan struct{})}
			b.moved[key] = m
			b.mu.Unlock()
			m.result, m.err = b.cache.ReEncrypt(ctx, ReEncryptInput{CiphertextBlob: blob.wrapped, SourceEncryptionContext: ec,
				SourceKeyID: in.SourceKeyID, DestinationKeyID: in.DestinationKeyID, DestinationEncryptionContext: ec})
			m.born = b.clock.Now()
			close(m.ready)
			return m.result, m.err
		}
		b.mu.Unlock()
		select {
		case <-m.ready:
		case <-ctx.Done():
			return ReEncryptResult{}, ctx.Err()
		}
		if !errors.Is(m.err, context.Canceled) && !errors.Is(m.err, context.DeadlineExceeded) {
			return m.result, m.err // else it was the first caller who gave up
		}
	}
}

// done tells whether the call has ended.
func (m *movedKey) done() bool {
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
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
