package awskms

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/keysource/keysourcetest"
	"kmsfs/keysource/local"
)

// credentials has the SDK find credentials, and nothing of the machine's own.
func credentials(t testing.TB) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not a secret", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_KMS": "",
		"AWS_MAX_ATTEMPTS": "7", // must not count
	} {
		t.Setenv(name, value)
	}
}

// store is a key store in which two CMKs lie behind the contract.
type store struct {
	*local.Store
	a, b keysource.KeyMetadata
}

// newStore makes a key store.
func newStore(t testing.TB) store {
	t.Helper()
	s, err := local.Create(t.Context(), local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	out := store{Store: s}
	for _, md := range []*keysource.KeyMetadata{&out.a, &out.b} {
		if *md, err = s.CreateKey(t.Context(), keysource.CreateKeyInput{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateAlias(t.Context(), "alias/a", keysource.KeyRef(out.a.KeyID)); err != nil {
		t.Fatal(err)
	}
	return out
}

// open makes a client for endpoint.
func open(t testing.TB, cfg Config) *Client {
	t.Helper()
	credentials(t)
	if cfg.Region == "" {
		cfg.Region = "local"
	}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// target is ks, which asks s, for the contract.
func (s store) target(ks keysource.Keysource) keysourcetest.Target {
	b := keysource.KeyRef(s.b.ARN)
	return keysourcetest.Target{
		Keysource: ks, KeyA: keysource.KeyRef(s.a.ARN), KeyB: b,
		OtherNames: []keysource.KeyRef{keysource.KeyRef(s.a.KeyID), "alias/a", "arn:aws:kms:local:000000000000:alias/a"},
		Disable:    func(ctx context.Context) error { return s.DisableKey(ctx, b) },
		Enable:     func(ctx context.Context) error { return s.EnableKey(ctx, b) },
		Rotate: func(ctx context.Context) error {
			_, err := s.RotateKeyOnDemand(ctx, keysource.KeyRef(s.a.ARN))
			return err
		},
	}
}

func TestContract(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		s := newStore(t)
		server := httptest.NewServer(&awskmstest.Server{Keys: s})
		t.Cleanup(server.Close)
		return s.target(open(t, Config{Endpoint: server.URL}))
	})
}

// long skips one of the ways to the same code where time is short.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("one of several runs of the same suite: run without -short")
	}
}

func TestContractUnix(t *testing.T) {
	long(t)
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		s := newStore(t)
		socket := filepath.Join(t.TempDir(), "kms.socket")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: &awskmstest.Server{Keys: s}}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		return s.target(open(t, Config{Endpoint: "unix:" + socket}))
	})
}

// TestContractChain runs the suite on what a mount has: cache over retry over the client.
func TestContractChain(t *testing.T) {
	long(t)
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		s := newStore(t)
		server := httptest.NewServer(&awskmstest.Server{Keys: s})
		t.Cleanup(server.Close)
		c := keysource.NewCache(keysource.NewRetry(open(t, Config{Endpoint: server.URL}), keysource.RetryConfig{}),
			keysource.CacheConfig{})
		target := s.target(c)
		target.Settle = c.Purge
		return target
	})
}

// TestContractBranch runs the suite on branch keys over the chain of a mount.
func TestContractBranch(t *testing.T) {
	long(t)
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		s := newStore(t)
		server := httptest.NewServer(&awskmstest.Server{Keys: s})
		t.Cleanup(server.Close)
		c := keysource.NewCache(keysource.NewRetry(open(t, Config{Endpoint: server.URL}), keysource.RetryConfig{}),
			keysource.CacheConfig{})
		b, err := keysource.NewBranch(c, keysource.DefaultBranchLimits(), nil)
		if err != nil {
			t.Fatal(err)
		}
		target := s.target(b)
		target.Settle = b.Purge
		return target
	})
}

func BenchmarkDecrypt(b *testing.B) {
	s := newStore(b)
	server := httptest.NewServer(&awskmstest.Server{Keys: s})
	b.Cleanup(server.Close)
	c := open(b, Config{Endpoint: server.URL})
	k, err := c.GenerateDataKey(b.Context(), keysource.GenerateDataKeyInput{KeyID: keysource.KeyRef(s.a.ARN)})
	if err != nil {
		b.Fatal(err)
	}
	in := keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, KeyID: keysource.KeyRef(s.a.ARN)}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Decrypt(context.Background(), in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
