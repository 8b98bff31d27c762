package vault_test

import (
	"errors"
	"path/filepath"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// TestSeveralWrappings: with several CMKs any one opens the vault and its files, and without all none does.
func TestSeveralWrappings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	ks, err := local.Create(ctx, local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer ks.Close()
	var keys []keysource.KeyRef
	var more []string
	for i := range 3 {
		md, err := ks.CreateKey(ctx, keysource.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, keysource.KeyRef(md.KeyID))
		if i > 0 {
			more = append(more, md.KeyID)
		}
	}
	at, _ := inMemory()
	d := at()
	c := vault.CreateConfig{Keysource: "local:store", Key: string(keys[0]), AlsoWrap: more}
	if err := vault.Create(ctx, d, ks, c); err != nil {
		t.Fatal(err)
	}
	d.Close()
	v := openVault(t, at, ks, vault.Options{})
	if n := len(v.Config().Wrappings); n != 3 {
		t.Fatalf("%d wrappings of the volume key", n)
	}
	createFiles(t, v, 50)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		for j, key := range keys {
			change := ks.DisableKey
			if i == j {
				change = ks.EnableKey
			}
			if err := change(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		v := openVault(t, at, ks, vault.Options{})
		for f := range 50 {
			if err := readFile(v, f); err != nil {
				t.Fatalf("with CMK %d alone: %v", i, err)
			}
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := ks.DisableKey(ctx, keys[2]); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Open(ctx, at(), ks, vault.Options{}); !errors.Is(err, keysource.ErrDisabled) {
		t.Errorf("without any CMK: %v", err)
	}
	for _, key := range keys {
		if err := ks.EnableKey(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	for _, more := range [][]string{{string(keys[0])}, {string(keys[1]), string(keys[1])}} {
		at, _ := inMemory()
		if err := func(d backing.Dir) error {
			defer d.Close()
			return vault.Create(ctx, d, ks, vault.CreateConfig{Keysource: "local:store", Key: string(keys[0]), AlsoWrap: more})
		}(at()); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("a CMK that is named twice: %v", err)
		}
	}
}
