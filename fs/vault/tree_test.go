package vault_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// find walks to path, whose parts are separated by slashes; the node has one reference more.
func find(v *vault.Vault, path string) (*vault.Node, error) {
	n := v.Root()
	v.Refer(n)
	for _, part := range strings.Split(path, "/") {
		if part == "" {
			continue
		}
		next, _, err := v.Lookup(n, part)
		v.Forget(n, 1)
		if err != nil {
			return nil, err
		}
		n = next
	}
	return n, nil
}

// inDir calls f with the directory of path and its last part.
func inDir(v *vault.Vault, path string, f func(dir *vault.Node, name string) error) error {
	i := strings.LastIndexByte(path, '/')
	dir, err := find(v, path[:max(i, 0)])
	if err != nil {
		return err
	}
	defer v.Forget(dir, 1)
	return f(dir, path[i+1:])
}

func put(path string, data []byte) step {
	return step{"put " + path, func(v *vault.Vault) error {
		return inDir(v, path, func(dir *vault.Node, name string) error {
			n, _, err := v.Create(dir, name, 0o644, who)
			if err != nil {
				return err
			}
			defer v.Forget(n, 1)
			defer v.Release(n)
			if len(data) > 0 {
				_, err = v.Write(ctx, n, data, 0, vault.KeepPrivileges)
			}
			return err
		})
	}}
}

func mkdir(path string) step {
	return step{"mkdir " + path, func(v *vault.Vault) error {
		return inDir(v, path, func(dir *vault.Node, name string) error {
			n, _, err := v.Mkdir(dir, name, 0o755, who)
			if err == nil {
				v.Forget(n, 1)
			}
			return err
		})
	}}
}

func symlink(path, target string) step {
	return step{"symlink " + path, func(v *vault.Vault) error {
		return inDir(v, path, func(dir *vault.Node, name string) error {
			n, _, err := v.Symlink(dir, name, target, who)
			if err == nil {
				v.Forget(n, 1)
			}
			return err
		})
	}}
}

func link(path, to string) step {
	return step{"link " + path + " " + to, func(v *vault.Vault) error {
		n, err := find(v, path)
		if err != nil {
			return err
		}
		defer v.Forget(n, 1)
		return inDir(v, to, func(dir *vault.Node, name string) error {
			_, err := v.Link(n, dir, name)
			return err
		})
	}}
}

func unlink(path string) step {
	return step{"unlink " + path, func(v *vault.Vault) error {
		return inDir(v, path, func(dir *vault.Node, name string) error { return v.Unlink(dir, name) })
	}}
}

func rmdir(path string) step {
	return step{"rmdir " + path, func(v *vault.Vault) error {
		return inDir(v, path, func(dir *vault.Node, name string) error { return v.Rmdir(dir, name) })
	}}
}

func rename(path, to string, flags uint32) step {
	return step{"rename " + path + " " + to, func(v *vault.Vault) error {
		return inDir(v, path, func(dir *vault.Node, name string) error {
			return inDir(v, to, func(newDir *vault.Node, newName string) error {
				return v.Rename(dir, name, newDir, newName, flags)
			})
		})
	}}
}

// step is one change of a tree.
type step struct {
	name string
	do   func(v *vault.Vault) error
}

// tree is what there is below the root, by path.
type tree map[string]string

func (t tree) String() string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "%.60s: %s\n", p, t[p])
	}
	return b.String()
}

// look reads the whole tree.
func look(v *vault.Vault) (tree, error) {
	t := tree{}
	v.Refer(v.Root())
	return t, lookInto(v, v.Root(), "", t)
}

func lookInto(v *vault.Vault, dir *vault.Node, path string, t tree) error {
	defer v.Forget(dir, 1)
	var entries []vault.DirEntry
	if err := v.ReadDir(dir, func(e vault.DirEntry) bool {
		entries = append(entries, e)
		return true
	}); err != nil {
		return fmt.Errorf("list %q: %w", path, err)
	}
	for _, e := range entries {
		p := path + "/" + e.Name
		n, st, err := v.Lookup(dir, e.Name)
		if err != nil {
			return fmt.Errorf("look up %q: %w", p, err)
		}
		switch n.Kind() {
		case syscall.S_IFDIR:
			t[p] = "directory"
			if err := lookInto(v, n, p, t); err != nil {
				return err
			}
			continue
		case syscall.S_IFLNK:
			target, err := v.Readlink(n)
			if err != nil {
				return fmt.Errorf("readlink %q: %w", p, err)
			}
			t[p] = "link to " + target
		default:
			data := make([]byte, st.Size+1)
			k, err := v.Read(ctx, n, data, 0)
			if err != nil {
				return fmt.Errorf("read %q: %w", p, err)
			}
			t[p] = fmt.Sprintf("file, %d names, %d bytes %x", st.Nlink, k, sha256.Sum256(data[:k]))
		}
		v.Forget(n, 1)
	}
	return nil
}

// records counts the records in the key tables of a vault that is closed, and the names in its .kmsfs/tmp.
func records(t *testing.T, at place) (records, left int) {
	t.Helper()
	top := at()
	defer top.Close()
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	keys, _ := ctl.OpenDir("keys")
	defer keys.Close()
	keys.ReadDir(func(e backing.Entry) bool {
		f, err := keys.Open(e.Name, syscall.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 4<<20)
		n, _ := f.ReadAt(b, 0)
		h, err := envelope.ParseTableHeader(b[:n])
		if n == 0 {
			return true // a kill has left it before it was begun
		}
		if err != nil {
			t.Fatal(err)
		}
		for at := int(h.SlotSize); at+int(h.SlotSize) <= n; at += int(h.SlotSize) {
			if _, err := envelope.ParseRecord(b[at : at+int(h.SlotSize)]); err == nil {
				records++
			}
		}
		return true
	})
	tmp, _ := ctl.OpenDir("tmp")
	defer tmp.Close()
	tmp.ReadDir(func(backing.Entry) bool { left++; return true })
	return records, left
}
