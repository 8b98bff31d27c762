package keysource

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a Keysource whose Decrypt is a function.
type fake struct {
	decrypt func(ctx context.Context, in DecryptInput) (DecryptResult, error)
	closed  int
}

func (f *fake) GenerateDataKey(context.Context, GenerateDataKeyInput) (DataKey, error) {
	k := NewPlaintextKey([]byte("generated"))
	return DataKey{Plaintext: k, CiphertextBlob: []byte("g"), KeyID: fakeARN}, nil
}

func (f *fake) Decrypt(ctx context.Context, in DecryptInput) (DecryptResult, error) {
	return f.decrypt(ctx, in)
}

func (f *fake) ReEncrypt(context.Context, ReEncryptInput) (ReEncryptResult, error) {
	return ReEncryptResult{}, nil
}

func (f *fake) DescribeKey(context.Context, KeyRef) (KeyMetadata, error) { return KeyMetadata{}, nil }

func (f *fake) Close() error {
	f.closed++
	return nil
}

const fakeARN = "arn:aws:kms:r:1:key/k"

// failing is a Decrypt that fails with errs one after another and then answers.
func failing(calls *int, errs ...error) *fake {
	return &fake{decrypt: func(context.Context, DecryptInput) (DecryptResult, error) {
		*calls++
		if *calls <= len(errs) {
			return DecryptResult{}, errs[*calls-1]
		}
		return DecryptResult{KeyID: fakeARN}, nil
	}}
}

func TestRetryAttempts(t *testing.T) {
	down := NewError("Decrypt", "", CodeKeyUnavailable, "down")
	slow := NewError("Decrypt", "", CodeThrottling, "slow")
	asked := &Error{Kind: ErrThrottled, RetryAfter: 3 * time.Second}
	greedy := &Error{Kind: ErrThrottled, RetryAfter: time.Hour}
	for _, test := range []struct {
		name  string
		errs  []error
		calls int
		took  time.Duration
		want  error
	}{
		{"success", nil, 1, 0, nil},
		{"once", []error{down}, 2, 50 * time.Millisecond, nil},
		{"doubling", []error{down, down, down}, 4, 350 * time.Millisecond, nil},
		{"throttled", []error{slow, slow}, 3, 1500 * time.Millisecond, nil},
		{"told when", []error{asked}, 2, 3 * time.Second, nil},
		{"told too long", []error{greedy}, 2, 5 * time.Second, nil},
		{"permanent", []error{ErrDisabled}, 1, 0, ErrDisabled},
		{"permanent later", []error{down, ErrDenied}, 2, 50 * time.Millisecond, ErrDenied},
		{"never", []error{down, down, down, down, down, down}, 5, 750 * time.Millisecond, ErrUnavailable},
		{"closed", []error{ErrClosed}, 1, 0, ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls int
				start := time.Now()
				r := NewRetry(failing(&calls, test.errs...), RetryConfig{Rand: func() float64 { return 1 }})
				_, err := r.Decrypt(t.Context(), DecryptInput{})
				if calls != test.calls || !errors.Is(err, test.want) {
					t.Errorf("got %d calls and %v, want %d and %v", calls, err, test.calls, test.want)
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
			})
		})
	}
}

func TestRetryDeadlines(t *testing.T) {
	down := NewError("Decrypt", "", CodeKeyUnavailable, "down")
	hangs := func(ctx context.Context, _ DecryptInput) (DecryptResult, error) {
		<-ctx.Done()
		return DecryptResult{}, ctx.Err()
	}
	for _, test := range []struct {
		name    string
		decrypt func(context.Context, DecryptInput) (DecryptResult, error)
		cfg     RetryConfig
		caller  time.Duration
		took    time.Duration
		want    error
	}{
		{"no wait past the caller's deadline",
			func(context.Context, DecryptInput) (DecryptResult, error) { return DecryptResult{}, down },
			RetryConfig{BaseDelay: time.Second}, 1500 * time.Millisecond, time.Second, ErrUnavailable},
		{"hang to the caller's deadline", hangs, RetryConfig{}, time.Second, time.Second, context.DeadlineExceeded},
		{"hang to our deadline", hangs, RetryConfig{Timeout: 2 * time.Second}, time.Hour, 2 * time.Second, ErrUnavailable},
		{"hanging attempts", hangs, RetryConfig{AttemptTimeout: time.Second, MaxAttempts: 3}, time.Hour,
			3*time.Second + 150*time.Millisecond, ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.caller)
				defer cancel()
				start := time.Now()
				test.cfg.Rand = func() float64 { return 1 }
				_, err := NewRetry(&fake{decrypt: test.decrypt}, test.cfg).Decrypt(ctx, DecryptInput{})
				if took := time.Since(start); took != test.took || !errors.Is(err, test.want) {
					t.Errorf("got %v after %v, want %v after %v", err, took, test.want, test.took)
				}
			})
		})
	}
}

func TestRetryCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls int
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		r := NewRetry(failing(&calls, ErrUnavailable, ErrUnavailable), RetryConfig{BaseDelay: time.Second,
			Rand: func() float64 { return 1 }})
		start := time.Now()
		_, err := r.Decrypt(ctx, DecryptInput{})
		if err == nil || calls != 1 || time.Since(start) != 10*time.Millisecond {
			t.Errorf("got %v after %d calls and %v", err, calls, time.Since(start))
		}
	})
}

func TestRetryJitter(t *testing.T) {
	cfg := RetryConfig{}.withDefaults()
	for attempt := 1; attempt < 100; attempt++ {
		if d := cfg.delay(attempt, ErrUnavailable); d < 0 || d > cfg.MaxDelay {
			t.Errorf("attempt %d waits %v", attempt, d)
		}
	}
}
