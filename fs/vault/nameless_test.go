package vault_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"kmsfs/fs/vault"
)

// TestNamelessBeforeUse: what was looked up and loses its last name before it is used is used all the same: the kernel looks a file up
// and then opens it, or reads a symbolic link, and whoever called open(2) knows nothing of what another did in between.
func TestNamelessBeforeUse(t *testing.T) {
	for name, o := range map[string]vault.Options{"exclusive": {Opens: vault.Untracked}, "shared": {Sharing: vault.Shared}} {
		t.Run(name, func(t *testing.T) {
			at, _ := inMemory()
			ks := &memoryKeys{}
			makeVault(t, at, ks, 4096)
			v := openVault(t, at, ks, o)
			want := bytes.Repeat([]byte{7}, 10_000)
			for _, name := range []string{"file", "a", "over a", "over c"} {
				if err := put(name, want).do(v); err != nil {
					t.Fatal(err)
				}
			}
			const target = "where/it points"
			for _, name := range []string{"link", "c"} {
				n, _, err := v.Symlink(v.Root(), name, target, who)
				if err != nil {
					t.Fatal(err)
				}
				v.Forget(n, 1)
			}
			if err := v.Close(); err != nil { // so that nothing is open
				t.Fatal(err)
			}
			v = openVault(t, at, ks, o)
			defer v.Close()
			for name, takeAway := range map[string]func(name string) error{
				"file": func(name string) error { return v.Unlink(v.Root(), name) },
				"a":    func(name string) error { return v.Rename(v.Root(), "over "+name, v.Root(), name, 0) },
				"link": func(name string) error { return v.Unlink(v.Root(), name) },
				"c":    func(name string) error { return v.Rename(v.Root(), "over "+name, v.Root(), name, 0) },
			} {
				n, err := find(v, name)
				if err != nil {
					t.Fatal(err)
				}
				if err := takeAway(name); err != nil {
					t.Fatal(err)
				}
				if n.Kind() == syscall.S_IFLNK {
					if got, err := v.Readlink(n); err != nil || got != target {
						t.Errorf("%s: reads %q, %v", name, got, err)
					}
				} else if err := v.Open(n); err != nil {
					t.Errorf("%s: %v", name, err)
				} else {
					got := make([]byte, len(want))
					if _, err := v.Read(ctx, n, got, 0); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s reads differently: %v", name, err)
					}
					v.Release(n)
				}
				v.Forget(n, 1)
			}
		})
	}
}

// TestReplacedUnderUse: what has been looked up is never said to be gone, while another replaces it again and again.
func TestReplacedUnderUse(t *testing.T) {
	for name, o := range map[string]vault.Options{"exclusive": {Opens: vault.Untracked}, "shared": {Sharing: vault.Shared}} {
		t.Run(name, func(t *testing.T) {
			at, _ := inMemory()
			v := newVault(t, at, &memoryKeys{}, o)
			replace := func(kind int) {
				var n *vault.Node
				var err error
				if kind == 0 {
					n, _, err = v.Create(v.Root(), "new", 0o600, who)
				} else {
					n, _, err = v.Symlink(v.Root(), "new", "somewhere", who)
				}
				if err == nil {
					if kind == 0 {
						v.Release(n)
					}
					v.Forget(n, 1)
					err = v.Rename(v.Root(), "new", v.Root(), "name", 0)
				}
				if err != nil {
					t.Error(err)
				}
			}
			replace(0)
			var done atomic.Bool
			var users sync.WaitGroup
			for range 4 {
				users.Go(func() {
					for !done.Load() && !t.Failed() {
						n, _, err := v.Lookup(v.Root(), "name")
						if err != nil {
							t.Error(err)
							return
						}
						if n.Kind() == syscall.S_IFLNK {
							_, err = v.Readlink(n)
						} else if err = v.Open(n); err == nil {
							v.Release(n)
						}
						if err != nil {
							t.Error(err)
						}
						if _, err := v.Attr(n); err != nil {
							t.Error(err)
						}
						v.Forget(n, 1)
					}
				})
			}
			for i := 0; i < 1000 && !t.Failed(); i++ {
				replace(i % 2)
			}
			done.Store(true)
			users.Wait()
		})
	}
}
