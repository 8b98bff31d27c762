package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/keysource/local"
)

// kmsBench is a bench whose processes find a KMS with the CMK alias/files, and credentials.
type kmsBench struct {
	*bench
	store *local.Store
	key   keysource.KeyMetadata
	url   string
	deny  atomic.Pointer[string] // an operation that is denied
}

func newKMSBench(t *testing.T) *kmsBench {
	t.Helper()
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "none",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_KMS": ""} {
		t.Setenv(name, value)
	}
	b := &kmsBench{bench: newBench(t)}
	var err error
	if b.store, err = local.Create(t.Context(), local.Config{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	if b.key, err = b.store.CreateKey(t.Context(), keysource.CreateKeyInput{}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.CreateAlias(t.Context(), "alias/files", keysource.KeyRef(b.key.KeyID)); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&awskmstest.Server{Keys: b.store, Intercept: func(op string, w http.ResponseWriter, _ *http.Request) bool {
		if denied := b.deny.Load(); denied == nil || *denied != op {
			return false
		}
		awskmstest.Fail(w, http.StatusBadRequest, keysource.CodeAccessDenied, "User is not authorized to perform kms:"+op)
		return true
	}})
	t.Cleanup(server.Close)
	b.url = "awskms:///alias/files?endpoint=" + server.URL + "&region=local"
	return b
}

func TestDoctor(t *testing.T) {
	b := newKMSBench(t)
	var d diagnosis
	b.json("doctor --json "+b.url, &d)
	if !d.OK || d.CMK != b.key.ARN || d.KeyState != "Enabled" || len(d.Checks) != 5 || len(d.Missing) != 0 || d.Policy == nil {
		t.Errorf("%+v", d)
	}
	text := b.ok("doctor " + b.url)
	for _, want := range []string{b.key.ARN, "GenerateDataKey", "kms:ReEncryptFrom", `"Principal"`, ":iam::000000000000:role/ROLE"} {
		if !strings.Contains(text, want) {
			t.Errorf("doctor does not say %s:\n%s", want, text)
		}
	}
	for _, op := range []string{"DescribeKey", "GenerateDataKey", "Decrypt", "ReEncrypt"} {
		b.deny.Store(&op)
		r := b.run([]string{"doctor", b.url})
		b.check(r, 16, op+" failed", "allow kms:"+op, "doctor "+b.url)
		if !strings.Contains(r.stdout, "missing: kms:"+op) || !strings.Contains(r.stdout, "request "+op) {
			t.Errorf("%s denied: %s", op, r.stdout)
		}
	}
	b.deny.Store(nil)
	if err := b.store.DisableKey(t.Context(), keysource.KeyRef(b.key.KeyID)); err != nil {
		t.Fatal(err)
	}
	b.fails(15, "is disabled", "", "doctor "+b.url)
	b.fails(17, "alias/none", "", "doctor --key alias/none "+b.url)
	b.fails(18, "cannot reach the KMS", "", "doctor awskms:///alias/files?region=local&endpoint=http://127.0.0.1:1")
	b.fails(11, "no key store", "", "doctor local:none")
	b.fails(2, "unknown key source scheme", "", "doctor ftp:x")
	b.ok("key create --key-store keys --alias alias/one")
	if text := b.ok("doctor --key alias/one local:keys"); strings.Contains(text, "Principal") {
		t.Errorf("a key policy for a local key store: %s", text)
	}
}

// TestAWSKMSVault makes vaults whose CMK is in a KMS.
func TestAWSKMSVault(t *testing.T) {
	b := newKMSBench(t)
	b.ok("init --keysource " + b.url + " v")
	var v vaultInfo
	b.json("info --json v", &v)
	if v.Key != "alias/files" || !strings.HasPrefix(v.Keysource, "awskms:///alias/files?endpoint=http") || v.Wrappings[0].CMK != b.key.ARN {
		t.Errorf("%+v", v)
	}
	b.ok("init --branch-keys=2h,500 --keysource " + b.url + " w")
	b.json("info --json w", &v)
	if !strings.Contains(v.Keysource, "branch=2h0m0s%2C500") {
		t.Errorf("%+v", v)
	}
	b.ok("init --key " + b.key.KeyID + " --keysource " + b.url + " x")
	b.json("info --json x", &v)
	if v.Key != b.key.KeyID {
		t.Errorf("%+v", v)
	}
	op := "GenerateDataKey"
	b.deny.Store(&op)
	b.fails(16, "not authorized", "kmsfs doctor", "init --keysource "+b.url+" y")
}
