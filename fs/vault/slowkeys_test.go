package vault_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// slowKeys is a keysource that takes its time, and counts.
type slowKeys struct {
	memoryKeys
	latency             time.Duration
	generated, decrypts atomic.Int64
	underWay, most      atomic.Int64
	hang                atomic.Int64 // this many further calls do not end by themselves
	broken              atomic.Bool
}

// wait is the time that a call takes.
func (k *slowKeys) wait(ctx context.Context) error {
	n := k.underWay.Add(1)
	defer k.underWay.Add(-1)
	for m := k.most.Load(); n > m && !k.most.CompareAndSwap(m, n); m = k.most.Load() {
	}
	if k.hang.Add(-1) >= 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	if k.broken.Load() {
		return keysource.ErrUnavailable
	}
	return keysource.SystemClock{}.Sleep(ctx, k.latency)
}

func (k *slowKeys) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	k.generated.Add(1)
	if err := k.wait(ctx); err != nil {
		return keysource.DataKey{}, err
	}
	return k.memoryKeys.GenerateDataKey(ctx, in)
}

func (k *slowKeys) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	k.decrypts.Add(1)
	if err := k.wait(ctx); err != nil {
		return keysource.DecryptResult{}, err
	}
	return k.memoryKeys.Decrypt(ctx, in)
}

// createFiles makes n files of one byte, one after the other.
func createFiles(t *testing.T, v *vault.Vault, n int) {
	t.Helper()
	for i := range n {
		node, _, err := v.Create(v.Root(), fmt.Sprintf("f%04d", i), 0o644, who)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Write(ctx, node, []byte{byte(i)}, 0, vault.KeepPrivileges); err != nil {
			t.Fatal(err)
		}
		v.Forget(node, 1)
	}
}

// readFile reads the byte of the i-th file.
func readFile(v *vault.Vault, i int) error {
	node, _, err := v.Lookup(v.Root(), fmt.Sprintf("f%04d", i))
	if err != nil {
		return err
	}
	defer v.Forget(node, 1)
	b := make([]byte, 1)
	if _, err := v.Read(ctx, node, b, 0); err != nil {
		return err
	}
	if b[0] != byte(i) {
		return errors.New("wrong content")
	}
	return nil
}

// TestKeysAtOnce: creating and reading files does not take a call's time each.
func TestKeysAtOnce(t *testing.T) {
	const files = 600
	at, _ := inMemory()
	ks := &slowKeys{latency: 5 * time.Millisecond}
	v := newVault(t, at, ks, vault.Options{})
	createFiles(t, v, files)
	if most := ks.most.Load(); most < 16 || most > 64 {
		t.Errorf("%d calls were under way at once", most)
	}
	if n := ks.generated.Load(); n > 4*files {
		t.Errorf("%d keys were made for %d files", n, files)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	cache := keysource.NewCache(ks, keysource.CacheConfig{})
	defer cache.Close()
	v = openVault(t, at, cache, vault.Options{KeysAhead: 4096})
	ks.most.Store(0)
	ks.decrypts.Store(0)
	for i := range files {
		if err := readFile(v, i); err != nil {
			t.Fatal(err)
		}
	}
	s := cache.Stats()
	if ahead := ks.decrypts.Load(); ahead > files+200 || ks.most.Load() < 8 {
		t.Errorf("%d calls for %d files, at most %d at once, %+v", ahead, files, ks.most.Load(), s)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestKeysAheadFailQuietly: a keysource that fails in the midst of read-ahead fails only who needs a key, and all is well
// when it is back.
func TestKeysAheadFailQuietly(t *testing.T) {
	const files = 200
	at, _ := inMemory()
	ks := &slowKeys{latency: 3 * time.Millisecond}
	v := newVault(t, at, ks, vault.Options{})
	createFiles(t, v, files)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	cache := keysource.NewCache(ks, keysource.CacheConfig{})
	defer cache.Close()
	v = openVault(t, at, cache, vault.Options{KeysAhead: 4096})
	failed := 0
	for i := range files {
		ks.broken.Store(i%40 == 20)
		if err := readFile(v, i); err != nil {
			if failed++; !errors.Is(err, keysource.ErrUnavailable) {
				t.Fatal(err)
			}
		}
	}
	ks.broken.Store(false)
	for i := range files {
		if err := readFile(v, i); err != nil {
			t.Fatalf("after %d failures: %v", failed, err)
		}
	}
	ks.hang.Store(1 << 30) // closing does not wait for the keysource
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPoolHang: calls that hang hold up their own keys alone.
func TestPoolHang(t *testing.T) {
	at, _ := inMemory()
	ks := &slowKeys{latency: 2 * time.Millisecond}
	v := newVault(t, at, ks, vault.Options{})
	createFiles(t, v, 1) // it is known to be slow
	ks.hang.Store(10)
	start := time.Now()
	createAtOnce(t, v, 500)
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("500 files took %v", took)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// createAtOnce is createFiles for several writers at once, under other names.
func createAtOnce(t *testing.T, v *vault.Vault, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range n / 4 {
				node, _, err := v.Create(v.Root(), fmt.Sprintf("g%d-%d", w, i), 0o644, who)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := v.Write(ctx, node, []byte("x"), 0, vault.KeepPrivileges); err != nil {
					t.Error(err)
				}
				v.Forget(node, 1)
			}
		})
	}
	wg.Wait()
}

// TestPoolRecovers: while no key can be had, a first write fails and changes nothing; one call finds that all is well
// again.
func TestPoolRecovers(t *testing.T) {
	at, _ := inMemory()
	ks := &slowKeys{}
	v := newVault(t, at, ks, vault.Options{})
	ks.broken.Store(true)
	node, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		before := ks.generated.Load()
		if _, err := v.Write(ctx, node, []byte("x"), 0, vault.KeepPrivileges); !errors.Is(err, keysource.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		if n := ks.generated.Load() - before; n > 2 {
			t.Errorf("%d calls for a write that cannot succeed", n)
		}
	}
	if st, err := v.Attr(node); err != nil || st.Size != 0 {
		t.Errorf("size %d, %v", st.Size, err)
	}
	ks.broken.Store(false)
	if _, err := v.Write(ctx, node, []byte("x"), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	v.Forget(node, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
