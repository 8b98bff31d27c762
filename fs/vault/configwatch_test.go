package vault_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// TestConfigReplaced: a mount with keys at hand notices another config at the next file, a second later; one that was
// forged, or is another vault's, it does not use.
func TestConfigReplaced(t *testing.T) {
	ks := testStore(t).(*local.Store)
	md, err := ks.CreateKey(ctx, keysource.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	at, _ := inMemory()
	makeVault(t, at, ks, 0)
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	renewed := 0
	v := openVault(t, at, ks, vault.Options{Now: func() time.Time { return time.Unix(0, now.Load()) }, Renew: func() { renewed++ }})
	files := 0
	cmk := func() string {
		t.Helper()
		createFile := func(name string) string {
			n, _, err := v.Create(v.Root(), name, 0o600, who)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Forget(n, 1)
			if _, err := v.Write(ctx, n, []byte("x"), 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			r, err := v.KeyInfo(n)
			if err != nil {
				t.Fatal(err)
			}
			return r.Wrappings[0].KeyARN
		}
		files++
		return createFile(strings.Repeat("f", files))
	}
	old := cmk()
	time.Sleep(50 * time.Millisecond) // the stock is made
	replace := func(change func(cfg *envelope.Config) []byte) {
		t.Helper()
		d := at()
		defer d.Close()
		cfg, err := vault.ReadConfig(d)
		if err != nil {
			t.Fatal(err)
		}
		ctl, err := d.OpenDir(envelope.ControlDir)
		if err != nil {
			t.Fatal(err)
		}
		defer ctl.Close()
		if err := vault.WriteConfig(ctl, change(cfg)); err != nil {
			t.Fatal(err)
		}
		now.Add(int64(2 * time.Second))
	}
	good := v.Config()
	replace(func(cfg *envelope.Config) []byte { // the MAC is that of another key
		cfg.Key = md.ARN
		b, err := cfg.Remarshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
	if got := cmk(); got != old || v.Config() != good || renewed != 0 {
		t.Errorf("a forged config was used: %s", got)
	}
	replace(func(cfg *envelope.Config) []byte {
		*cfg = *good
		dk, err := ks.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: cfg.Wrappings[0].Blob, EncryptionContext: envelope.VolumeContext(cfg.Volume)})
		if err != nil {
			t.Fatal(err)
		}
		vk, err := envelope.NewVolumeKeys(dk.Plaintext.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Key = md.ARN
		b, err := cfg.Marshal(vk)
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
	if got := cmk(); got != md.ARN || v.Config().Key != md.ARN || renewed != 1 {
		t.Errorf("the new config is not used: a new file is under %s, %d times renewed", got, renewed)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
