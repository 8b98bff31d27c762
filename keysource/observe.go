package keysource

import (
	"context"
	"time"
)

// Observed is a Keysource that tells of each call below: its operation by the name of AWS KMS, how it ended and how long it
// took. Under a Retry it sees every attempt.
type Observed struct {
	inner Keysource
	tell  func(operation string, err error, took time.Duration)
}

// NewObserved decorates inner, which the Observed owns from then on: Close closes it. tell is called by several goroutines
// at once, and must not block.
func NewObserved(inner Keysource, tell func(operation string, err error, took time.Duration)) *Observed {
	return &Observed{inner, tell}
}

// observe makes a call and tells of it.
func observe[T any](o *Observed, operation string, call func() (T, error)) (T, error) {
	began := time.Now()
	result, err := call()
	o.tell(operation, err, time.Since(began))
	return result, err
}

// GenerateDataKey implements Keysource.
func (o *Observed) GenerateDataKey(ctx context.Context, in GenerateDataKeyInput) (DataKey, error) {
	return observe(o, "GenerateDataKey", func() (DataKey, error) { return o.inner.GenerateDataKey(ctx, in) })
}

// Decrypt implements Keysource.
func (o *Observed) Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error) {
	return observe(o, "Decrypt", func() (DecryptResult, error) { return o.inner.Decrypt(ctx, in) })
}

// ReEncrypt implements Keysource.
func (o *Observed) ReEncrypt(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	return observe(o, "ReEncrypt", func() (ReEncryptResult, error) { return o.inner.ReEncrypt(ctx, in) })
}

// DescribeKey implements Keysource.
func (o *Observed) DescribeKey(ctx context.Context, key KeyRef) (KeyMetadata, error) {
	return observe(o, "DescribeKey", func() (KeyMetadata, error) { return o.inner.DescribeKey(ctx, key) })
}

// Close implements Keysource.
func (o *Observed) Close() error { return o.inner.Close() }
