package vault_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// zoneStore is a key store with aliases a, b and c, whose ARNs it returns.
func zoneStore(t *testing.T) (*local.Store, map[string]string) {
	t.Helper()
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	arns := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		md, err := ks.CreateKey(ctx, keysource.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		if err := ks.CreateAlias(ctx, "alias/"+name, keysource.KeyRef(md.KeyID)); err != nil {
			t.Fatal(err)
		}
		arns[name] = md.ARN
	}
	return ks, arns
}

// zoneVault is a vault in memory whose CMK is alias/a.
func zoneVault(t *testing.T, ks keysource.Keysource) place {
	t.Helper()
	at, _ := inMemory()
	d := at()
	defer d.Close()
	if err := vault.Create(ctx, d, ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/a"}); err != nil {
		t.Fatal(err)
	}
	return at
}

// walkTo looks path up; the nodes stay referred to.
func walkTo(t *testing.T, v *vault.Vault, path ...string) *vault.Node {
	t.Helper()
	n := v.Root()
	for _, name := range path {
		next, _, err := v.Lookup(n, name)
		if err != nil {
			t.Fatalf("%v: %v", path, err)
		}
		n = next
	}
	return n
}

// newFile makes a file with something in it, and returns the CMK of its data key.
func newFile(t *testing.T, v *vault.Vault, dir *vault.Node, name string) string {
	t.Helper()
	n, _, err := v.Create(dir, name, 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, []byte(name), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	return cmkOf(t, v, n)
}

func cmkOf(t *testing.T, v *vault.Vault, n *vault.Node) string {
	t.Helper()
	b, err := v.Getxattr(ctx, n, "user.kmsfs.cmk")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func makeSub(t *testing.T, v *vault.Vault, dir *vault.Node, name string) *vault.Node {
	t.Helper()
	n, _, err := v.Mkdir(dir, name, 0o755, who)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestZones: new files get the CMK of the nearest zone, whatever is above it, and keep it.
func TestZones(t *testing.T) {
	for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
		t.Run(fmt.Sprint(sharing), func(t *testing.T) {
			ks, arns := zoneStore(t)
			at := zoneVault(t, ks)
			v := openVault(t, at, ks, vault.Options{Sharing: sharing})
			want := func(what, got, name string) {
				t.Helper()
				if got != arns[name] {
					t.Errorf("%s is under %s, want %s (%s)", what, got, arns[name], name)
				}
			}
			top := makeSub(t, v, v.Root(), "top")
			sub := makeSub(t, v, top, "sub")
			deep := makeSub(t, v, sub, "deep")
			want("a file before there are zones", newFile(t, v, sub, "before"), "a")
			if err := v.Setxattr(ctx, top, "user.kmsfs.zone", []byte("alias/b"), 0); err != nil {
				t.Fatal(err)
			}
			want("a file in a zone", newFile(t, v, top, "x"), "b")
			want("a file below a zone", newFile(t, v, deep, "x"), "b")
			want("a file beside a zone", newFile(t, v, v.Root(), "x"), "a")
			want("a file from before", cmkOf(t, v, walkTo(t, v, "top", "sub", "before")), "a")
			if err := v.SetZone(ctx, sub, "alias/c"); err != nil {
				t.Fatal(err)
			}
			want("a file in a nested zone", newFile(t, v, sub, "y"), "c")
			want("a file below a nested zone", newFile(t, v, deep, "y"), "c")
			want("a file above it", newFile(t, v, top, "y"), "b")
			if err := v.Rename(sub, "y", v.Root(), "moved", 0); err != nil {
				t.Fatal(err)
			}
			want("a file moved out", cmkOf(t, v, walkTo(t, v, "moved")), "c")
			// Made outside, bound inside.
			late, _, err := v.Create(v.Root(), "late", 0o644, who)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Rename(v.Root(), "late", top, "late", 0); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Write(ctx, late, []byte("late"), 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			want("an empty file moved in", cmkOf(t, v, late), "b")
			if err := v.SetZone(ctx, v.Root(), "alias/c"); err != nil {
				t.Fatal(err)
			}
			want("a file at the root, whose CMK was changed", newFile(t, v, v.Root(), "z"), "c")
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}

			v = openVault(t, at, ks, vault.Options{Sharing: sharing})
			top, sub = walkTo(t, v, "top"), walkTo(t, v, "top", "sub")
			want("a file at the root after a remount", newFile(t, v, v.Root(), "again"), "c")
			want("a file in a zone after a remount", newFile(t, v, top, "again"), "b")
			for _, c := range []struct {
				n    *vault.Node
				want string
			}{{v.Root(), "alias/c"}, {top, "alias/b"}, {sub, "alias/c"}} {
				if zone, err := v.Getxattr(ctx, c.n, "user.kmsfs.zone"); string(zone) != c.want || err != nil {
					t.Errorf("zone %q, %v, want %q", zone, err, c.want)
				}
			}
			if err := v.Removexattr(ctx, sub, "user.kmsfs.zone"); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Getxattr(ctx, sub, "user.kmsfs.zone"); err != syscall.ENODATA {
				t.Errorf("a zone that was taken away: %v", err)
			}
			if err := v.Removexattr(ctx, sub, "user.kmsfs.zone"); err != syscall.ENODATA {
				t.Errorf("taken away twice: %v", err)
			}
			want("a file where a zone was taken away", newFile(t, v, sub, "again"), "b")
			if list, err := v.Listxattr(ctx, top); len(list) != 0 || err != nil {
				t.Errorf("listed: %v, %v", list, err)
			}
			for name, c := range map[string]struct {
				n    *vault.Node
				key  string
				want error
			}{
				"a CMK that there is not": {top, "alias/missing", keysource.ErrNotFound},
				"no reference":            {top, "alias/", keysource.ErrInvalidArgument},
				"nothing for the root":    {v.Root(), "", syscall.EINVAL},
				"a file":                  {walkTo(t, v, "moved"), "alias/a", syscall.ENOTDIR},
			} {
				if err := v.SetZone(ctx, c.n, c.key); !errors.Is(err, c.want) {
					t.Errorf("%s: %v, want %v", name, err, c.want)
				}
			}
			if err := ks.DisableKey(ctx, "alias/c"); err != nil {
				t.Fatal(err)
			}
			if err := v.SetZone(ctx, top, "alias/c"); !errors.Is(err, keysource.ErrDisabled) {
				t.Errorf("a disabled CMK: %v", err)
			}
			if zone, err := v.Zone(top); zone != "alias/b" || err != nil {
				t.Errorf("after failures the zone is %q, %v", zone, err)
			}
			// A zone that is empty can be removed, and another directory moved over it.
			gone := makeSub(t, v, v.Root(), "gone")
			if err := v.SetZone(ctx, gone, "alias/b"); err != nil {
				t.Fatal(err)
			}
			if err := v.Rmdir(v.Root(), "gone"); err != nil {
				t.Errorf("rmdir of a zone: %v", err)
			}
			if err := v.SetZone(ctx, gone, "alias/a"); err == nil {
				t.Error("a zone was set that is gone")
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestZoneCrash cuts the making of a zone anywhere: the directory is one or not, and all in it is there.
func TestZoneCrash(t *testing.T) {
	for at := int64(0); ; at++ {
		k := &killer{at: -1, pages: true}
		fs := memfs.New(memfs.Config{Hook: k.hook})
		ks := &memoryKeys{}
		makeVault(t, fs.Root, ks, 4096)
		v := openVault(t, fs.Root, ks, vault.Options{})
		d := makeSub(t, v, v.Root(), "d")
		newFile(t, v, d, "file")
		if err := v.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := fs.Root().SyncFS(); err != nil {
			t.Fatal(err)
		}
		k.arm(at)
		err := v.SetZone(ctx, d, "alias/zone")
		for seed := range uint64(12) {
			crashed := fs.Crash(memfs.Policy{Sectors: seed%2 == 0, Choose: memfs.Random(seed)})
			w := openVault(t, crashed.Root, ks, vault.Options{})
			n := walkTo(t, w, "d")
			zone, e := w.Zone(n)
			if e != nil || zone != "" && zone != "alias/zone" || err == nil && zone == "" {
				t.Fatalf("moment %d, policy %d: zone %q, %v, after %v", at, seed, zone, e, err)
			}
			b := make([]byte, 10)
			got, e := w.Read(ctx, walkTo(t, w, "d", "file"), b, 0)
			if e != nil || string(b[:got]) != "file" {
				t.Fatalf("moment %d, policy %d: %q, %v", at, seed, b[:got], e)
			}
			if e := w.SetZone(ctx, n, "alias/later"); e != nil {
				t.Fatalf("moment %d, policy %d: set again: %v", at, seed, e)
			}
			entries := 0
			if e := w.ReadDir(n, func(vault.DirEntry) bool { entries++; return true }); e != nil || entries != 1 {
				t.Fatalf("moment %d, policy %d: %d entries, %v", at, seed, entries, e)
			}
			w.Close()
		}
		v.Close()
		if err == nil {
			if at < 10 {
				t.Errorf("only %d moments", at)
			}
			return
		}
	}
}

// TestPoolRotation: the first data key under new key material, or of a CMK that the alias has moved to, has those given up that
// were made before.
func TestPoolRotation(t *testing.T) {
	ks, arns := zoneStore(t)
	at := zoneVault(t, ks)
	v := openVault(t, at, ks, vault.Options{})
	defer v.Close()
	newFile(t, v, v.Root(), "first")
	if err := ks.UpdateAlias(ctx, "alias/a", keysource.KeyRef(arns["b"])); err != nil {
		t.Fatal(err)
	}
	old := 0
	for i := range 200 { // the stock is half used up before more is ordered
		if newFile(t, v, v.Root(), fmt.Sprint("file", i)) == arns["a"] {
			old++
		} else if old > 40 {
			t.Fatalf("after %d files under the old CMK", old)
		}
	}
	if old == 0 || newFile(t, v, v.Root(), "last") != arns["b"] {
		t.Errorf("%d files under the old CMK", old)
	}
}

// TestPoolAge: a key that was made ahead does not outlive its CMK for longer than it may.
func TestPoolAge(t *testing.T) {
	ks, _ := zoneStore(t)
	at := zoneVault(t, ks)
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	v := openVault(t, at, ks, vault.Options{Now: clock, KeyMaxAge: time.Minute})
	defer v.Close()
	newFile(t, v, v.Root(), "first")
	if err := ks.DisableKey(ctx, "alias/a"); err != nil {
		t.Fatal(err)
	}
	newFile(t, v, v.Root(), "second") // still at hand
	mu.Lock()
	now = now.Add(61 * time.Second)
	mu.Unlock()
	n, _, err := v.Create(v.Root(), "third", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, []byte("x"), 0, vault.KeepPrivileges); !errors.Is(err, keysource.ErrDisabled) {
		t.Errorf("written with a key from before: %v", err)
	}
	if err := ks.EnableKey(ctx, "alias/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, []byte("x"), 0, vault.KeepPrivileges); err != nil {
		t.Errorf("when it is enabled again: %v", err)
	}
}
