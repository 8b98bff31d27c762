package keysource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// RetryConfig says how a [Retry] tries again. The zero value is the default described at each field.
type RetryConfig struct {
	// MaxAttempts counts the first attempt too; 0 is 5.
	MaxAttempts int
	// BaseDelay is the most that the first wait takes; each further one doubles. 0 is 50 ms.
	BaseDelay time.Duration
	// ThrottleDelay takes the place of BaseDelay after ErrThrottled; 0 is 500 ms.
	ThrottleDelay time.Duration
	// MaxDelay bounds one wait; 0 is 5 s.
	MaxDelay time.Duration
	// AttemptTimeout ends one attempt that hangs, which counts as ErrUnavailable; 0 is no bound.
	AttemptTimeout time.Duration
	// Timeout bounds the call with all its attempts, besides the caller's deadline; 0 is 30 s.
	Timeout time.Duration
	// Clock is the time for the waits; nil is SystemClock. The timeouts are of contexts and so of real time.
	Clock Clock
	// Rand returns a number in [0, 1), safe for concurrent use; nil is math/rand/v2. It spreads the waits out.
	Rand func() float64
}

// withDefaults fills in the defaults.
func (c RetryConfig) withDefaults() RetryConfig {
	setDefault(&c.MaxAttempts, 5)
	setDefault(&c.BaseDelay, 50*time.Millisecond)
	setDefault(&c.ThrottleDelay, 500*time.Millisecond)
	setDefault(&c.MaxDelay, 5*time.Second)
	setDefault(&c.Timeout, 30*time.Second)
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

// setDefault sets *p where it has no positive value.
func setDefault[T int | time.Duration](p *T, value T) {
	if *p <= 0 {
		*p = value
	}
}

// Retry is a Keysource that tries failed calls again where [Retryable] says so: exponential backoff with full jitter,
// not past the caller's deadline. It holds no lock and starts no goroutine.
type Retry struct {
	inner Keysource
	cfg   RetryConfig
}

// NewRetry decorates inner, which the Retry owns from then on: Close closes it.
func NewRetry(inner Keysource, cfg RetryConfig) *Retry {
	return &Retry{inner, cfg.withDefaults()}
}

// GenerateDataKey implements Keysource. An attempt whose answer was lost may have made a key that nobody uses.
func (r *Retry) GenerateDataKey(ctx context.Context, in GenerateDataKeyInput) (DataKey, error) {
	return retry(ctx, r.cfg, func(ctx context.Context) (DataKey, error) { return r.inner.GenerateDataKey(ctx, in) })
}

// Decrypt implements Keysource.
func (r *Retry) Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error) {
	return retry(ctx, r.cfg, func(ctx context.Context) (DecryptResult, error) { return r.inner.Decrypt(ctx, in) })
}

// ReEncrypt implements Keysource.
func (r *Retry) ReEncrypt(ctx context.Context, in ReEncryptInput) (ReEncryptResult, error) {
	return retry(ctx, r.cfg, func(ctx context.Context) (ReEncryptResult, error) { return r.inner.ReEncrypt(ctx, in) })
}

// DescribeKey implements Keysource.
func (r *Retry) DescribeKey(ctx context.Context, key KeyRef) (KeyMetadata, error) {
	return retry(ctx, r.cfg, func(ctx context.Context) (KeyMetadata, error) { return r.inner.DescribeKey(ctx, key) })
}

// Close implements Keysource.
func (r *Retry) Close() error { return r.inner.Close() }

// retry runs call until it succeeds, fails for good, or there is no attempt or time left. The error is that of the
// last attempt.
func retry[T any](ctx context.Context, cfg RetryConfig, call func(context.Context) (T, error)) (T, error) {
	parent := ctx
	ctx, cancel := context.WithTimeout(parent, cfg.Timeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		result, err := try(parent, ctx, cfg.AttemptTimeout, call)
		if err == nil || !Retryable(err) || ctx.Err() != nil {
			return result, err
		}
		delay := cfg.delay(attempt, err)
		deadline, _ := ctx.Deadline() // there is one: Timeout
		if attempt >= cfg.MaxAttempts || time.Until(deadline) <= delay {
			if attempt == 1 {
				return result, err
			}
			return result, fmt.Errorf("after %d attempts: %w", attempt, err)
		}
		if cfg.Clock.Sleep(ctx, delay) != nil {
			return result, err
		}
	}
}

// try makes one attempt. A deadline of ours that passed, while the caller's parent context still runs, is the
// keysource's failure and not the caller's.
func try[T any](parent, ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	result, err := call(ctx)
	if err != nil && parent.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = &Error{Code: CodeDependencyTimeout, Kind: ErrUnavailable, Message: "no answer in time", Err: err}
	}
	return result, err
}

// delay is how long to wait after the given attempt, counted from 1, failed with err.
func (c RetryConfig) delay(attempt int, err error) time.Duration {
	d := c.BaseDelay
	if errors.Is(err, ErrThrottled) {
		d = c.ThrottleDelay
	}
	for range attempt - 1 {
		if d >= c.MaxDelay {
			break
		}
		d *= 2
	}
	d = time.Duration(c.Rand() * float64(min(d, c.MaxDelay)))
	// The KMS's own word is a lower bound; it is bounded in turn, so that a wrong one cannot stop the mount.
	if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > d {
		d = min(e.RetryAfter, c.MaxDelay)
	}
	return d
}
