package vault_test

import (
	"bytes"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
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

// TestDeletedWhileOpen: a file is deleted by one host while another one has it open, and has not read it yet. It reads until it is
// closed there; then its key is erased, by whoever was the last.
func TestDeletedWhileOpen(t *testing.T) {
	for _, held := range []bool{true, false} { // whether the host that unlinks has it open too
		at, _ := inMemory()
		ks := &memoryKeys{}
		makeVault(t, at, ks, 4096)
		o := vault.Options{Sharing: vault.Shared}
		a, b := openVault(t, at, ks, o), openVault(t, at, ks, o)
		want := bytes.Repeat([]byte{7}, 10_000)
		if err := put("file", want).do(a); err != nil {
			t.Fatal(err)
		}
		if !held { // a has not opened it
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			a = openVault(t, at, ks, o)
		}
		n, err := find(b, "file")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Open(n); err != nil {
			t.Fatal(err)
		}
		if err := a.Unlink(a.Root(), "file"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := a.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len(want))
		if _, err := b.Read(ctx, n, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("held %v: an open file that another host has deleted: %v", held, err)
		}
		b.Release(n)
		b.Forget(n, 1)
		for _, v := range []*vault.Vault{a, b} {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if n, _ := records(t, at); n != 0 {
			t.Errorf("held %v: %d records are left of a deleted file", held, n)
		}
	}
}

// TestLongNameAgain: one host removes a long name, and another one makes it anew before the companions are gone. It is listed.
func TestLongNameAgain(t *testing.T) {
	for _, renames := range []bool{false, true} {
		at, _ := inMemory()
		ks := &memoryKeys{}
		makeVault(t, at, ks, 4096)
		var other *vault.Vault
		armed := false
		hooked := func() backing.Dir {
			return faults.Wrap(at(), func(op faults.Op) error {
				if op.Call == faults.Unlink && strings.HasPrefix(op.Name, ".kmsfs.long.") && armed {
					armed = false
					again := []step{put(longA, []byte("anew"))}
					if renames {
						again = []step{put("short", []byte("anew")), rename("short", longA, 0)}
					}
					for _, s := range again {
						if err := s.do(other); err != nil {
							t.Error(err)
						}
					}
				}
				return nil
			})
		}
		o := vault.Options{Sharing: vault.Shared}
		v := openVault(t, hooked, ks, o)
		other = openVault(t, at, ks, o)
		if err := put(longA, []byte("old")).do(v); err != nil {
			t.Fatal(err)
		}
		armed = true
		if err := v.Unlink(v.Root(), longA); err != nil || armed {
			t.Fatal(err, armed)
		}
		var listed []string
		if err := other.ReadDir(other.Root(), func(e vault.DirEntry) bool { listed = append(listed, e.Name); return true }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(listed, []string{longA}) {
			t.Errorf("rename %v: listed is %q", renames, listed)
		}
		for _, v := range []*vault.Vault{v, other} {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRmdirMeanwhile: one host removes an empty directory, and another one makes a file in it at any moment of that. Either the
// directory is gone and the file was never made, or both are there.
func TestRmdirMeanwhile(t *testing.T) {
	made := 0
	for moment := 0; ; moment++ {
		at, _ := inMemory()
		ks := &memoryKeys{}
		makeVault(t, at, ks, 4096)
		var other *vault.Vault
		var dir *vault.Node
		created, ended, asks := error(syscall.ENOENT), make(chan struct{}), make(chan struct{}, 100)
		const nobody = 1 << 40
		var left atomic.Int64 // calls of Rmdir until the moment; directories are made ahead in the background
		left.Store(nobody)
		hooked := func() backing.Dir {
			return faults.Wrap(at(), func(op faults.Op) error {
				if !bytes.Contains(debug.Stack(), []byte("(*Vault).Rmdir(")) || left.Add(-1) != -1 {
					return nil
				}
				for len(asks) > 0 {
					<-asks
				}
				go func() {
					defer close(ended)
					n, _, err := other.Create(dir, "file", 0o600, who)
					if created = err; err == nil {
						other.Release(n)
						other.Forget(n, 1)
					}
				}()
				select {
				case <-ended:
				case <-asks: // it may have to wait for a lock of ours
				}
				return nil
			})
		}
		asking := func() backing.Dir {
			return faults.Wrap(at(), func(op faults.Op) error {
				if op.Call == faults.LockWait {
					select {
					case asks <- struct{}{}:
					default:
					}
				}
				return nil
			})
		}
		o := vault.Options{Sharing: vault.Shared}
		v := openVault(t, hooked, ks, o)
		other = openVault(t, asking, ks, o)
		if err := mkdir("dir").do(v); err != nil {
			t.Fatal(err)
		}
		var err error
		if dir, err = find(other, "dir"); err != nil {
			t.Fatal(err)
		}
		if err := other.ReadDir(dir, func(vault.DirEntry) bool { return true }); err != nil { // it has it open
			t.Fatal(err)
		}
		left.Store(int64(moment))
		removed := v.Rmdir(v.Root(), "dir")
		done := left.Swap(nobody) >= 0
		if !done {
			<-ended
		}
		_, lost := find(v, "dir/file")
		if created == nil {
			made++
			if removed == nil || lost != nil {
				t.Errorf("moment %d: a file was made in a directory that was removed (%v): %v", moment, removed, lost)
			}
		} else if removed != nil {
			t.Errorf("moment %d: rmdir: %v; create: %v", moment, removed, created)
		}
		other.Forget(dir, 1)
		for _, v := range []*vault.Vault{v, other} {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if done {
			break
		}
	}
	if made == 0 {
		t.Error("a file was made at no moment")
	}
}
