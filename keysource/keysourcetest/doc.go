// Package keysourcetest is the contract of keysource.Keysource: [Run] checks an implementation against it. The same
// suite runs on the key stores and on every decorator.
package keysourcetest

import (
	"context"
	"errors"
	"testing"

	"kmsfs/keysource"
)

// Target is an implementation under test. Keysource, KeyA and KeyB are needed; without the others the tests that need
// them are skipped.
type Target struct {
	// Keysource is the implementation. The suite closes it.
	Keysource keysource.Keysource
	// KeyA and KeyB are two enabled CMKs, each named by its ARN.
	KeyA, KeyB keysource.KeyRef
	// OtherNames are further names of KeyA: id, alias, alias ARN.
	OtherNames []keysource.KeyRef
	// Disable and Enable change the state of KeyB.
	Disable, Enable func(ctx context.Context) error
	// Rotate gives KeyA new key material.
	Rotate func(ctx context.Context) error
	// Settle makes a change take effect at once: it purges caches, or waits. nil does nothing.
	Settle func()
}

// Run checks the contract. newTarget makes a fresh implementation for each test.
func Run(t *testing.T, newTarget func(t *testing.T) Target) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, target Target)
	}{
		{"GenerateDataKey", testGenerate},
		{"Sizes", testSizes},
		{"Names", testNames},
		{"NotFound", testNotFound},
		{"RoundTrip", testRoundTrip},
		{"Context", testContext},
		{"InvalidContext", testInvalidContext},
		{"DamagedBlob", testDamage},
		{"IncorrectKey", testIncorrectKey},
		{"ReEncrypt", testReEncrypt},
		{"Disabled", testDisabled},
		{"Rotate", testRotate},
		{"DescribeKey", testDescribe},
		{"Ownership", testOwnership},
		{"ContextEnds", testContextEnds},
		{"Concurrent", testConcurrent},
		{"Close", testClose},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := newTarget(t)
			if target.Settle == nil {
				target.Settle = func() {}
			}
			t.Cleanup(func() {
				if err := target.Keysource.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, target)
		})
	}
}

// exampleContext is an encryption context as kmsfs uses one.
func exampleContext() keysource.Context {
	return keysource.Context{"kmsfs:volume": "0b7e", "kmsfs:file": "ffd3", "kmsfs:format": "1"}
}

// generate makes a data key under KeyA.
func generate(t *testing.T, target Target, ec keysource.Context) keysource.DataKey {
	t.Helper()
	k, err := target.Keysource.GenerateDataKey(t.Context(),
		keysource.GenerateDataKeyInput{KeyID: target.KeyA, EncryptionContext: ec})
	if err != nil {
		t.Fatalf("GenerateDataKey: %v", err)
	}
	return k
}

// wantOpens checks that blob opens as want.
func wantOpens(t *testing.T, target Target, blob []byte, ec keysource.Context, want keysource.PlaintextKey) keysource.DecryptResult {
	t.Helper()
	r, err := target.Keysource.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: blob, EncryptionContext: ec})
	if err != nil {
		t.Fatalf("Decrypt: %v", err)
	}
	if !r.Plaintext.Equal(want) {
		t.Fatal("Decrypt: got another key than was wrapped")
	}
	return r
}

// wantKind checks that err is of one of the kinds and is a *keysource.Error with a code.
func wantKind(t *testing.T, what string, err error, kinds ...error) {
	t.Helper()
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			e, ok := errors.AsType[*keysource.Error](err)
			if !ok || e.Code == "" {
				t.Errorf("%s: error has no code: %v", what, err)
			}
			return
		}
	}
	t.Errorf("%s: got error %v, want one of %v", what, err, kinds)
}
