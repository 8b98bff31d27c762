package fsck_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/fsck"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/tree/treetest"
	"kmsfs/fs/vault/view"
	"kmsfs/keysource/local"
)

// world is a vault on the disk.
type world struct {
	t    *testing.T
	dir  string
	ks   *local.Store
	want map[string][]byte // by path
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ks, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	w := &world{t, t.TempDir(), ks, map[string][]byte{}}
	if err := vault.Create(t.Context(), w.top(), ks, vault.CreateConfig{Keysource: "local:", Key: "alias/aws/kmsfs"}); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		root := view.Root(t.Context(), v)
		for _, dir := range []string{"a", "b", strings.Repeat("long", 50)} {
			if err := root.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			d, err := root.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for i, size := range []int{0, 100, 5000, 300_000, 70, 80} {
				name := fmt.Sprintf("file%d", i)
				if i == 4 {
					name = strings.Repeat("n", 200)
				}
				w.want[dir+"/"+name] = treetest.Random(r, size)
				treetest.WriteFile(t, d, name, w.want[dir+"/"+name])
			}
			if err := d.Symlink("target", "link"); err != nil {
				t.Fatal(err)
			}
			d.Close()
		}
	})
	return w
}

func (w *world) top() backing.Dir {
	d, err := backing.OpenDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) open(a vault.Access, f func(v *vault.Vault)) {
	w.t.Helper()
	v, err := vault.Open(w.t.Context(), w.top(), w.ks, vault.Options{Access: a})
	if err != nil {
		w.t.Fatal(err)
	}
	f(v)
	if err := v.Close(); err != nil {
		w.t.Error(err)
	}
}

// find is Find of the vault opened for reading.
func (w *world) find() (r *fsck.Result) {
	w.t.Helper()
	w.open(vault.ReadOnly, func(v *vault.Vault) {
		var err error
		if r, err = fsck.Find(w.t.Context(), w.top(), v, fsck.Options{}); err != nil {
			w.t.Fatal(err)
		}
	})
	return r
}

// mend finds and mends.
func (w *world) mend() (did []fsck.Mended) {
	w.t.Helper()
	now := time.Now()
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		r, err := fsck.Find(w.t.Context(), w.top(), v, fsck.Options{Now: now.Add(time.Hour)})
		if err == nil {
			r.Findings = slices.DeleteFunc(r.Findings, func(f fsck.Finding) bool { return f.Kind == fsck.OrphanRecords })
			did, err = fsck.Mend(w.t.Context(), w.top(), v, r.Findings)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	})
	return did
}

// contents is what all files hold, by path.
func (w *world) contents() map[string][]byte {
	w.t.Helper()
	got := map[string][]byte{}
	w.open(vault.ReadOnly, func(v *vault.Vault) {
		var look func(d backing.Dir, path string)
		look = func(d backing.Dir, path string) {
			names, err := tree.List(d)
			if errors.Is(err, vault.ErrCorrupt) {
				return
			}
			w.must(err)
			for _, name := range names {
				p := tree.Join(path, name)
				if sub, err := d.OpenDir(name); err == nil {
					look(sub, p)
					sub.Close()
				} else if f, st, err := d.OpenStat(name, os.O_RDONLY, 0); err == nil {
					b := make([]byte, st.Size)
					if _, err := f.ReadAt(b, 0); err != nil {
						w.t.Error(p, err)
					}
					got[p] = b
					f.Close()
				}
			}
		}
		look(view.Root(w.t.Context(), v), "")
	})
	return got
}

// same wants all contents to be somewhere, and at their paths but for those under moved.
func (w *world) same(moved string) {
	w.t.Helper()
	got := w.contents()
	for path, want := range w.want {
		if moved != "" && strings.HasPrefix(path, moved) {
			found := len(want) == 0
			for _, b := range got {
				found = found || bytes.Equal(b, want)
			}
			if !found {
				w.t.Errorf("what was in %s is lost", path)
			}
		} else if b, ok := got[path]; !ok || !bytes.Equal(b, want) {
			w.t.Errorf("%s: %d bytes, want %d", path, len(b), len(want))
		}
	}
}

// stored returns the stored paths that f is true for.
func (w *world) stored(f func(path string, e fs.DirEntry) bool) (list []string) {
	w.t.Helper()
	filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(w.dir, path); err == nil && rel != "." && f(rel, e) {
			list = append(list, rel)
		}
		return nil
	})
	return list
}

func (w *world) path(rel string) string { return filepath.Join(w.dir, rel) }

// data are the stored files.
func (w *world) data() []string {
	return w.stored(func(p string, e fs.DirEntry) bool {
		return !strings.HasPrefix(p, ".kmsfs") && !strings.HasPrefix(filepath.Base(p), ".kmsfs") && e.Type().IsRegular()
	})
}

// dirs are the stored directories but those of long names.
func (w *world) dirs() []string {
	return w.stored(func(p string, e fs.DirEntry) bool {
		return e.IsDir() && !strings.HasPrefix(p, ".kmsfs") && len(e.Name()) > 40
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// kinds are those of findings, once each.
func kinds(findings []fsck.Finding) string {
	var list []string
	for _, f := range findings {
		list = append(list, string(f.Kind))
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

// TestMend: each kind of trouble is found, and nothing else; mended, there is none, and all contents are there.
func TestMend(t *testing.T) {
	for name, c := range map[string]struct {
		harm  func(w *world)
		kinds string
		moved string // what is no more at its path, "" for nothing
		after string // what stays
	}{
		"nothing": {harm: func(w *world) {}},
		"companions": {kinds: "orphan-companion", harm: func(w *world) {
			for _, p := range w.stored(func(p string, e fs.DirEntry) bool { return strings.Contains(p, "/.kmsfs.long.") }) { // of another name
				dir, name := filepath.Split(p)
				w.must(os.WriteFile(w.path(dir+name[:12]+strings.Repeat("A", 22)+name[34:]), nil, 0o600))
			}
		}},
		"leftovers": {kinds: "leftover", harm: func(w *world) {
			w.must(os.WriteFile(w.path(".kmsfs/keys/0123456789abcdef.new"), []byte("x"), 0o600))
			w.must(os.WriteFile(w.path(".kmsfs/vault.json.new"), []byte("x"), 0o600))
			w.must(os.WriteFile(w.path(w.dirs()[0]+"/.kmsfs.dir.new"), []byte("x"), 0o600))
		}},
		"table header": {kinds: "key-table-header no-record", harm: func(w *world) {
			for _, p := range w.stored(func(p string, e fs.DirEntry) bool { return strings.HasPrefix(p, ".kmsfs/keys/") }) {
				b, err := os.ReadFile(w.path(p))
				w.must(err)
				b[9] ^= 1
				w.must(os.WriteFile(w.path(p), b, 0o600))
			}
		}},
		"misplaced file": {kinds: "misplaced", moved: "a/", harm: func(w *world) {
			for _, p := range w.data() {
				if st, _ := os.Stat(w.path(p)); st.Size() > 300_000 {
					w.must(os.Rename(w.path(p), w.path(filepath.Base(p))))
					break
				}
			}
		}},
		"misplaced directory": {kinds: "misplaced", moved: "a/", harm: func(w *world) {
			dirs := w.dirs()
			w.must(os.Rename(w.path(dirs[0]), w.path(dirs[1]+"/"+dirs[0])))
		}},
		"directory without id": {kinds: "lost-directory", moved: "a/", after: "lost-directory orphan-companion", harm: func(w *world) {
			b, err := os.ReadFile(w.path(w.dirs()[0] + "/.kmsfs.dir"))
			w.must(err)
			b[20] ^= 1
			w.must(os.WriteFile(w.path(w.dirs()[0]+"/.kmsfs.dir"), b, 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.harm(w)
			moved := ""
			if c.moved != "" { // which of the directories it was does not matter
				moved = w.missing()
			}
			if got := kinds(w.find().Findings); got != c.kinds {
				t.Fatalf("found %q, want %q: %+v", got, c.kinds, w.find().Findings)
			}
			did := w.mend()
			if c.kinds != "" && len(did) == 0 {
				t.Error("nothing was mended")
			}
			w.same(moved)
			for _, f := range w.find().Findings {
				if !strings.Contains(c.after, string(f.Kind)) {
					t.Errorf("afterwards there is %+v", f)
				}
			}
			if w.mend(); t.Failed() {
				return
			}
			w.same(moved)
			w.clean(c.after == "")
		})
	}
}

// missing is the directory of which something is not where it was.
func (w *world) missing() string {
	w.t.Helper()
	moved := ""
	w.open(vault.ReadOnly, func(v *vault.Vault) {
		root := view.Root(w.t.Context(), v)
		for path := range w.want {
			at, err := tree.Find(root, path)
			if err != nil {
				moved, _, _ = strings.Cut(path, "/")
			} else {
				at.Dir.Close()
			}
		}
	})
	if moved == "" {
		w.t.Fatal("nothing is missing")
	}
	return moved + "/"
}

// clean wants verify to find nothing.
func (w *world) clean(want bool) {
	w.t.Helper()
	w.open(vault.ReadOnly, func(v *vault.Vault) {
		r, err := check.Run(w.t.Context(), w.top(), check.Options{Vault: v})
		w.must(err)
		for _, f := range r.Findings {
			if f.Damage() && want {
				w.t.Errorf("verify finds %+v", f)
			}
		}
	})
}

// Records of no file are erased, those of files and of what was moved aside are not.
func TestOrphanRecords(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.path(".kmsfs/damaged"), 0o700))
	kept, lost := w.data()[1], ""
	for _, p := range w.data() {
		if st, _ := os.Stat(w.path(p)); st.Size() > 4096 && p != kept {
			lost = p
		}
	}
	w.must(os.Rename(w.path(kept), w.path(".kmsfs/damaged/x")))
	w.must(os.Remove(w.path(lost)))
	r := w.find()
	var orphans []fsck.Finding
	for _, f := range r.Findings {
		if f.Kind == fsck.OrphanRecords {
			orphans = append(orphans, f)
		}
	}
	if len(orphans) != 1 || !strings.HasPrefix(orphans[0].What, "1 records") {
		t.Fatalf("found %+v", r.Findings)
	}
	records := func() (n int) {
		ctl, err := w.top().OpenDir(envelope.ControlDir)
		w.must(err)
		s, err := sidecar.Open(ctl, envelope.VolumeID{})
		w.must(err)
		defer s.Close()
		for _, p := range w.stored(func(p string, e fs.DirEntry) bool { return strings.HasPrefix(p, ".kmsfs/keys/") }) {
			b, err := os.ReadFile(w.path(p))
			w.must(err)
			for off := 512; off+512 <= len(b); off += 512 {
				if !envelope.IsZero(b[off : off+512]) {
					n++
				}
			}
		}
		return n
	}
	before := records()
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		if did, err := fsck.Mend(t.Context(), w.top(), v, orphans); err != nil || len(did) != 1 {
			t.Errorf("did %+v, %v", did, err)
		}
	})
	if after := records(); after != before-1 {
		t.Errorf("%d records, and %d before", after, before)
	}
	delete(w.want, "")
	got := w.contents()
	if len(got) != len(w.want)-2 {
		t.Errorf("%d files of %d", len(got), len(w.want))
	}
	w.open(vault.ReadOnly, func(v *vault.Vault) {
		r, err := fsck.Find(t.Context(), w.top(), v, fsck.Options{Now: time.Now()})
		if err != nil || strings.Contains(kinds(r.Findings), "records") {
			t.Errorf("found %+v, %v", r, err)
		}
	})
}

// A copy that was taken in the middle of writing has files that are not settled: mended they are, with the same content and time.
func TestUnsettled(t *testing.T) {
	w := newWorld(t)
	copied := t.TempDir()
	w.open(vault.ReadWrite, func(v *vault.Vault) {
		d, err := tree.OpenDir(view.Root(t.Context(), v), "a")
		w.must(err)
		defer d.Close()
		f, err := d.Open("file3", os.O_RDWR, 0)
		w.must(err)
		defer f.Close()
		_, err = f.WriteAt([]byte("changed"), 270_000)
		w.must(err)
		_, err = f.WriteAt(bytes.Repeat([]byte("more"), 1000), 300_000)
		w.must(err)
		w.must(f.Sync())
		w.must(os.CopyFS(copied, os.DirFS(w.dir)))
	})
	copy(w.want["a/file3"][270_000:], "changed")
	w.want["a/file3"] = append(w.want["a/file3"], bytes.Repeat([]byte("more"), 1000)...)
	if w.find(); kinds(w.find().Findings) != "" {
		t.Errorf("after an unmount: %+v", w.find().Findings)
	}
	w.dir = copied
	if unclean, err := fsck.Unclean(w.top()); err != nil || !unclean {
		t.Errorf("unclean: %v, %v", unclean, err)
	}
	if got := kinds(w.find().Findings); got != "orphan-records unsettled" && got != "unsettled" {
		t.Errorf("found %q: %+v", got, w.find().Findings)
	}
	w.mend()
	if got := kinds(w.find().Findings); got != "orphan-records" && got != "" {
		t.Errorf("afterwards %+v", w.find().Findings)
	}
	w.same("")
	if unclean, err := fsck.Unclean(w.top()); err != nil || unclean {
		t.Errorf("unclean: %v, %v", unclean, err)
	}
}

// Two stored files of one id are told of, and no record is taken for an orphan because of them.
func TestOneKey(t *testing.T) {
	w := newWorld(t)
	data := w.data()
	p := data[slices.IndexFunc(data, func(p string) bool { st, err := os.Stat(w.path(p)); return err == nil && st.Size() > 0 })]
	b, err := os.ReadFile(w.path(p))
	w.must(err)
	w.must(os.WriteFile(w.path(p+"x"), b, 0o600)) // its name does not open either
	r := w.find()
	if got := kinds(r.Findings); got != "misplaced one-key" {
		t.Errorf("found %q: %+v", got, r.Findings)
	}
}
