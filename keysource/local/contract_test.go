package local

import (
	"bytes"
	"context"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/keysourcetest"
	"kmsfs/keysource/passphrase"
)

// cheapArgon2 keeps tests fast.
func cheapArgon2() Argon2 { return Argon2{MemoryKiB: 64, Time: 1, Threads: 1} }

// says is a Source that always answers p.
func says(p string) passphrase.Source {
	return func(context.Context, passphrase.Purpose) ([]byte, error) { return []byte(p), nil }
}

// create makes a store in a new directory.
func create(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := Create(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// contractTarget makes a store with the keys that the suite wants.
func contractTarget(t *testing.T, cfg Config) keysourcetest.Target {
	s := create(t, cfg)
	ctx := t.Context()
	var keys [2]keysource.KeyMetadata
	for i := range keys {
		var err error
		if keys[i], err = s.CreateKey(ctx, keysource.CreateKeyInput{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateAlias(ctx, "alias/a", keysource.KeyRef(keys[0].KeyID)); err != nil {
		t.Fatal(err)
	}
	a, b := keysource.KeyRef(keys[0].ARN), keysource.KeyRef(keys[1].ARN)
	return keysourcetest.Target{
		Keysource: s, KeyA: a, KeyB: b,
		OtherNames: []keysource.KeyRef{keysource.KeyRef(keys[0].KeyID), "alias/a",
			"arn:aws:kms:local:000000000000:alias/a"},
		Disable: func(ctx context.Context) error { return s.DisableKey(ctx, b) },
		Enable:  func(ctx context.Context) error { return s.EnableKey(ctx, b) },
		Rotate: func(ctx context.Context) error {
			_, err := s.RotateKeyOnDemand(ctx, a)
			return err
		},
	}
}

func TestContractKeyFile(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target { return contractTarget(t, Config{}) })
}

func TestContractPassphrase(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		return contractTarget(t, Config{Master: Master{Passphrase: says("open sesame"), Argon2: cheapArgon2()}})
	})
}

// TestContractOtherProcess runs the suite on a second Store, while the first makes the changes.
func TestContractOtherProcess(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		dir := t.TempDir()
		target := contractTarget(t, Config{Dir: dir})
		s, err := Open(t.Context(), Config{Dir: dir, CheckInterval: -1})
		if err != nil {
			t.Fatal(err)
		}
		target.Keysource = s
		return target
	})
}

func TestContractCache(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		target := contractTarget(t, Config{})
		c := keysource.NewCache(target.Keysource, keysource.CacheConfig{})
		target.Keysource, target.Settle = c, c.Purge
		return target
	})
}

func TestContractTinyCache(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		target := contractTarget(t, Config{})
		c := keysource.NewCache(target.Keysource, keysource.CacheConfig{MaxCount: 1, MaxAge: time.Nanosecond})
		target.Keysource, target.Settle = c, c.Purge
		return target
	})
}

func TestContractRetry(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		target := contractTarget(t, Config{})
		target.Keysource = keysource.NewRetry(target.Keysource, keysource.RetryConfig{AttemptTimeout: time.Minute})
		return target
	})
}

func TestContractCacheOverRetry(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		target := contractTarget(t, Config{})
		c := keysource.NewCache(keysource.NewRetry(target.Keysource, keysource.RetryConfig{}), keysource.CacheConfig{})
		target.Keysource, target.Settle = c, c.Purge
		return target
	})
}

// branched puts branch keys over a target.
func branched(t *testing.T, target keysourcetest.Target, limits keysource.BranchLimits) keysourcetest.Target {
	b, err := keysource.NewBranch(keysource.NewCache(target.Keysource, keysource.CacheConfig{}), limits, nil)
	if err != nil {
		t.Fatal(err)
	}
	target.Keysource, target.Settle = b, b.Purge
	return target
}

func TestContractBranch(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		return branched(t, contractTarget(t, Config{}), keysource.DefaultBranchLimits())
	})
}

func TestContractTinyBranch(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		return branched(t, contractTarget(t, Config{}), keysource.BranchLimits{MaxAge: time.Second, MaxCount: 1})
	})
}

func BenchmarkGenerateDataKey(b *testing.B) {
	s := create(b, Config{})
	in := keysource.GenerateDataKeyInput{KeyID: DefaultAlias, EncryptionContext: benchContext()}
	b.ReportAllocs()
	for b.Loop() {
		k, err := s.GenerateDataKey(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		k.Plaintext.Wipe()
	}
}

func BenchmarkDecrypt(b *testing.B) {
	s := create(b, Config{})
	benchmarkDecrypt(b, s, s)
}

func BenchmarkDecryptCached(b *testing.B) {
	s := create(b, Config{})
	c := keysource.NewCache(s, keysource.CacheConfig{})
	b.Cleanup(func() { _ = c.Close() })
	benchmarkDecrypt(b, s, c)
}

func BenchmarkDecryptParallel(b *testing.B) {
	s := create(b, Config{})
	in := benchBlob(b, s)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Decrypt(b.Context(), in); err != nil {
				b.Error(err)
			}
		}
	})
}

// benchmarkDecrypt measures Decrypt of ks with a key that s made.
func benchmarkDecrypt(b *testing.B, s *Store, ks keysource.Keysource) {
	in := benchBlob(b, s)
	b.ReportAllocs()
	for b.Loop() {
		r, err := ks.Decrypt(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		r.Plaintext.Wipe()
	}
}

// benchContext is the context that kmsfs uses.
func benchContext() keysource.Context {
	return keysource.Context{"kmsfs:volume": "0b7e8c1f5a6d4e2f9b7c3d1a2e4f6a8b",
		"kmsfs:file": "5a6d4e2f9b7c3d1a2e4f6a8b0b7e8c1f", "kmsfs:format": "1"}
}

// benchBlob makes a wrapped key.
func benchBlob(b *testing.B, s *Store) keysource.DecryptInput {
	k, err := s.GenerateDataKey(b.Context(),
		keysource.GenerateDataKeyInput{KeyID: DefaultAlias, EncryptionContext: benchContext()})
	if err != nil {
		b.Fatal(err)
	}
	if len(k.CiphertextBlob) > 160 || !bytes.HasPrefix(k.CiphertextBlob, []byte(blobMagic)) {
		b.Fatalf("a wrapped key has %d bytes", len(k.CiphertextBlob))
	}
	return keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, EncryptionContext: benchContext(),
		KeyID: keysource.KeyRef(k.KeyID)}
}
