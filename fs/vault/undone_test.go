package vault_test

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"syscall"
	"testing"

	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// TestUndone has a power cut undo what was done to a file and not synced, while the journal, which another file has synced since,
// is there: what was synced of the file, in the journal alone, is there too.
func TestUndone(t *testing.T) {
	for what, row := range map[string]struct {
		undone []step
		at     string
	}{
		"unlink":              {[]step{unlink("a")}, "a"},
		"replaced":            {[]step{rename("c", "a", 0)}, "a"},
		"moved, then deleted": {[]step{rename("a", "d", 0), fsync("", vault.SyncAll), unlink("d")}, "d"},
		"emptied":             {[]step{truncate("a", 0)}, "a"},
	} {
		for _, size := range []int64{100, 9000} {
			ks, fs := &memoryKeys{}, memfs.New(memfs.Config{})
			v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
			steps := []step{
				put("a", pattern(1, size)), fsync("a", vault.SyncAll), put("b", pattern(2, 9000)), fsync("b", vault.SyncAll), put("c", nil), fsync("", vault.SyncAll),
				write("a", 0, 3, size), fsync("a", vault.SyncAll), // in the journal alone
			}
			for _, s := range slices.Concat(steps, row.undone, []step{write("b", 0, 4, 9000), fsync("b", vault.SyncAll)}) {
				if err := s.do(v); err != nil {
					t.Fatalf("%s: %s: %v", what, s.name, err)
				}
			}
			after := openVault(t, fs.Crash(memfs.Policy{}).Root, ks, vault.Options{})
			if m, err := readAll(after, row.at); err != nil || !bytes.Equal(m.data, pattern(3, size)) {
				t.Errorf("%s, %d bytes: it is not as it was synced: %v", what, size, err)
			}
			after.Close()
			v.Close()
		}
	}
}

// TestUndoneLost: who has been deleted durably is not looked for all over the vault.
func TestUndoneLost(t *testing.T) {
	ks, fs := &memoryKeys{}, memfs.New(memfs.Config{})
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	defer v.Close()
	for _, s := range []step{
		put("a", pattern(1, 9000)), fsync("a", vault.SyncAll), put("b", nil), write("a", 0, 3, 9000), fsync("a", vault.SyncAll), rename("b", "a", 0),
		put("c", pattern(1, 9000)), fsync("c", vault.SyncAll), write("c", 0, 1, 9000), fsync("c", vault.SyncAll), fsync("", vault.SyncAll),
	} {
		if err := s.do(v); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	var log bytes.Buffer
	after := openVault(t, fs.Crash(memfs.Policy{}).Root, ks, vault.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer after.Close()
	if !bytes.Contains(log.Bytes(), []byte("the journal was put in place")) || bytes.Contains(log.Bytes(), []byte("looking through")) {
		t.Errorf("the log says:\n%s", &log)
	}
}

// TestStrayAttributes cuts the power after an attribute was set that nobody has synced: it is there or not, and with what a crash has
// kept of it alone the file can be listed, and get another one.
func TestStrayAttributes(t *testing.T) {
	strays := 0
	for _, size := range []int64{0, 100, 9000} {
		for seed := range uint64(40) {
			ks, fs := &memoryKeys{}, memfs.New(memfs.Config{})
			v := newVault(t, fs.Root, ks, vault.Options{})
			set := func(v *vault.Vault, name string) {
				t.Helper()
				n, err := find(v, "a")
				if err != nil {
					t.Fatal(err)
				}
				defer v.Forget(n, 1)
				if err := v.Setxattr(ctx, n, name, []byte("value"), 0); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range []step{put("a", pattern(1, size)), fsync("a", vault.SyncAll), fsync("", vault.SyncAll)} {
				if err := s.do(v); err != nil {
					t.Fatal(err)
				}
			}
			set(v, "user.one")
			cut := fs.Crash(memfs.Policy{Choose: memfs.Random(seed)})
			v.Close()
			v = openVault(t, cut.Root, ks, vault.Options{})
			if names := attributesOf(t, v, "a", "user.one"); len(names) == 0 && attributesIn(t, cut) > 0 {
				strays++
			}
			set(v, "user.two")
			last := cut.Crash(memfs.Policy{Choose: memfs.Random(seed + 100)})
			v.Close()
			v = openVault(t, last.Root, ks, vault.Options{})
			attributesOf(t, v, "a", "user.one", "user.two")
			v.Close()
		}
	}
	if strays == 0 {
		t.Error("no crash has kept an attribute alone: the test shows nothing")
	}
}

// attributesOf lists the attributes of a file, each of which must be one of may and have a value.
func attributesOf(t *testing.T, v *vault.Vault, path string, may ...string) []string {
	t.Helper()
	n, err := find(v, path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Forget(n, 1)
	names, err := v.Listxattr(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if value, err := v.Getxattr(ctx, n, name); err != nil || string(value) != "value" || !slices.Contains(may, name) {
			t.Errorf("%s is %q, %v", name, value, err)
		}
	}
	return names
}

// attributesIn counts the attributes of the only stored file.
func attributesIn(t *testing.T, fs *memfs.FS) int {
	t.Helper()
	f := storedFile(t, fs.Root())
	defer f.Close()
	b := make([]byte, 1000)
	n, err := f.Listxattr(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b[:n], []byte{0})
}

// TestUndoneRmdir has a power cut bring back a directory that was removed, on a file system that keeps the order of names in each
// directory alone: it is whole, also when what the next mount has cleared away is brought back.
func TestUndoneRmdir(t *testing.T) {
	back := 0
	for seed := range uint64(60) {
		ks, fs := &memoryKeys{}, memfs.New(memfs.Config{})
		v := newVault(t, fs.Root, ks, vault.Options{})
		for _, s := range []step{mkdir("d"), mkdir("e"), fsync("", vault.SyncAll), rmdir("d"), mkdir("f"), rename("f", "e", 0)} {
			if err := s.do(v); err != nil {
				t.Fatal(err)
			}
		}
		p := memfs.Policy{Names: memfs.PerDirectory, Choose: memfs.Random(seed)}
		killed := fs.Kill()
		cuts := []*memfs.FS{fs.Crash(p)}
		v.Close()
		openVault(t, killed.Root, ks, vault.Options{}).Close()
		for _, cut := range append(cuts, killed.Crash(p)) {
			v := openVault(t, cut.Root, ks, vault.Options{})
			for _, s := range []step{put("d/x", nil), put("e/x", nil), put("f/x", nil)} {
				if err := s.do(v); err != nil && !errors.Is(err, syscall.ENOENT) {
					t.Errorf("seed %d: %s: %v", seed, s.name, err)
				} else if err == nil {
					back++
				}
			}
			v.Close()
		}
	}
	if back == 0 {
		t.Error("no directory came back: the test shows nothing")
	}
}

// TestFlushIsDurable finds all that was done before a Flush after a power cut, also what leaves nothing to be settled.
func TestFlushIsDurable(t *testing.T) {
	ks, fs := &memoryKeys{}, memfs.New(memfs.Config{})
	v := newVault(t, fs.Root, ks, vault.Options{})
	defer v.Close()
	for _, s := range []step{put("a", pattern(1, 9000)), flush(), mkdir("d"), rename("a", "d/b", 0), put("c", nil), symlink("s", "c"), flush()} {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	want, err := look(v)
	if err != nil {
		t.Fatal(err)
	}
	after := openVault(t, fs.Crash(memfs.Policy{}).Root, ks, vault.Options{})
	defer after.Close()
	if got, err := look(after); err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
}
