package awskms

import (
	"errors"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/keysourcetest"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/kms/server"
)

// serve puts the server of kmsfs kms serve in front of s, with a user who has the ready-made policies, and makes a client
// with that user's access key.
func (s store) serve(t testing.TB, policies ...string) *Client {
	t.Helper()
	users, err := identity.Open(s.Store, identity.Config{CheckInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	var attached []identity.Policy
	for _, name := range policies {
		attached = append(attached, identity.Policy{Name: name})
	}
	if _, err := users.Create(t.Context(), identity.User, "alice", attached); err != nil {
		t.Fatal(err)
	}
	key, err := users.CreateAccessKey(t.Context(), identity.User, "alice")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Config{Path: filepath.Join(t.TempDir(), "audit.log")})
	if err != nil {
		t.Fatal(err)
	}
	account, region := s.Account()
	h, err := server.New(server.Config{Service: kms.New(s.Store, kms.Config{}), Users: users, Audit: trail, Account: account, Region: region})
	if err != nil {
		t.Fatal(err)
	}
	http := httptest.NewServer(h)
	t.Cleanup(func() {
		http.Close()
		_ = trail.Close()
	})
	credentials(t)
	t.Setenv("AWS_ACCESS_KEY_ID", key.ID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", string(key.Secret))
	c, err := Open(t.Context(), Config{Endpoint: http.URL, Region: region})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestContractServer runs the suite against kmsfs kms serve.
func TestContractServer(t *testing.T) {
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		s := newStore(t)
		return s.target(s.serve(t, "user"))
	})
}

// TestContractServerBranch runs the suite on branch keys over the server.
func TestContractServerBranch(t *testing.T) {
	long(t)
	keysourcetest.Run(t, func(t *testing.T) keysourcetest.Target {
		s := newStore(t)
		b, err := keysource.NewBranch(keysource.NewCache(s.serve(t, "user"), keysource.CacheConfig{}), keysource.DefaultBranchLimits(), nil)
		if err != nil {
			t.Fatal(err)
		}
		target := s.target(b)
		target.Settle = b.Purge
		return target
	})
}

// TestServerDenies: what the server's policies do not allow is ErrDenied, with the request id.
func TestServerDenies(t *testing.T) {
	s := newStore(t)
	c := s.serve(t, "reader")
	_, err := c.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: "alias/a"})
	e, ok := errors.AsType[*keysource.Error](err)
	if !ok || !errors.Is(err, keysource.ErrDenied) || e.RequestID == "" {
		t.Errorf("got %v", err)
	}
	k, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: "alias/a"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := c.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, KeyID: keysource.KeyRef(k.KeyID)}); err != nil ||
		!r.Plaintext.Equal(k.Plaintext) {
		t.Errorf("a reader decrypts: %v", err)
	}
}
