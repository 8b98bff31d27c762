package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestExchangedVault: who can write a vault puts one of his own in its place, with a key store within it. It is not opened at its own
// word, and nothing is written that he could read.
func TestExchangedVault(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("init --key-store keys mine")
	b.mkdir("v")
	b.ok("init --key-store v/.keys his")
	for _, move := range [][2]string{{"v", "his/.v"}, {"his", "v"}, {"v/.v/.keys", "v/.keys"}} {
		if err := os.Rename(b.dir+"/"+move[0], b.dir+"/"+move[1]); err != nil {
			t.Fatal(err)
		}
	}
	config := b.dir + "/v/.kmsfs/vault.json"
	before, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"mount v p", "ls v"} {
		b.fails(3, "names a key store within itself", "--key-store", verb)
	}
	b.ok("mount --key-store v/.keys v p") // who says so has it
	b.ok("umount p")
	b.fails(8, "", "--key-store", "mount --key-store keys v p")
	after, err := os.ReadFile(config)
	if err != nil || string(after) != string(before) {
		t.Errorf("vault.json was changed: %v", err)
	}
}

// TestCheckNamed: a vault that the default key store knows is not opened with another keysource unless that is named.
func TestCheckNamed(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	v, other := filepath.Join(dir, "v"), filepath.Join(dir, "other")
	if err := noteKnown(store, v, "0123", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		store, path, url string
		want             error
	}{
		{store, v, "local:" + store, nil},
		{store, v, "local:" + dir + "/elsewhere", errForeign},
		{store, v, "awskms:///alias/x?region=eu-central-1&endpoint=https://kms.example", errForeign},
		{store, other, "local:" + dir + "/elsewhere", nil},
		{store, other, "awskms:///alias/x", nil},
		{store, other, "local:" + other + "/keys", errForeign},
		{"", other, "local:" + other, errForeign},
		{"", v, "awskms:///alias/x", nil},
		{dir + "/none", v, "awskms:///alias/x", nil},
	} {
		if err := checkNamed(c.store, c.path, c.url); !errors.Is(err, c.want) {
			t.Errorf("%q, %s, %s: %v, want %v", c.store, c.path, c.url, err, c.want)
		}
	}
	// Another vault is made there.
	if err := forgetKnown(store, v, "awskms:///alias/x"); err != nil {
		t.Fatal(err)
	}
	if err := checkNamed(store, v, "awskms:///alias/x"); err != nil {
		t.Error(err)
	}
}
