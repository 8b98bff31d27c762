package vault_test

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// journalOf returns the names in the journal directory.
func journalOf(t *testing.T, fs *memfs.FS) []string {
	t.Helper()
	ctl, err := fs.Root().OpenDir(".kmsfs")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ctl.OpenDir("journal")
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	d.ReadDir(func(e backing.Entry) bool {
		names = append(names, e.Name)
		return true
	})
	return names
}

// overwritten returns a file system as a power cut leaves it after files were made, synced, written over and synced, and
// what they hold. Nothing of that is in place.
func overwritten(t *testing.T, ks *memoryKeys, names ...string) (*memfs.FS, map[string][]byte) {
	t.Helper()
	fs := memfs.New(memfs.Config{})
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	want := map[string][]byte{}
	for i, name := range names {
		n, _, err := v.Create(v.Root(), name, 0o644, who)
		if err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			p := pattern(byte(10*i+round), int64(1+i)*9000+int64(round)*500)
			if _, err := v.Write(ctx, n, p, 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			if err := v.Fsync(n, vault.SyncData); err != nil {
				t.Fatal(err)
			}
			want[name] = p
		}
		v.Release(n)
		v.Forget(n, 1)
	}
	if err := v.Fsync(v.Root(), vault.SyncAll); err != nil {
		t.Fatal(err)
	}
	cut := fs.Crash(memfs.Policy{})
	v.Close() // who still makes keys counts as a call
	return cut, want
}

func holds(t *testing.T, v *vault.Vault, want map[string][]byte) {
	t.Helper()
	for name, p := range want {
		m, err := readAll(v, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(m.data, p) {
			t.Errorf("%s is not as it was synced", name)
		}
	}
}

// TestJournalPutInPlace finds the journal put in place and gone after the next mount, also where a directory has moved.
func TestJournalPutInPlace(t *testing.T) {
	ks := &memoryKeys{}
	fs, want := overwritten(t, ks, "a", "b")
	if len(journalOf(t, fs)) == 0 {
		t.Fatal("nothing is in the journal: the test shows nothing")
	}
	v := openVault(t, fs.Root, ks, vault.Options{})
	holds(t, v, want)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if names := journalOf(t, fs); len(names) > 0 {
		t.Errorf("the journal has %q after a clean unmount", names)
	}
}

// TestJournalFindsMovedFiles renames stored files behind the journal's back: what it says of their place is a hint.
func TestJournalFindsMovedFiles(t *testing.T) {
	ks := &memoryKeys{}
	fs, want := overwritten(t, ks, "a", "b")
	plain := openVault(t, fs.Kill().Root, ks, vault.Options{Access: vault.ReadOnly})
	stored := map[string]string{}
	plain.ReadDir(plain.Root(), func(e vault.DirEntry) bool {
		stored[e.Name] = e.Stored
		return true
	})
	plain.Close()
	root := fs.Root()
	if err := root.Rename(stored["a"], root, stored["b"], vault.RenameExchange); err != nil {
		t.Fatal(err)
	}
	v := openVault(t, fs.Root, ks, vault.Options{})
	defer v.Close()
	holds(t, v, map[string][]byte{"a": want["b"], "b": want["a"]})
}

// TestJournalHeld keeps what belongs to a file whose key cannot be had, and only that, until it can.
func TestJournalHeld(t *testing.T) {
	ks := &memoryKeys{}
	fs, want := overwritten(t, ks, "a", "b")
	calls := ks.calls
	ks.fail = func(call int) error { // the volume key and one file's are given
		if call >= calls+2 {
			return keysource.ErrDenied
		}
		return nil
	}
	v := openVault(t, fs.Root, ks, vault.Options{})
	denied := 0
	for name := range want {
		if _, err := readAll(v, name); errors.Is(err, keysource.ErrDenied) {
			denied++
		}
	}
	if denied != 1 {
		t.Fatalf("%d files are denied, want 1", denied)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	names := journalOf(t, fs)
	if len(names) != 1 || !strings.HasPrefix(names[0], "held.") {
		t.Fatalf("the journal has %q, want one file that is held", names)
	}
	ks.fail = nil
	v = openVault(t, fs.Root, ks, vault.Options{Access: vault.ReadOnly})
	holds(t, v, want)
	v.Close()
	v = openVault(t, fs.Root, ks, vault.Options{})
	holds(t, v, want)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if names := journalOf(t, fs); len(names) > 0 {
		t.Errorf("the journal has %q still", names)
	}
}

// TestJournalDamaged flips bytes of the journal: what does not verify is not used, and nothing panics.
func TestJournalDamaged(t *testing.T) {
	ks := &memoryKeys{}
	fs, want := overwritten(t, ks, "a")
	for at := int64(0); at < 40_000; at += 997 {
		cut := fs.Kill()
		ctl, _ := cut.Root().OpenDir(".kmsfs")
		d, err := ctl.OpenDir("journal")
		if err != nil {
			t.Fatal(err)
		}
		f, err := d.Open("0", syscall.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if n, _ := f.ReadAt(b, at); n == 0 {
			break
		}
		b[0] ^= 0x40
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		f.Close()
		v, err := vault.Open(ctx, cut.Root(), ks, vault.Options{})
		if err != nil {
			if !strings.Contains(err.Error(), "not supported") {
				t.Errorf("byte %d: %v", at, err)
			}
			continue
		}
		m, err := readAll(v, "a")
		if err != nil {
			t.Errorf("byte %d: %v", at, err)
		} else if old := pattern(0, 9000); !bytes.HasPrefix(m.data, old[:4096]) && !bytes.HasPrefix(m.data, want["a"][:4096]) {
			t.Errorf("byte %d: the file is neither old nor new", at)
		}
		v.Close()
	}
}

// TestJournalFillsNoHole punches out a chunk that the journal had while it was a hole: whatever a power cut leaves of the
// journal must not bring it back.
func TestJournalFillsNoHole(t *testing.T) {
	ks := &memoryKeys{}
	fs := memfs.New(memfs.Config{})
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	n, _, err := v.Create(v.Root(), "f", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	write := func(off, length int64) {
		t.Helper()
		if _, err := v.Write(ctx, n, pattern(3, length), off, vault.KeepPrivileges); err != nil {
			t.Fatal(err)
		}
		if err := v.Fsync(n, vault.SyncData); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 4*4096)
	write(3*4096, 2*4096) // the second chunk is a hole in place
	if err := errors.Join(v.Fsync(v.Root(), vault.SyncAll), v.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := v.Allocate(ctx, n, 3, 4*4096, 4096, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	if err := v.Fsync(n, vault.SyncAll); err != nil {
		t.Fatal(err)
	}
	for what, after := range map[string]*memfs.FS{"power cut": fs.Crash(memfs.Policy{}), "kill": fs.Kill()} {
		v := openVault(t, after.Root, ks, vault.Options{})
		m, err := readAll(v, "f")
		if err != nil {
			t.Fatal(err)
		}
		if len(m.data) != 5*4096 || len(bytes.Trim(m.data[4*4096:], "\x00")) > 0 {
			t.Errorf("after a %s the hole is filled", what)
		}
		v.Close()
	}
}
