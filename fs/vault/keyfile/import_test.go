package keyfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/keyfile"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/keysource"
)

// slots calls f for each slot that is not empty, but the header.
func slots(table []byte, f func(i int, slot []byte, r *envelope.Record)) {
	h, err := envelope.ParseTableHeader(table)
	if err != nil {
		return
	}
	z := int(h.SlotSize)
	for i := 1; (i+1)*z <= len(table); i++ {
		slot := table[i*z : (i+1)*z]
		if r, err := envelope.ParseRecord(slot); err == nil {
			f(i, slot, r)
		}
	}
}

// TestImport loses the sidecar of a vault in every way, and has it put right from a key file.
func TestImport(t *testing.T) {
	for name, lose := range map[string]func(w *world, key *[]byte){
		"all of it": func(w *world, _ *[]byte) {
			w.clear(w.ctl())
			w.must(w.fs.Root().Rmdir(envelope.ControlDir))
		},
		"all that is in it": func(w *world, _ *[]byte) { w.clear(w.ctl()) },
		"the key tables":    func(w *world, _ *[]byte) { w.clear(w.ctl("keys")) },
		"their directory": func(w *world, _ *[]byte) {
			w.clear(w.ctl("keys"))
			w.must(w.ctl().Rmdir("keys"))
		},
		"one table": func(w *world, _ *[]byte) {
			for name := range w.tables() {
				w.must(w.ctl("keys").Unlink(name))
				return
			}
		},
		"the config": func(w *world, _ *[]byte) { w.must(w.ctl().Unlink("vault.json")) },
		"half of the config": func(w *world, _ *[]byte) {
			b := w.read(w.ctl(), "vault.json")
			w.write(w.ctl(), "vault.json", b[:len(b)/2])
		},
		"headers of tables": func(w *world, _ *[]byte) {
			all := w.tables()
			for _, b := range all {
				b[20] ^= 1
			}
			w.setTables(all)
		},
		"tables cut before their headers": func(w *world, _ *[]byte) {
			all := w.tables()
			for name := range all {
				all[name] = nil
			}
			w.setTables(all)
		},
		"tables cut within": func(w *world, _ *[]byte) {
			all := w.tables()
			for name, b := range all {
				all[name] = b[:min(len(b)/2-100, 5000)] // in the second half may be spare records alone
			}
			w.setTables(all)
		},
		"another vault's tables": func(w *world, _ *[]byte) {
			other := newWorld(w.t)
			other.add("d", 5)
			all := w.tables()
			for _, b := range other.tables() {
				for name := range all {
					all[name] = b
				}
			}
			w.setTables(all)
		},
		"records": func(w *world, _ *[]byte) {
			all := w.tables()
			var first []byte
			for _, b := range all {
				slots(b, func(i int, slot []byte, r *envelope.Record) {
					switch {
					case i%4 == 0:
						clear(slot)
					case i%4 == 1:
						slot[100] ^= 1
					case i%4 == 2 && first != nil && len(first) == len(slot):
						copy(slot, first)
					}
					first = slices.Clone(slot)
				})
			}
			w.setTables(all)
		},
		"what is newer than an old sidecar": func(w *world, key *[]byte) {
			old := w.tables()
			w.add("zone", 4)
			w.add("newer", 9)
			*key = w.export()
			w.setTables(old)
		},
		"all, rewrapped since": func(w *world, _ *[]byte) {
			md, err := w.ks.DescribeKey(w.t.Context(), "alias/a")
			w.must(err)
			_, err = w.ks.RotateKeyOnDemand(w.t.Context(), keysource.KeyRef(md.ARN))
			w.must(err)
			w.rewrap(rewrap.Options{})
			w.clear(w.ctl())
		},
		"some, rewrapped since": func(w *world, _ *[]byte) {
			w.rewrap(rewrap.Options{To: "alias/b"})
			all := w.tables()
			for _, b := range all {
				slots(b, func(i int, slot []byte, r *envelope.Record) {
					if i%2 == 0 {
						clear(slot)
					}
				})
			}
			w.setTables(all)
		},
		"some, and the records of the key file are larger": func(w *world, key *[]byte) {
			all := w.tables()
			w.rewrap(rewrap.Options{Add: []keysource.KeyRef{"alias/b"}})
			*key = w.export()
			for _, b := range all {
				slots(b, func(i int, slot []byte, r *envelope.Record) {
					if i%2 == 0 {
						clear(slot)
					}
				})
			}
			w.setTables(all)
		},
	} {
		for _, more := range [][]string{nil, {"alias/c", "alias/d", "alias/e"}} {
			if more != nil && testing.Short() {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d wrappings", name, 1+len(more)), func(t *testing.T) {
				w := newWorld(t, more...)
				w.zone = []string{"zone"}
				w.add("plain", 20)
				w.add("zone", 7)
				w.add("gone", 3)
				w.add("plain", 2)
				key := w.export()
				gone := w.recordsOf("gone")
				maps.Copy(gone, w.recordsOf("plain"))
				dropped := 0
				for path := range maps.Clone(w.want) {
					if strings.HasPrefix(path, "gone/") || strings.HasPrefix(path, "plain/") && dropped < 3 {
						w.remove(path)
						dropped++
					}
				}
				stay := w.recordsOf("plain")
				maps.DeleteFunc(gone, func(id envelope.FileID, _ bool) bool { return stay[id] })
				if len(gone) < 4 {
					t.Fatalf("%d files were deleted", len(gone))
				}
				lose(w, &key)
				var there bool
				if _, err := vault.ReadConfig(w.fs.Root()); err == nil {
					there = true
					if !strings.HasSuffix(name, "config") && len(w.lost()) == 0 {
						t.Fatal("nothing was lost")
					}
				}
				before := w.fs.Ops()
				done, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(key), keyfile.ImportOptions{DryRun: true})
				w.must(err)
				if _, err := vault.ReadConfig(w.fs.Root()); (err == nil) != there {
					t.Errorf("the dry run has changed the vault: %v, after %d operations", err, w.fs.Ops()-before)
				}
				real := w.imported(key)
				if real.Records != done.Records || real.Tables != done.Tables || real.Config != done.Config {
					t.Errorf("done %d, %d, %s, the dry run %d, %d, %s", real.Records, real.Tables, real.Config, done.Records, done.Tables, done.Config)
				}
				if lost := w.lost(); len(lost) > 0 || len(real.Missing) > 0 {
					t.Fatalf("%d files are still lost, %d missing, %d put in", len(lost), len(real.Missing), real.Records)
				}
				for id := range w.recordsOf("") {
					if gone[id] {
						t.Error("the record of a deleted file is back")
					}
				}
				tables := w.tables()
				if again := w.imported(key); again.Records != 0 || again.Tables != 0 || again.Config != keyfile.ConfigKept {
					t.Errorf("again: %+v", again)
				}
				if !maps.EqualFunc(tables, w.tables(), bytes.Equal) {
					t.Error("a second import has changed tables")
				}
				w.add("plain", 3) // and it can be written
				if lost := w.lost(); len(lost) > 0 {
					t.Errorf("%d files are lost", len(lost))
				}
			})
		}
	}
}

// recordsOf are the ids of the records in the key tables, those of the files in dir, "" for all.
func (w *world) recordsOf(dir string) map[envelope.FileID]bool {
	w.t.Helper()
	ids := map[envelope.FileID]bool{}
	if dir == "" {
		for _, b := range w.tables() {
			slots(b, func(_ int, _ []byte, r *envelope.Record) { ids[r.ID] = true })
		}
		return ids
	}
	v := w.open(vault.ReadOnly)
	d, _, err := v.Lookup(v.Root(), dir)
	w.must(err)
	w.must(v.ReadDir(d, func(e vault.DirEntry) bool {
		n, _, err := v.LookupStored(d, e.Stored)
		w.must(err)
		r, err := v.KeyInfo(n)
		w.must(err)
		ids[r.ID] = true
		return true
	}))
	w.must(v.Close())
	return ids
}

// TestStillMissing: what the key file does not have is told, by its stored path, and nothing else is harmed.
func TestStillMissing(t *testing.T) {
	w := newWorld(t)
	w.add("old", 6)
	key := w.export()
	w.add("new", 4)
	w.clear(w.ctl("keys"))
	done := w.imported(key)
	if len(done.Missing) != 4 || done.Records != 6 || done.Files != 10 {
		t.Fatalf("%+v", done)
	}
	lost := w.lost()
	for _, path := range lost {
		if !strings.HasPrefix(path, "new/") {
			t.Errorf("%s is lost", path)
		}
	}
	if len(lost) != 4 {
		t.Errorf("lost: %q", lost)
	}
}

// TestNotThisVault: keys of another vault are refused, and nothing is made.
func TestNotThisVault(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.add("d", 3)
	other.add("d", 3)
	key := other.export()
	try := func(o keyfile.ImportOptions) error {
		_, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(key), o)
		return err
	}
	if err := try(keyfile.ImportOptions{}); !errors.Is(err, keyfile.ErrOtherVault) {
		t.Errorf("another volume: %v", err)
	}
	w.clear(w.ctl())
	w.must(w.fs.Root().Rmdir(envelope.ControlDir))
	if err := try(keyfile.ImportOptions{}); !errors.Is(err, keyfile.ErrOtherVault) {
		t.Errorf("a vault without a config: %v", err)
	}
	if _, err := w.fs.Root().OpenDir(envelope.ControlDir); err == nil {
		t.Error("something was made")
	}
	id, err := vault.ReadConfig(other.fs.Root())
	w.must(err)
	if err := try(keyfile.ImportOptions{Volume: id.Volume}); err != nil {
		t.Errorf("said to be that volume: %v", err)
	}
}

// TestInUse: a vault that is open for writing is left alone.
func TestInUse(t *testing.T) {
	w := newWorld(t)
	w.add("d", 3)
	key := w.export()
	for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
		v, err := vault.Open(t.Context(), w.fs.Root(), w.ks, vault.Options{Sharing: sharing})
		w.must(err)
		if _, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(key), keyfile.ImportOptions{}); !errors.Is(err, vault.ErrLocked) {
			t.Errorf("while mounted: %v", err)
		}
		if _, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(key), keyfile.ImportOptions{DryRun: true}); err != nil {
			t.Errorf("dry run while mounted: %v", err)
		}
		w.must(v.Close())
	}
}

// TestOnePlaceTwoFiles: a record that a file uses is not given up for that of another whose header names the same slot.
func TestOnePlaceTwoFiles(t *testing.T) {
	w := newWorld(t)
	w.add("a", 1)
	key := w.export()
	all := w.tables()
	w.clear(w.ctl("keys"))
	w.add("b", 1) // its record now takes the slot of the other
	for name, b := range all {
		for other, c := range w.tables() {
			h, err := envelope.ParseTableHeader(b)
			w.must(err)
			mine := make([]byte, h.SlotSize)
			w.must(h.Marshal(mine))
			_ = other
			w.setTables(map[string][]byte{name: append(mine, c[len(mine):]...)})
		}
		id, _ := envelope.ParseTableName(name)
		w.pointAt("b", envelope.Locator{Table: id, Slot: 1})
	}
	before := w.tables()
	if done := w.imported(key); done.Records != 0 || len(done.Missing) != 1 {
		t.Errorf("%+v", done)
	}
	if !maps.EqualFunc(before, w.tables(), bytes.Equal) {
		t.Error("a record that is in use was given up")
	}
}

// pointAt makes the headers of the files in dir name another record.
func (w *world) pointAt(dir string, loc envelope.Locator) {
	w.t.Helper()
	v := w.open(vault.ReadOnly)
	sealed, err := v.StoredName(v.Root(), dir)
	w.must(err)
	w.must(v.Close())
	d, err := w.fs.Root().OpenDir(sealed.Entry)
	w.must(err)
	for _, name := range w.names(d) {
		if envelope.IsReserved(name) {
			continue
		}
		b := w.read(d, name)
		h, err := envelope.ParseHeader(b)
		w.must(err)
		h.Loc = loc
		h.Marshal(b)
		w.write(d, name, b)
	}
}

// TestImportCut cuts an import before each of its operations. The vault is then as it was or better, and a second import ends
// the work.
func TestImportCut(t *testing.T) {
	w := newWorld(t)
	w.add("a", 5)
	w.add("b", 5)
	key := w.export()
	w.clear(w.ctl("keys"))
	w.write(w.ctl(), "vault.json", []byte("{"))
	w.must(w.fs.Root().SyncFS())
	start := w.fs
	cuts := 0
	for k := int64(0); ; k++ {
		w.fs = start.Kill()
		w.fs.FailAt(w.fs.Ops() + k)
		_, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(key), keyfile.ImportOptions{})
		if err != nil && !errors.Is(err, memfs.ErrCrashed) {
			t.Fatalf("cut %d: %v", k, err)
		}
		cut := w.fs
		for seed := range uint64(5) {
			if w.fs = cut.Kill(); seed > 0 {
				w.fs = cut.Crash(memfs.Policy{Names: memfs.Names(seed % 3), Sectors: seed%2 == 0, Choose: memfs.Random(seed<<16 | uint64(k))})
			}
			kept := w.damagedConfigs()
			if err == nil && len(w.lost()) > 0 {
				t.Fatalf("policy %d: what was put in is lost by a cut of the power", seed)
			}
			done := w.imported(key)
			if lost := w.lost(); len(lost) > 0 || len(done.Missing) > 0 {
				t.Fatalf("cut %d, policy %d: lost %q, %+v", k, seed, lost, done)
			}
			if n := w.damagedConfigs(); n != 1 && kept != 1 {
				t.Fatalf("cut %d, policy %d: %d copies of the damaged config", k, seed, n)
			}
			cuts++
		}
		if err == nil {
			break
		}
	}
	if cuts < 100 {
		t.Errorf("%d cuts: the scenario is too short", cuts)
	}
	t.Logf("%d cuts", cuts)
}

// damagedConfigs counts the damaged configs that were kept.
func (w *world) damagedConfigs() (n int) {
	for _, name := range w.names(w.ctl()) {
		if strings.HasPrefix(name, "vault.json.damaged-") {
			n++
		}
	}
	return n
}
