package keysource

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestObserved: under a Retry every attempt is told of, with its own error.
func TestObserved(t *testing.T) {
	var w wrapper
	var told []string
	o := NewObserved(&w, func(op string, err error, took time.Duration) {
		told = append(told, fmt.Sprintf("%s %v %v", op, errors.Is(err, ErrThrottled), took >= 0))
	})
	r := NewRetry(o, RetryConfig{MaxAttempts: 2, BaseDelay: time.Nanosecond, ThrottleDelay: time.Nanosecond})
	throttled := error(NewError("", "", CodeThrottling, ""))
	w.err.Store(&throttled)
	if _, err := r.GenerateDataKey(t.Context(), GenerateDataKeyInput{NumberOfBytes: 32}); !errors.Is(err, ErrThrottled) {
		t.Errorf("got %v", err)
	}
	w.err.Store(nil)
	k, err := r.GenerateDataKey(t.Context(), GenerateDataKeyInput{NumberOfBytes: 32})
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := r.Decrypt(t.Context(), DecryptInput{CiphertextBlob: k.CiphertextBlob})
	_, err2 := r.ReEncrypt(t.Context(), ReEncryptInput{CiphertextBlob: k.CiphertextBlob})
	_, err3 := r.DescribeKey(t.Context(), "x")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	want := []string{"GenerateDataKey true true", "GenerateDataKey true true", "GenerateDataKey false true", "Decrypt false true",
		"ReEncrypt false true", "DescribeKey false true"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
