package vault_test

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// TestConfigReadAgain: an error that passes, while a new vault.json is read, does not make a mount keep the old one.
func TestConfigReadAgain(t *testing.T) {
	ks, arns := zoneStore(t)
	var fail atomic.Bool
	fs := memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if fail.Load() && op.Call == faults.Open && op.Name == "vault.json" {
			return syscall.EMFILE
		}
		return nil
	}})
	d := fs.Root()
	if err := vault.Create(ctx, d, ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/a"}); err != nil {
		t.Fatal(err)
	}
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	v := openVault(t, fs.Root, ks, vault.Options{Now: func() time.Time { return time.Unix(0, now.Load()) }})
	defer v.Close()
	if got := newFile(t, v, v.Root(), "first"); got != arns["a"] {
		t.Fatal(got)
	}
	w := openVault(t, fs.Root, ks, vault.Options{Access: vault.ReadOnly}) // for the volume key's sake, another host would do
	cfg := *w.Config()
	w.Close()
	ctl, err := d.OpenDir(envelope.ControlDir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := cfg.Remarshal() // the same, in a new file: what is at hand is to be given up
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.WriteConfig(ctl, b); err != nil {
		t.Fatal(err)
	}
	stock := v.Stats().KeysMade
	fail.Store(true)
	now.Add(int64(2 * time.Second))
	newFile(t, v, v.Root(), "second")
	fail.Store(false)
	if made := v.Stats().KeysMade; made != stock {
		t.Errorf("%d keys were made while vault.json could not be read", made-stock)
	}
	drained := v.Stats().KeysMade
	now.Add(int64(2 * time.Second))
	newFile(t, v, v.Root(), "third")
	if v.Stats().KeysMade == drained {
		t.Error("the new vault.json was not noticed once it could be read")
	}
}
