package vault_test

import (
	"bytes"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/vault"
)

// TestLinkedMeanwhile: the last name of a file is taken away, and just before another host gives it a further one. Its key stays.
func TestLinkedMeanwhile(t *testing.T) {
	for _, held := range []bool{true, false} { // whether the host that unlinks has the file open
		at, _ := inMemory()
		ks := &memoryKeys{}
		makeVault(t, at, ks, 4096)
		var other *vault.Vault
		armed := false
		hooked := func() backing.Dir {
			return faults.Wrap(at(), func(op faults.Op) error {
				if op.Call == faults.Unlink && armed {
					armed = false
					n, err := find(other, "file")
					if err != nil {
						t.Fatal(err)
					}
					if _, err := other.Link(n, other.Root(), "further"); err != nil {
						t.Fatal(err)
					}
				}
				return nil
			})
		}
		o := vault.Options{Sharing: vault.Shared, OpenFiles: 1}
		v := openVault(t, hooked, ks, o)
		other = openVault(t, at, ks, o)
		want := bytes.Repeat([]byte{7}, 10_000)
		if err := put("file", want).do(v); err != nil {
			t.Fatal(err)
		}
		n, err := find(v, "file")
		if err != nil {
			t.Fatal(err)
		}
		if !held {
			for _, name := range []string{"a", "b", "c"} { // so that it is closed
				if err := put(name, want).do(v); err != nil {
					t.Fatal(err)
				}
				if err := v.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		armed = true
		if err := v.Unlink(v.Root(), "file"); err != nil || armed {
			t.Fatal(err, armed)
		}
		v.Forget(n, 1)
		for _, v := range []*vault.Vault{v, other} {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
		v = openVault(t, at, ks, vault.Options{})
		if n, err = find(v, "further"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := v.Read(ctx, n, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("held %v: the further name reads differently: %v", held, err)
		}
		v.Forget(n, 1)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
