package keysource_test

import (
	"context"
	"testing"

	"kmsfs/keysource"
)

// wild is a keysource that panics.
type wild struct{ keysource.Keysource }

func (wild) GenerateDataKey(context.Context, keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	panic("generate")
}

func (wild) Decrypt(context.Context, keysource.DecryptInput) (keysource.DecryptResult, error) {
	panic("decrypt")
}

func (wild) ReEncrypt(context.Context, keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	panic("reencrypt")
}

func (wild) DescribeKey(context.Context, keysource.KeyRef) (keysource.KeyMetadata, error) {
	panic("describe")
}

func (wild) Close() error { return nil }

// TestGuarded: a panic is an error that is not tried again and not remembered, also in the goroutines of a cache.
func TestGuarded(t *testing.T) {
	told := make(chan any, 100)
	k := keysource.NewCache(keysource.NewGuarded(wild{}, func(operation string, panicked any) { told <- panicked }), keysource.CacheConfig{})
	defer k.Close()
	for what, call := range map[string]func() error{
		"generate": func() error {
			_, err := k.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: "alias/x"})
			return err
		},
		"decrypt": func() error {
			_, err := k.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: []byte("x"), KeyID: "alias/x"})
			return err
		},
		"reencrypt": func() error {
			_, err := k.ReEncrypt(t.Context(), keysource.ReEncryptInput{DestinationKeyID: "alias/x"})
			return err
		},
		"describe": func() error { _, err := k.DescribeKey(t.Context(), "alias/x"); return err },
	} {
		err := call()
		if err == nil || keysource.Retryable(err) {
			t.Errorf("%s: %v", what, err)
		}
		select {
		case got := <-told:
			if got != what {
				t.Errorf("told %v, want %s", got, what)
			}
		default:
			t.Errorf("%s: not told", what)
		}
	}
}
