package vault_test

import (
	"bytes"
	"testing"

	"kmsfs/fs/vault"
)

// TestSharedUnsettled: what a shared mount writes is not settled before an exclusive one, or fsck, has done so. Until then a chunk
// may be taken away, and the file cut back; a chunk that was settled is refused all the same, as is one that is damaged.
func TestSharedUnsettled(t *testing.T) {
	x := newVictim(t)
	v := openVault(t, x.fs.Root, x.ks, vault.Options{Sharing: vault.Shared})
	n, err := find(v, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, pattern(9, 4096), 4096, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Append(ctx, n, pattern(10, 8192), vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	const size, last = 10*4096 + 50, 4096 + 11*4096
	damage := func(what string, f func(b []byte) []byte, refused bool, want func(got string) bool) {
		t.Helper()
		y := *x
		y.fs = x.fs.Kill()
		stored := y.stored["one"]
		y.set(stored, f(bytes.Clone(y.bytes(stored))))
		y.errs = map[string]error{}
		got, err := y.read()["one"], y.errs["one"]
		if refused != damaged(err) || !refused && (err != nil || !want(got)) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	zero := func(off int) func(b []byte) []byte {
		return func(b []byte) []byte { clear(b[off : off+100]); return b }
	}
	damage("a settled chunk", zero(4096), true, nil)
	damage("one written over", zero(2*4096), true, nil)
	damage("one added", zero(last), false, func(got string) bool {
		return len(got) == size+8192 && got[11*4096:12*4096] == string(make([]byte, 4096))
	})
	damage("the end cut off", func(b []byte) []byte { return b[:4096+11*4096] }, false, func(got string) bool { return len(got) == 11*4096 })
	damage("more cut off", func(b []byte) []byte { return b[:4096+size-1] }, true, nil)
	x.settle(step{"settle", func(v *vault.Vault) error {
		n, err := find(v, "one")
		if err != nil {
			return err
		}
		defer v.Forget(n, 1)
		return v.Settle(ctx, n) // as fsck does
	}})
	damage("one added, settled", zero(last), true, nil)
	damage("the end cut off, settled", func(b []byte) []byte { return b[:4096+11*4096] }, true, nil)
}
