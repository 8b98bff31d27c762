package keysource

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"
)

// Branch is a Keysource that wraps data keys itself, under branch keys: intermediate keys that the CMK wraps. Many files then
// cost one call, as with the bucket keys of S3; the KMS logs the use of branch keys and not of files. A wrapped key holds
// the wrapped branch key too, so that Decrypt needs nothing else (PROTOCOL.md, "Branch keys"). Wrapped keys of the CMK
// itself are passed through.
//
// Plaintext branch keys are kept by the Cache below alone, so that its times are how late a refusal of the CMK is noticed.
// An alias that moves to another CMK, and new key material, are noticed when the branch key ends by age or count.
type Branch struct {
	cache  *Cache
	limits BranchLimits
	clock  Clock
	closed atomic.Bool

	mu      sync.Mutex // a leaf, never held across a call
	current map[cacheKey]*branchKey
	moved   map[cacheKey]*movedKey
}

// branchKey is a branch key that wraps new data keys. Its plaintext is in the cache below.
type branchKey struct {
	ready   chan struct{} // closed when what follows is set
	id      branchID
	wrapped []byte
	context Context
	cmk     KeyRef // the ARN
	born    time.Time
	err     error
	left    int64 // data keys; guarded by Branch.mu
}

// NewBranch decorates inner, a Cache that keeps the branch keys and that the Branch owns from then on: Close closes it.
// limits must be valid; clock may be nil for SystemClock.
func NewBranch(inner *Cache, limits BranchLimits, clock Clock) (*Branch, error) {
	if err := limits.Validate(); err != nil {
		return nil, err
	}
	if clock == nil {
		clock = SystemClock{}
	}
	return &Branch{cache: inner, limits: limits, clock: clock, current: make(map[cacheKey]*branchKey), moved: make(map[cacheKey]*movedKey)}, nil
}

// GenerateDataKey implements Keysource. It calls below for a new branch key, and for one that the cache has lost.
func (b *Branch) GenerateDataKey(ctx context.Context, in GenerateDataKeyInput) (DataKey, error) {
	n := in.NumberOfBytes
	if n == 0 {
		n = DataKeySize
	}
	if n < 1 || n > MaxDataKeySize {
		return DataKey{}, invalid(fmt.Sprintf("a data key has 1 to %d bytes, not %d", MaxDataKeySize, n))
	}
	plain := MakePlaintextKey(n)
	rand.Read(plain.Bytes()) // never fails: crypto/rand ends the process instead
	k, err := b.wrap(ctx, "GenerateDataKey", in.KeyID, plain, in.EncryptionContext)
	if err != nil {
		plain.Wipe()
	}
	return k, err
}

// wrap seals plain under the current branch key of key. The DataKey has plain itself.
func (b *Branch) wrap(ctx context.Context, op string, key KeyRef, plain PlaintextKey, ec Context) (DataKey, error) {
	if err := b.check(ctx, ec); err != nil {
		return DataKey{}, err
	}
	if _, err := key.Parse(); err != nil {
		return DataKey{}, err
	}
	slot := slotOf(key, ec)
	bk, err := b.take(ctx, slot, key, ec)
	if err != nil {
		return DataKey{}, err
	}
	r, err := b.cache.Decrypt(ctx, DecryptInput{CiphertextBlob: bk.wrapped, EncryptionContext: bk.context, KeyID: bk.cmk})
	if err != nil {
		if !unreachable(err) && ctx.Err() == nil {
			b.drop(slot, bk)
		}
		return DataKey{}, err
	}
	defer r.Plaintext.Wipe()
	blob, err := sealBranchBlob(op, bk.id, r.Plaintext.Bytes(), bk.wrapped, plain.Bytes(), ec)
	if err != nil {
		return DataKey{}, err
	}
	return DataKey{Plaintext: plain, CiphertextBlob: blob, KeyID: r.KeyID, KeyMaterialID: r.KeyMaterialID}, nil
}

// check refuses what no call is spent on.
func (b *Branch) check(ctx context.Context, ec Context) error {
	if b.closed.Load() {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return checkBranchContext(ec)
}

// slotOf names the branch key for new data keys of a CMK and a context.
func slotOf(key KeyRef, ec Context) cacheKey {
	return blake3.Sum256(append(branchContext(branchID{}, ec).Canonical(), key...))
}

// maxBranches bounds the branch keys in use at once. One vault and CMK has one.
const maxBranches = 1024

// take returns the branch key of slot with one use of it, made where there is none or its time or count is up. Concurrent
// callers wait for one call.
func (b *Branch) take(ctx context.Context, slot cacheKey, key KeyRef, ec Context) (*branchKey, error) {
	for {
		b.mu.Lock()
		bk := b.current[slot]
		if bk != nil {
			select {
			case <-bk.ready:
				if bk.err == nil && bk.left > 0 && b.clock.Now().Sub(bk.born) < b.limits.MaxAge {
					bk.left--
					b.mu.Unlock()
					return bk, nil
				}
				bk = nil
			default:
			}
		}
		if bk == nil {
			if len(b.current) >= maxBranches {
				clear(b.current)
			}
			bk = &branchKey{ready: make(chan struct{})}
			b.current[slot] = bk
			b.mu.Unlock()
			b.make(ctx, bk, key, ec)
			b.mu.Lock()
			if bk.err != nil && b.current[slot] == bk {
				delete(b.current, slot)
			}
			b.mu.Unlock()
			if bk.err != nil {
				return nil, bk.err
			}
			continue
		}
		b.mu.Unlock()
		select {
		case <-bk.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if bk.err != nil && !errors.Is(bk.err, context.Canceled) && !errors.Is(bk.err, context.DeadlineExceeded) {
			return nil, bk.err // else it was the first caller who gave up
		}
	}
}

// make has the CMK make the branch key bk.
func (b *Branch) make(ctx context.Context, bk *branchKey, key KeyRef, ec Context) {
	defer close(bk.ready)
	rand.Read(bk.id[:])
	bk.context = branchContext(bk.id, ec)
	dk, err := b.cache.GenerateDataKey(ctx, GenerateDataKeyInput{KeyID: key, EncryptionContext: bk.context, NumberOfBytes: branchKeySize})
	if err != nil {
		bk.err = err
		return
	}
	dk.Plaintext.Wipe() // the cache has it
	bk.wrapped, bk.cmk, bk.born, bk.left = dk.CiphertextBlob, KeyRef(dk.KeyID), b.clock.Now(), b.limits.MaxCount
}

// drop has the next caller of slot make another branch key.
func (b *Branch) drop(slot cacheKey, bk *branchKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current[slot] == bk {
		delete(b.current, slot)
	}
}

// Decrypt implements Keysource. It calls below only for a branch key that the cache does not have.
func (b *Branch) Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error) {
	if !isBranchBlob(in.CiphertextBlob) {
		return b.cache.Decrypt(ctx, in)
	}
	if err := b.check(ctx, in.EncryptionContext); err != nil {
		return DecryptResult{}, err
	}
	blob, err := parseBranchBlob("Decrypt", in.CiphertextBlob)
	if err != nil {
		return DecryptResult{}, err
	}
	r, err := b.cache.Decrypt(ctx, DecryptInput{CiphertextBlob: blob.wrapped,
		EncryptionContext: branchContext(blob.id, in.EncryptionContext), KeyID: in.KeyID})
	if err != nil {
		return DecryptResult{}, err
	}
	defer r.Plaintext.Wipe()
	key, err := blob.open("Decrypt", r.Plaintext.Bytes(), in.EncryptionContext)
	if err != nil {
		return DecryptResult{}, err
	}
	return DecryptResult{Plaintext: key, KeyID: r.KeyID, KeyMaterialID: r.KeyMaterialID}, nil
}

// DescribeKey implements Keysource; it is passed through.
func (b *Branch) DescribeKey(ctx context.Context, key KeyRef) (KeyMetadata, error) {
	return b.cache.DescribeKey(ctx, key)
}

// Purge wipes every branch key and data key, and begins new branch keys.
func (b *Branch) Purge() {
	b.mu.Lock()
	clear(b.current)
	clear(b.moved)
	b.mu.Unlock()
	b.cache.Purge()
}

// Renew begins new branch keys: data keys made from now on are under the CMK and key material that are current. What the
// cache has stays.
func (b *Branch) Renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.current)
}

// Stats returns the counters of the cache.
func (b *Branch) Stats() CacheStats { return b.cache.Stats() }

// Close implements Keysource: it wipes the branch keys and closes the keysource below.
func (b *Branch) Close() error {
	b.closed.Store(true)
	return b.cache.Close()
}
