package fsck_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/fsck"
	"kmsfs/fs/vault/tree/treetest"
	"kmsfs/fs/vault/view"
	"kmsfs/keysource/local"
)

// TestParallel: the files of one directory are looked at by several at once: nobody goes on before two of them have come to reading.
func TestParallel(t *testing.T) {
	ks, err := local.Create(t.Context(), local.Config{Dir: t.TempDir() + "/store"})
	if err != nil {
		t.Fatal(err)
	}
	defer ks.Close()
	plain := memfs.New(memfs.Config{})
	if err := vault.Create(t.Context(), plain.Root(), ks, vault.CreateConfig{Keysource: "local:", Key: "alias/aws/kmsfs"}); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), plain.Root(), ks, vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		treetest.WriteFile(t, view.Root(t.Context(), v), fmt.Sprint(i), []byte("small"))
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	met, in := make(chan struct{}), 0
	fs := plain.WithHook(func(o faults.Op) error {
		if o.Call != faults.OpenStat {
			return nil
		}
		mu.Lock()
		if in++; in == 2 {
			close(met)
		}
		mu.Unlock()
		select {
		case <-met:
		case <-time.After(30 * time.Second):
			t.Error("one at a time")
		}
		return nil
	})
	if v, err = vault.Open(t.Context(), fs.Root(), ks, vault.Options{Access: vault.ReadOnly}); err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	r, err := fsck.Find(t.Context(), fs.Root(), v, fsck.Options{})
	if err != nil || r.Files != 300 || len(r.Findings) > 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
