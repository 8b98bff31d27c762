// Package kmsmount tests mounts whose CMK is in a KMS: how fast they are where each call takes its time, and what they do when
// it is slow, denies, is gone or answers nonsense.
package kmsmount

import (
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/keysource/local"
)

// kms is a KMS in this process, in front of a key store.
type kms struct {
	*awskmstest.Server
	store *local.Store
	key   keysource.KeyMetadata
	http  *httptest.Server
}

// newKMS makes a KMS with one CMK, alias/files.
func newKMS(t testing.TB, latency time.Duration) *kms {
	t.Helper()
	s, err := local.Create(t.Context(), local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	k := &kms{Server: &awskmstest.Server{Keys: s, Latency: latency}, store: s}
	if k.key, err = s.CreateKey(t.Context(), keysource.CreateKeyInput{}); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateAlias(t.Context(), "alias/files", keysource.KeyRef(k.key.KeyID)); err != nil {
		t.Fatal(err)
	}
	k.http = httptest.NewServer(k.Server)
	t.Cleanup(k.http.Close)
	return k
}

// url is the keysource URL of the KMS as it is reached at endpoint, with more options.
func keysourceURL(endpoint, more string) string {
	return "awskms:///alias/files?region=local&endpoint=" + url.QueryEscape(endpoint) + more
}

// environment has the daemon's SDK find credentials, and nothing of the machine's own.
func environment() []string {
	return []string{"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=none", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
}
