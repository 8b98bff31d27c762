package keyfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/keyfile"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// world is a vault on a file system in memory, its key store, and what is to be read in it.
type world struct {
	t    testing.TB
	fs   *memfs.FS
	ks   *local.Store
	want map[string]string
	zone []string // directories that are zones of alias/b
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// newWorld makes an empty vault of alias/a; more are further CMKs of each key.
func newWorld(t testing.TB, more ...string) *world {
	t.Helper()
	ks, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	w := &world{t: t, fs: memfs.New(memfs.Config{}), ks: ks, want: map[string]string{}}
	for _, alias := range append([]string{"alias/a", "alias/b"}, more...) {
		if alias != "alias/b" || !slices.Contains(more, alias) {
			md, err := ks.CreateKey(t.Context(), keysource.CreateKeyInput{})
			w.must(err)
			w.must(ks.CreateAlias(t.Context(), alias, keysource.KeyRef(md.KeyID)))
		}
	}
	w.must(vault.Create(t.Context(), w.fs.Root(), ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/a", AlsoWrap: more}))
	return w
}

// add makes files in a directory, which is made too: small and large ones, with long names among them.
func (w *world) add(dir string, n int) {
	w.t.Helper()
	v := w.open(vault.ReadWrite)
	d, _, err := v.Lookup(v.Root(), dir)
	if errors.Is(err, syscall.ENOENT) {
		d, _, err = v.Mkdir(v.Root(), dir, 0o755, vault.Caller{})
	}
	w.must(err)
	if slices.Contains(w.zone, dir) {
		w.must(v.SetZone(w.t.Context(), d, "alias/b"))
	}
	for i := range n {
		name := fmt.Sprintf("%d-%d", i, len(w.want))
		if i%3 == 0 {
			name += strings.Repeat("x", 200)
		}
		text := strings.Repeat(fmt.Sprintf("file %d of %s. ", i, dir), 1+i%2*1000)
		f, _, err := v.Create(d, name, 0o644, vault.Caller{})
		w.must(err)
		_, err = v.Write(w.t.Context(), f, []byte(text), 0, vault.KeepPrivileges)
		w.must(err)
		v.Release(f)
		v.Forget(f, 1)
		w.want[dir+"/"+name] = text
	}
	w.must(v.Close())
}

// remove deletes a file.
func (w *world) remove(path string) {
	w.t.Helper()
	v := w.open(vault.ReadWrite)
	dir, name := filepath.Split(path)
	d, _, err := v.Lookup(v.Root(), filepath.Clean(dir))
	w.must(err)
	w.must(v.Unlink(d, name))
	delete(w.want, path)
	w.must(v.Close())
}

func (w *world) open(a vault.Access) *vault.Vault {
	w.t.Helper()
	v, err := vault.Open(w.t.Context(), w.fs.Root(), w.ks, vault.Options{Access: a, KeepEvery: time.Hour})
	w.must(err)
	return v
}

// lost returns the files that do not read back as they are to be.
func (w *world) lost() (lost []string) {
	w.t.Helper()
	v := w.open(vault.ReadOnly)
	for path, text := range w.want {
		dir, name := filepath.Split(path)
		d, _, err := v.Lookup(v.Root(), filepath.Clean(dir))
		w.must(err)
		n, _, err := v.Lookup(d, name)
		w.must(err)
		b := make([]byte, len(text)+1)
		k, err := v.Read(w.t.Context(), n, b, 0)
		if err != nil || string(b[:k]) != text {
			lost = append(lost, path)
		}
	}
	w.must(v.Close())
	return lost
}

// rewrap gives the keys the wrappings of further CMKs, or moves them to the new material of their own.
func (w *world) rewrap(o rewrap.Options) {
	w.t.Helper()
	o.Settle = -1
	_, err := rewrap.Run(w.t.Context(), w.fs.Root(), w.ks, o)
	w.must(err)
}

// export returns the key file.
func (w *world) export() []byte {
	w.t.Helper()
	var b bytes.Buffer
	e, err := keyfile.Export(w.t.Context(), w.fs.Root(), &b, time.Now())
	w.must(err)
	if len(e.Damaged) > 0 || e.Bytes != int64(b.Len()) {
		w.t.Fatalf("export: %+v", e)
	}
	return b.Bytes()
}

// imported imports a key file and returns what was done.
func (w *world) imported(key []byte) *keyfile.Imported {
	w.t.Helper()
	done, err := keyfile.Import(w.t.Context(), w.fs.Root(), bytes.NewReader(key), keyfile.ImportOptions{})
	w.must(err)
	return done
}

// ctl opens .kmsfs, or a directory in it.
func (w *world) ctl(names ...string) backing.Dir {
	w.t.Helper()
	d, err := w.fs.Root().OpenDir(envelope.ControlDir)
	for _, name := range names {
		w.must(err)
		d, err = d.OpenDir(name)
	}
	w.must(err)
	return d
}

// tables are the key tables by name.
func (w *world) tables() map[string][]byte {
	w.t.Helper()
	d := w.ctl("keys")
	defer d.Close()
	all := map[string][]byte{}
	w.must(d.ReadDir(func(e backing.Entry) bool {
		if _, ok := envelope.ParseTableName(e.Name); ok {
			all[e.Name] = w.read(d, e.Name)
		}
		return true
	}))
	return all
}

// setTables makes those the key tables, and no others.
func (w *world) setTables(all map[string][]byte) {
	w.t.Helper()
	d := w.ctl("keys")
	defer d.Close()
	for name := range w.tables() {
		w.must(d.Unlink(name))
	}
	for name, b := range all {
		w.write(d, name, b)
	}
}

func (w *world) read(d backing.Dir, name string) []byte {
	w.t.Helper()
	f, err := d.Open(name, syscall.O_RDONLY, 0)
	w.must(err)
	defer f.Close()
	st, err := f.Stat()
	w.must(err)
	b := make([]byte, st.Size)
	_, err = f.ReadAt(b, 0)
	w.must(err)
	return b
}

func (w *world) write(d backing.Dir, name string, b []byte) {
	w.t.Helper()
	f, err := d.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_TRUNC, 0o600)
	w.must(err)
	defer f.Close()
	_, err = f.WriteAt(b, 0)
	w.must(err)
}

// names are the names in d.
func (w *world) names(d backing.Dir) (names []string) {
	w.t.Helper()
	w.must(d.ReadDir(func(e backing.Entry) bool { names = append(names, e.Name); return true }))
	return names
}

// clear removes everything below d.
func (w *world) clear(d backing.Dir) {
	w.t.Helper()
	for _, name := range w.names(d) {
		if sub, err := d.OpenDir(name); err == nil {
			w.clear(sub)
			sub.Close()
			w.must(d.Rmdir(name))
		} else {
			w.must(d.Unlink(name))
		}
	}
}
