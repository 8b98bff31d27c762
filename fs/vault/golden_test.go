package vault_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource/local"
)

const goldenDir = "testdata/golden-v1"

// golden is what the golden vault holds, and what git does not keep of it.
type golden struct {
	Tree       map[string]string // see look
	Attributes map[string]string // of "path name"
	Stored     []storedXattr
}

type storedXattr struct {
	Path  string // of the stored file, in the vault
	Name  string
	Value []byte
}

// TestGolden opens the vault that version 1 of the format made. It is never made anew.
func TestGolden(t *testing.T) {
	if os.Getenv("KMSFS_MAKE_GOLDEN") != "" {
		makeGolden(t)
	}
	dir, g, xattrs := copyGolden(t, goldenDir)
	testGolden(t, dir, g, xattrs)
}

// copyGolden copies a golden vault and its key store to a new directory; xattrs says whether the attributes could be copied.
func copyGolden(t *testing.T, from string) (dir string, g golden, xattrs bool) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // git keeps no modes
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	xattrs = true
	for _, x := range g.Stored {
		if err := syscall.Setxattr(filepath.Join(dir, "vault", x.Path), x.Name, x.Value, 0); err != nil {
			t.Logf("extended attributes are not checked: %v", err)
			xattrs = false
			break
		}
	}
	return dir, g, xattrs
}

// openGolden opens the key store of a copy, and returns where the vault is.
func openGolden(t *testing.T, dir string) (*local.Store, place) {
	t.Helper()
	ks, err := local.Open(ctx, local.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	return ks, func() backing.Dir {
		d, err := backing.OpenDir(filepath.Join(dir, "vault"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

// testGolden holds a copy against what it was made with.
func testGolden(t *testing.T, dir string, g golden, xattrs bool) {
	t.Helper()
	ks, at := openGolden(t, dir)
	for round, access := range []vault.Access{vault.ReadOnly, vault.ReadWrite, vault.ReadOnly} {
		v := openVault(t, at, ks, vault.Options{Access: access})
		got, err := look(v)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, g.Tree) {
			t.Errorf("round %d: got\n%v\nwant\n%v", round, got, g.Tree)
		}
		for key, want := range g.Attributes {
			path, name, _ := strings.Cut(key, " ")
			n, err := find(v, path)
			if err != nil {
				t.Fatal(err)
			}
			value, err := v.Getxattr(ctx, n, name)
			if xattrs && (err != nil || string(value) != want) {
				t.Errorf("%s: got %q, want %q (%v)", key, value, want, err)
			}
			v.Forget(n, 1)
		}
		if access == vault.ReadWrite { // can be written, and changed back
			for _, s := range []step{put("new", pattern(1, 10000)), unlink("new")} {
				if err := s.do(v); err != nil {
					t.Error(err)
				}
			}
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

// makeGolden was run once for each version of the format, with KMSFS_MAKE_GOLDEN=1 and no goldenDir.
func makeGolden(t *testing.T) {
	if _, err := os.Stat(goldenDir); err == nil {
		t.Fatal("the golden vault is there, and is never made anew")
	}
	if err := os.MkdirAll(filepath.Join(goldenDir, "vault"), 0o755); err != nil {
		t.Fatal(err)
	}
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(goldenDir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer ks.Close()
	at := func() backing.Dir {
		d, err := backing.OpenDir(filepath.Join(goldenDir, "vault"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	v := newVault(t, at, ks, vault.Options{})
	steps := []step{
		mkdir("dir"), mkdir("dir/empty"), put("empty", nil), put("one", pattern(1, 1)), put("inline", pattern(2, 3968)),
		put("group", pattern(3, 3969)), put("dir/group", pattern(4, 20000)), put("two groups", pattern(5, 63*4096+1)),
		put("dir/"+longA, pattern(6, 10)), put(longB, nil), put("ümläut 日本", pattern(7, 100)), symlink("link", "../some/where"),
		symlink("dir/"+longB, strings.Repeat("x/", 1000)),
	}
	for _, s := range steps {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	g := golden{Attributes: map[string]string{}}
	for _, path := range []string{"empty", "inline", "dir/group", "dir"} {
		n, err := find(v, path)
		if err != nil {
			t.Fatal(err)
		}
		g.Attributes[path+" user.colour"] = "blue of " + path
		if err := v.Setxattr(ctx, n, "user.colour", []byte("blue of "+path), 0); err != nil {
			t.Fatal(err)
		}
		v.Forget(n, 1)
	}
	n, err := find(v, "two groups") // with a hole that has a group in it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, pattern(8, 5000), 2*63*4096+4000, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	if err := v.Allocate(ctx, n, 3, 4096, 8192, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	v.Forget(n, 1)
	if err := v.Flush(); err != nil { // settled
		t.Fatal(err)
	}
	n, err = find(v, "dir/group") // and one unsettled, cut and written again
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Truncate(ctx, n, 9001, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	v.Forget(n, 1)
	if g.Tree, err = look(v); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	writeGolden(t, goldenDir, &g)
}

// writeGolden notes what git does not keep, and all that the vault holds.
func writeGolden(t *testing.T, dir string, g *golden) {
	t.Helper()
	g.Stored = nil
	top := filepath.Join(dir, "vault")
	filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		names := make([]byte, 10000)
		n, err := syscall.Listxattr(path, names)
		if err != nil {
			return err
		}
		for _, name := range slices.Compact(strings.Split(string(bytes.TrimRight(names[:n], "\x00")), "\x00")) {
			value := make([]byte, 10000)
			if n, err := syscall.Getxattr(path, name, value); err == nil && strings.HasPrefix(name, "user.") {
				rel, _ := filepath.Rel(top, path)
				g.Stored = append(g.Stored, storedXattr{rel, name, value[:n]})
			}
		}
		return nil
	})
	b, err := json.MarshalIndent(g, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "golden.json"), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
