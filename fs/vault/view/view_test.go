package view_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/backingtest"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/view"
	"kmsfs/keysource/local"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	m.Run()
}

// newDir is the root of a new vault.
func newDir(t *testing.T) backing.Dir {
	t.Helper()
	ks, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	top := memfs.New(memfs.Config{}).Root
	if err := vault.Create(t.Context(), top(), ks, vault.CreateConfig{Keysource: "local:", Key: "alias/aws/kmsfs"}); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), top(), ks, vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return view.Root(t.Context(), v)
}

func TestContract(t *testing.T) { backingtest.Run(t, newDir, "lock", "lock and wait") }
