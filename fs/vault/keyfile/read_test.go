package keyfile_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"kmsfs/envelope"
	"kmsfs/fs/vault/keyfile"
)

// member is a member of an archive.
type member struct {
	tar.Header
	body []byte
}

// unpack takes a key file apart.
func unpack(t testing.TB, key []byte) (all []member) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(key))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, member{*h, b})
	}
}

// pack makes an archive.
func pack(t testing.TB, all []member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range all {
		if m.Typeflag == tar.TypeReg {
			m.Size = int64(len(m.body))
		}
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll reads a key file to its end.
func readAll(r io.Reader, f func(keyfile.Table) error) error {
	k, err := keyfile.NewReader(r)
	if err != nil {
		return err
	}
	return k.Tables(context.Background(), f)
}

// TestFormat holds that a key file is what FORMAT.md says, and nothing that tells of the machine.
func TestFormat(t *testing.T) {
	w := newWorld(t)
	w.add("d", 5)
	all := unpack(t, w.export())
	names := []string{}
	for _, m := range all {
		names = append(names, m.Name)
		if m.Typeflag != tar.TypeReg || m.Mode != 0o600 || m.Uid != 0 || m.Gid != 0 || m.Uname != "" || m.ModTime.IsZero() {
			t.Errorf("%+v", m.Header)
		}
	}
	n := len(names) - 1
	if names[0] != "kmsfs-keys.json" || names[1] != ".kmsfs/vault.json" || names[n] != "kmsfs-keys.end.json" || n-2 != len(w.tables()) {
		t.Errorf("members %q", names)
	}
	for _, m := range all[2:n] {
		name, ok := strings.CutPrefix(m.Name, ".kmsfs/keys/")
		if !ok || !bytes.Equal(m.body, w.tables()[name]) {
			t.Errorf("%s is not the key table", m.Name)
		}
	}
	if !bytes.Contains(all[0].body, []byte(`"format":1,"volume_id":"`)) || !bytes.Contains(all[n].body, []byte(`"records":5}`)) {
		t.Errorf("%s %s", all[0].body, all[n].body)
	}
}

// TestHostile: whatever is not what Export writes is refused, and an import of it harms nothing.
func TestHostile(t *testing.T) {
	w := newWorld(t)
	w.add("d", 5)
	key := w.export()
	before := w.tables()
	edit := func(f func(all []member) []member) []byte { return pack(t, f(unpack(t, key))) }
	for name, b := range map[string][]byte{
		"nothing":     nil,
		"no archive":  []byte(strings.Repeat("no archive ", 1000)),
		"empty":       pack(t, nil),
		"cut short":   key[:len(key)-1600],
		"without end": edit(func(all []member) []member { return all[:len(all)-1] }),
		"more behind its end": edit(func(all []member) []member {
			return append(all, member{tar.Header{Typeflag: tar.TypeReg, Name: "x"}, nil})
		}),
		"a table too few": edit(func(all []member) []member { return append(all[:2], all[3:]...) }),
		"a table twice": edit(func(all []member) []member {
			n := len(all) - 1
			all[n].body = []byte(`{"tables":2,"records":10}`)
			return append(append(all[:3:3], all[2]), all[n])
		}),
		"no config":        edit(func(all []member) []member { return append(all[:1], all[2:]...) }),
		"config elsewhere": edit(func(all []member) []member { all[0], all[1] = all[1], all[0]; return all }),
		"damaged config":   edit(func(all []member) []member { all[1].body = all[1].body[:50]; return all }),
		"path":             edit(func(all []member) []member { all[2].Name = ".kmsfs/keys/../../../etc/passwd"; return all }),
		"absolute path":    edit(func(all []member) []member { all[2].Name = "/" + all[2].Name; return all }),
		"other name":       edit(func(all []member) []member { all[2].Name = ".kmsfs/keys/0123456789ABCDEF"; return all }),
		"table 0":          edit(func(all []member) []member { all[2].Name = ".kmsfs/keys/0000000000000000"; return all }),
		"symlink": edit(func(all []member) []member {
			n := len(all) - 1
			all[n].body = bytes.Replace(all[n].body, []byte(`"tables":1`), []byte(`"tables":2`), 1)
			return append(all[:n], member{tar.Header{Typeflag: tar.TypeSymlink, Name: ".kmsfs/keys/0123456789abcdef", Linkname: "/etc/passwd"}, nil}, all[n])
		}),
		"sparse": edit(func(all []member) []member {
			all[2].PAXRecords = map[string]string{"VENDOR.abcdefg": "y"}
			all[2].Format = tar.FormatPAX
			return all
		}),
		"large head": edit(func(all []member) []member {
			all[0].body = append(all[0].body, bytes.Repeat([]byte(" "), 1<<20)...)
			return all
		}),
		"other volume": edit(func(all []member) []member {
			all[0].body = bytes.Replace(all[0].body, []byte(`"volume_id":"`), []byte(`"volume_id":"00`), 1)
			return all
		}),
		"unknown member of the head": edit(func(all []member) []member {
			all[0].body = bytes.Replace(all[0].body, []byte(`{`), []byte(`{"x":1,`), 1)
			return all
		}),
		"large table": edit(func(all []member) []member { all[2].body = make([]byte, 65<<20); return all }),
	} {
		if name == "sparse" { // which the package does not write: the record is made one by its name
			b = bytes.Replace(b, []byte("VENDOR.abcdefg"), []byte("GNU.sparse.abc"), 1)
		}
		if err := readAll(bytes.NewReader(b), func(keyfile.Table) error { return nil }); !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(b), keyfile.ImportOptions{}); !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("import, %s: %v", name, err)
		}
	}
	b := bytes.Replace(key, []byte(`{"format":1`), []byte(`{"format":2`), 1)
	if err := readAll(bytes.NewReader(b), nil); !errors.Is(err, envelope.ErrUnsupported) {
		t.Errorf("a later format: %v", err)
	}
	broken := errors.New("broken pipe")
	if err := readAll(io.MultiReader(bytes.NewReader(key[:4000]), iotest.ErrReader(broken)), nil); !errors.Is(err, broken) {
		t.Errorf("a source that breaks: %v", err)
	}
	for name, b := range w.tables() {
		if !bytes.Equal(b, before[name]) {
			t.Error("a table has changed")
		}
	}
}

// TestDamagedKeyFile: what is whole in a damaged key file is put in, and the damage is told.
func TestDamagedKeyFile(t *testing.T) {
	for name, edit := range map[string]func(all []member) []byte{
		"a record": func(all []member) []byte {
			done := false
			slots(all[2].body, func(_ int, slot []byte, _ *envelope.Record) {
				if !done {
					slot[50] ^= 1
					done = true
				}
			})
			return pack(t, all)
		},
		"a header": func(all []member) []byte { all[2].body[9] ^= 1; return pack(t, all) },
		"its end":  func(all []member) []byte { return pack(t, all[:len(all)-1]) },
	} {
		w := newWorld(t)
		w.add("a", 5)
		w.add("b", 5)
		key := edit(unpack(t, w.export()))
		w.clear(w.ctl("keys"))
		done, err := keyfile.Import(t.Context(), w.fs.Root(), bytes.NewReader(key), keyfile.ImportOptions{})
		if !errors.Is(err, envelope.ErrCorrupt) || done == nil {
			t.Fatalf("%s: %v", name, err)
		}
		lost := len(w.lost())
		if want := map[string]int{"a record": 1, "a header": 5, "its end": 0}[name]; lost != want || len(done.Missing) != want {
			t.Errorf("%s: %d lost, %d missing, want %d", name, lost, len(done.Missing), want)
		}
	}
}

// FuzzRead: whatever a key file holds, nothing panics, and no more is kept of it than there is.
func FuzzRead(f *testing.F) {
	w := newWorld(f)
	w.add("d", 3)
	key := w.export()
	f.Add(key)
	f.Add(key[:len(key)/2])
	f.Add(key[:1500])
	all := unpack(f, key)
	f.Add(pack(f, all[:2]))
	f.Add([]byte{})
	root := w.fs.Root()
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := 0
		_ = readAll(bytes.NewReader(b), func(tb keyfile.Table) error {
			if tb.Err == nil {
				kept += len(tb.Part.Raw())
				for range tb.Part.Entries() {
				}
			}
			return nil
		})
		if kept > len(b) {
			t.Errorf("%d bytes of tables in a file of %d", kept, len(b))
		}
		_, _ = keyfile.Import(t.Context(), root, bytes.NewReader(b), keyfile.ImportOptions{})
		here := *w
		here.t = t
		if lost := here.lost(); len(lost) > 0 {
			t.Fatalf("lost: %q", lost)
		}
	})
}
