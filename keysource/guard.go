package keysource

import (
	"context"
	"errors"
)

// errBug is the answer of a keysource that panics. It is none of the errors that say something of a CMK, so that nothing is
// remembered of it.
var errBug = errors.New("keysource: a bug in this program; its log has the stack")

// Guarded is a Keysource whose panics are errors: a call may be made by a goroutine with nobody above it who would recover.
type Guarded struct {
	inner Keysource
	tell  func(operation string, panicked any)
}

// NewGuarded decorates inner, which the Guarded owns from then on: Close closes it. tell is called in the deferred function that
// has recovered, so that it can look at the stack, by several goroutines at once.
func NewGuarded(inner Keysource, tell func(operation string, panicked any)) *Guarded {
	return &Guarded{inner, tell}
}

func guard[T any](g *Guarded, operation string, call func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.tell(operation, p)
			err = errBug
		}
	}()
	return call()
}

// GenerateDataKey implements Keysource.
func (g *Guarded) GenerateDataKey(ctx context.Context, in GenerateDataKeyInput) (DataKey, error) {
	return guard(g, "GenerateDataKey", func() (DataKey, error) { return g.inner.GenerateDataKey(ctx, in) })
}

// Decrypt implements Keysource.
func (g *Guarded) Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error) {
	return guard(g, "Decrypt", func() (DecryptResult, error) { return g.inner.Decrypt(ctx, in) })
}

// ReEncrypt implements Keysource.
func (g *Guarded) ReEncrypt(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	return guard(g, "ReEncrypt", func() (ReEncryptResult, error) { return g.inner.ReEncrypt(ctx, in) })
}

// DescribeKey implements Keysource.
func (g *Guarded) DescribeKey(ctx context.Context, key KeyRef) (KeyMetadata, error) {
	return guard(g, "DescribeKey", func() (KeyMetadata, error) { return g.inner.DescribeKey(ctx, key) })
}

// Close implements Keysource.
func (g *Guarded) Close() error { return g.inner.Close() }
