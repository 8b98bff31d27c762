package fsck_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/fsck"
	"kmsfs/keysource"
)

// large are stored files of more than one group.
func (w *world) large() []string {
	return slices.DeleteFunc(w.data(), func(p string) bool {
		st, err := os.Stat(w.path(p))
		return err != nil || st.Size() < 300_000
	})
}

// mendAll finds and mends, and spares no record by its age.
func (w *world) mendAll() (did []fsck.Mended) {
	w.t.Helper()
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		r, err := fsck.Find(w.t.Context(), w.top(), v, fsck.Options{})
		if err == nil {
			did, err = fsck.Mend(w.t.Context(), w.top(), v, r.Findings)
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	return did
}

// TestNeededRecords: the record of a file that is damaged, or elsewhere than kmsfs put it, stays: put right, the file reads.
func TestNeededRecords(t *testing.T) {
	change := func(w *world, path string, f func(b []byte)) (back func()) {
		old, err := os.ReadFile(w.path(path))
		w.must(err)
		b := bytes.Clone(old)
		f(b)
		w.must(os.WriteFile(w.path(path), b, 0o600))
		return func() { w.must(os.WriteFile(w.path(path), old, 0o600)) }
	}
	move := func(w *world, from, to string) (back func()) {
		w.must(os.MkdirAll(filepath.Dir(w.path(to)), 0o700))
		w.must(os.Rename(w.path(from), w.path(to)))
		return func() { w.must(os.Rename(w.path(to), w.path(from))) }
	}
	for name, harm := range map[string]func(w *world) (back func()){
		"a first block of zeros": func(w *world) func() {
			return change(w, w.large()[0], func(b []byte) { clear(b[:4096]) })
		},
		"a wrong slot in the header": func(w *world) func() {
			return change(w, w.large()[0], func(b []byte) { b[45] ^= 1 })
		},
		"a wrong table in the header": func(w *world) func() {
			return change(w, w.large()[0], func(b []byte) { b[36] ^= 1 })
		},
		"a wrong id in the header": func(w *world) func() {
			return change(w, w.large()[0], func(b []byte) { b[12] ^= 1 })
		},
		"a header that is none": func(w *world) func() {
			return change(w, w.large()[0], func(b []byte) { b[0] ^= 1 })
		},
		"the header of another file": func(w *world) func() {
			other, err := os.ReadFile(w.path(w.large()[1]))
			w.must(err)
			return change(w, w.large()[0], func(b []byte) { copy(b, other[:4096]) })
		},
		"found by e2fsck, with a header that is none": func(w *world) func() {
			back := change(w, w.large()[0], func(b []byte) { b[0] ^= 1 })
			again := move(w, w.large()[0], "lost+found/#1234")
			return func() { again(); back() }
		},
		"in a directory of another program": func(w *world) func() {
			back := change(w, w.large()[0], func(b []byte) { b[0] ^= 1 })
			again := move(w, w.large()[0], "backup/"+filepath.Base(w.large()[0]))
			return func() { again(); back(); w.must(os.RemoveAll(w.path("backup"))) }
		},
		"in another vault inside": func(w *world) func() {
			w.must(os.MkdirAll(w.path("backup/.kmsfs"), 0o700))
			back := move(w, w.large()[0], "backup/"+filepath.Base(w.large()[0]))
			return func() { back(); w.must(os.RemoveAll(w.path("backup"))) }
		},
		"moved aside, with a wrong slot": func(w *world) func() {
			back := change(w, w.large()[0], func(b []byte) { b[45] ^= 1 })
			again := move(w, w.large()[0], ".kmsfs/damaged/20260101T000000Z/x")
			return func() { again(); back() }
		},
		"no file at all": func(w *world) func() {
			var backs []func()
			for _, p := range w.stored(func(p string, e fs.DirEntry) bool { return e.IsDir() && !strings.Contains(p, "/") && p != ".kmsfs" }) {
				away := filepath.Join(w.t.TempDir(), "away")
				w.must(os.Rename(w.path(p), away))
				backs = append(backs, func() { w.must(os.Rename(away, w.path(p))) })
			}
			return func() {
				for _, back := range backs {
					back()
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			back := harm(w)
			did := w.mendAll()
			for _, m := range did {
				if m.Kind == fsck.OrphanRecords {
					t.Errorf("%+v", m)
				}
			}
			if name == "no file at all" { // the companions of a long name went
				return
			}
			back()
			w.same("")
		})
	}
}

// What was moved aside is no damage of the vault any more.
func TestMovedAside(t *testing.T) {
	w := newWorld(t)
	for i, p := range w.large() {
		b, err := os.ReadFile(w.path(p))
		w.must(err)
		b[0] ^= byte(i + 1)
		w.must(os.WriteFile(w.path(p), b, 0o600))
	}
	w.open(vault.ReadOnly, func(v *vault.Vault) {
		r, err := check.Run(t.Context(), w.top(), check.Options{Vault: v})
		w.must(err)
		moved, err := check.Repair(t.Context(), w.top(), v.Config().Volume, r.Findings, time.Now())
		if err != nil || len(moved) != 3 {
			t.Fatalf("moved %+v, %v", moved, err)
		}
	})
	if r := w.find(); len(r.Findings) != 0 {
		t.Errorf("found %+v", r.Findings)
	}
}

// noKeys is a keysource that cannot be reached once the vault is open.
type noKeys struct {
	keysource.Keysource
	off bool
}

func (k *noKeys) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	if k.off {
		return keysource.DecryptResult{}, keysource.ErrUnavailable
	}
	return k.Keysource.Decrypt(ctx, in)
}

// A keysource that cannot be reached says nothing of the vault.
func TestNoKeysource(t *testing.T) {
	w := newWorld(t)
	k := &noKeys{Keysource: w.ks}
	v, err := vault.Open(t.Context(), w.top(), k, vault.Options{Access: vault.ReadOnly})
	w.must(err)
	defer v.Close()
	k.off = true
	r, err := fsck.Find(t.Context(), w.top(), v, fsck.Options{})
	w.must(err)
	if got := kinds(r.Findings); got != "unread" {
		t.Errorf("found %q: %+v", got, r.Findings)
	}
}
