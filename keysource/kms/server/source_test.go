package server

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kmsfs/keysource/kms/identity"
)

// TestForgedSource: a client of a unix socket binds its end to a path that reads like an address, and is not taken to
// come from there: not by a policy, not in the audit log, not in the log.
func TestForgedSource(t *testing.T) {
	t.Chdir(t.TempDir())
	b := newTestbed(t, nil, "administrator")
	policy := identity.Policy{Name: "home", Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"kms:*","Resource":"*",
		"Condition":{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}]}`}
	attach := func(all []identity.Policy) ([]identity.Policy, error) { return append(all, policy), nil }
	if err := b.users.SetPolicies(t.Context(), identity.User, "alice", attach); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(UnixPrefix+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.s.Serve(ctx, l) }()
	b.url = "http://unix/"
	b.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.UnixAddr{Name: "10.1.2.3:9", Net: "unix"}}
		return d.DialContext(ctx, "unix", path)
	}}}
	if r := b.call("ListKeys", "{}"); r.code() != "AccessDeniedException" {
		t.Errorf("from a path like an address of the policy: %d %s", r.status, r.text)
	}
	unsigned := b.request("ListKeys", "{}")
	unsigned.Header.Del("Authorization")
	b.do(unsigned)
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(b.path)
	if err != nil || !strings.Contains(string(text), `"sourceIPAddress":"unix socket"`) || strings.Contains(string(text), "10.1.2.3") {
		t.Errorf("%s, %v", text, err)
	}
	if log := b.log.String(); !strings.Contains(log, "not authenticated") || strings.Contains(log, "10.1.2.3") {
		t.Errorf("the log: %s", log)
	}
}
