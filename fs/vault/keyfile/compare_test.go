package keyfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/keyfile"
	"kmsfs/fs/vault/rewrap"
)

// compared compares the vault with a key file.
func (w *world) compared(key []byte) *keyfile.Compared {
	w.t.Helper()
	k, err := keyfile.NewReader(bytes.NewReader(key))
	w.must(err)
	c, err := keyfile.Compare(w.t.Context(), w.fs.Root(), k)
	w.must(err)
	return c
}

// TestCompare counts what differs, exactly.
func TestCompare(t *testing.T) {
	w := newWorld(t)
	w.add("a", 6)
	w.add("gone", 2)
	key := w.export()
	if c := w.compared(key); c.Files != 8 || c.Same != 8 || c.OnlyHere+c.OnlyThere+c.Rewrapped+c.Differing != 0 || !c.Complete() || c.Config != "same" {
		t.Errorf("the same: %+v", c)
	}
	for path := range maps.Clone(w.want) {
		if path[:4] == "gone" {
			w.remove(path)
		}
	}
	w.rewrap(rewrap.Options{To: "alias/b"})
	if c := w.compared(key); c.Files != 6 || c.Rewrapped != 6 || c.Same != 0 || c.OnlyThere != 2 || !c.Complete() || c.Config != "other" {
		t.Errorf("rewrapped: %+v", c)
	}
	w.add("new", 3)
	c := w.compared(key)
	if c.Files != 9 || c.OnlyHere != 3 || len(c.MissingThere) != 3 || len(c.MissingHere) != 0 || c.Complete() {
		t.Errorf("new files: %+v", c)
	}
	newer := w.export()
	all := w.tables()
	for _, b := range all {
		slots(b, func(i int, slot []byte, _ *envelope.Record) {
			if i == 1 {
				clear(slot)
			}
		})
	}
	w.setTables(all)
	if c := w.compared(newer); int(c.OnlyThere) != len(c.MissingHere) || c.OnlyThere < 2 || !c.Complete() {
		t.Errorf("lost here: %+v", c)
	}
	src, closing, err := keyfile.OpenVault(w.fs.Root())
	w.must(err)
	defer closing()
	if c, err := keyfile.Compare(t.Context(), w.fs.Root(), src); err != nil || c.Complete() || len(c.MissingThere) != len(c.MissingHere) || c.Config != "same" {
		t.Errorf("with itself: %+v, %v", c, err)
	}
	other := newWorld(t)
	k, err := keyfile.NewReader(bytes.NewReader(other.export()))
	w.must(err)
	if _, err := keyfile.Compare(t.Context(), w.fs.Root(), k); !errors.Is(err, keyfile.ErrOtherVault) {
		t.Errorf("another vault: %v", err)
	}
}

// TestNeverSynced: a stored file of zeros, as a cut of the power leaves it, has no key and stands in nobody's way; one that is
// damaged does.
func TestNeverSynced(t *testing.T) {
	w := newWorld(t)
	w.add("a", 2)
	key := w.export()
	name := strings.Repeat("A", 43)
	w.write(w.fs.Root(), name, make([]byte, 300000))
	if c := w.compared(key); c.Files != 2 || c.Unread != 0 || !c.Complete() {
		t.Errorf("zeros: %+v", c)
	}
	w.write(w.fs.Root(), name, append(make([]byte, 200000), 1))
	if c := w.compared(key); c.Unread != 1 || c.Complete() || len(c.Problems) != 1 || c.Problems[0].Path != name {
		t.Errorf("not only zeros: %+v", c)
	}
}

// TestExportWhileWriting exports a vault in which files come and go and whose keys are rewrapped. Each export is whole, and has
// the records of all files that were there before and after it.
func TestExportWhileWriting(t *testing.T) {
	w := newWorld(t)
	w.add("stays", 30)
	v := w.open(vault.ReadWrite)
	d, _, err := v.Mkdir(v.Root(), "comes and goes", 0o755, vault.Caller{})
	w.must(err)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			f, _, err := v.Create(d, fmt.Sprint(i), 0o644, vault.Caller{})
			if err == nil {
				_, err = v.Write(context.Background(), f, []byte("text"), 0, vault.KeepPrivileges)
			}
			if err == nil && i >= 20 {
				err = v.Unlink(d, fmt.Sprint(i-20))
			}
			if err == nil && i%50 == 0 {
				err = v.Flush() // erases
			}
			if err != nil {
				t.Error(err)
				return
			}
			v.Release(f)
			v.Forget(f, 1)
		}
	})
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			_, err := rewrap.Run(context.Background(), w.fs.Root(), w.ks, rewrap.Options{Force: true, Settle: -1})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	var keys [][]byte
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		keys = append(keys, w.export())
	}
	stop.Store(true)
	wg.Wait()
	w.must(v.Close())
	for _, key := range keys {
		for _, s := range w.compared(key).MissingThere {
			if s.Head.Loc.Table != 0 && w.recordsOf("stays")[s.Head.ID] {
				t.Fatalf("a record is missing from an export of %d", len(keys))
			}
		}
	}
	last := keys[len(keys)-1]
	w.clear(w.ctl())
	w.imported(last)
	if lost := w.lost(); len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	t.Logf("%d exports", len(keys))
}
