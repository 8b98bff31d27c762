package fsck_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/fsck"
	"kmsfs/fs/vault/tree/treetest"
	"kmsfs/fs/vault/view"
)

// syncs tells what Mend had erased when it first made all durable.
type syncs struct {
	backing.Dir
	synced func()
}

func (s *syncs) SyncFS() error {
	s.synced()
	return s.Dir.SyncFS()
}

// A file that was deleted, or has got another key, a moment ago may come back with a power cut: what it needs is erased after it is gone
// for good.
func TestErasedAfterSync(t *testing.T) {
	w := newWorld(t)
	w.must(os.Remove(w.path(w.large()[0])))
	tables := func() (all []byte) {
		for _, p := range w.stored(func(p string, e fs.DirEntry) bool { return strings.HasPrefix(p, ".kmsfs/keys/") }) {
			b, err := os.ReadFile(w.path(p))
			w.must(err)
			all = append(all, b...)
		}
		return all
	}
	before, early := tables(), true
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		r, err := fsck.Find(t.Context(), w.top(), v, fsck.Options{})
		w.must(err)
		top := &syncs{Dir: w.top(), synced: func() {
			if early && !bytes.Equal(before, tables()) {
				t.Error("a record was erased before all was durable")
			}
			early = false
		}}
		did, err := fsck.Mend(t.Context(), top, v, r.Findings)
		if err != nil || len(did) != 1 || early {
			t.Errorf("did %+v, %v", did, err)
		}
	})
	if bytes.Equal(before, tables()) {
		t.Error("nothing was erased")
	}
}

// A table that somebody has made large with holes is looked at and mended as fast as another.
func TestHugeTable(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		w := newWorld(t)
		table := w.path(w.stored(func(p string, e fs.DirEntry) bool { return strings.HasPrefix(p, ".kmsfs/keys/") })[0])
		b, err := os.ReadFile(table)
		w.must(err)
		if damaged {
			b[9] ^= 1
			w.must(os.WriteFile(table, b, 0o600))
		}
		w.must(os.Truncate(table, 2<<40))
		began := time.Now()
		did := w.mendAll()
		if len(did) > 0 != damaged {
			t.Errorf("mended %+v", did)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		w.same("")
	}
}

// Where lost+found is a file another directory gets what is misplaced.
func TestLostFoundTaken(t *testing.T) {
	w := newWorld(t)
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		treetest.WriteFile(t, view.Root(t.Context(), v), fsck.LostFound, []byte("mine"))
	})
	w.want[fsck.LostFound] = []byte("mine")
	p := w.large()[0]
	w.must(os.Rename(w.path(p), w.path(strings.ReplaceAll(p, "/", "")[:20])))
	moved := w.missing()
	for range 2 {
		for _, m := range w.mendAll() {
			if m.Kind == fsck.Misplaced && !strings.HasPrefix(m.Done, "moved to lost+found.2/") {
				t.Errorf("%+v", m)
			}
		}
		w.same(moved)
	}
}

// What was to take the place of something is not removed where that is not there: it is the id of its directory.
func TestLeftoverKept(t *testing.T) {
	w := newWorld(t)
	dir := w.dirs()[0]
	table := w.stored(func(p string, e fs.DirEntry) bool { return strings.HasPrefix(p, ".kmsfs/keys/") })[0]
	for _, p := range []string{dir + "/.kmsfs.dir", table} {
		w.must(os.Rename(w.path(p), w.path(p+".new")))
	}
	w.must(os.Mkdir(w.path(w.dirs()[1]+"/.kmsfs.dir.new"), 0o700))
	w.mendAll()
	if _, err := os.Stat(w.path(table + ".new")); errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s.new is gone", table)
	}
	w.must(os.Rename(w.path(table+".new"), w.path(table)))
	w.same("")
}
