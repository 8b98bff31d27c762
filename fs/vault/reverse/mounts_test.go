package reverse_test

import (
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/reverse"
)

// mounted is a directory on a device of its own, with other file systems mounted in it by name.
type mounted struct {
	backing.Dir
	dev uint64
	in  map[string]*mounted
}

func (m *mounted) on(st backing.Stat, err error) (backing.Stat, error) {
	st.Dev = m.dev
	return st, err
}

func (m *mounted) Stat() (backing.Stat, error) { return m.on(m.Dir.Stat()) }

func (m *mounted) Dup() (backing.Dir, error) {
	d, err := m.Dir.Dup()
	return &mounted{d, m.dev, m.in}, err
}

func (m *mounted) StatAt(name string) (backing.Stat, error) {
	if sub := m.in[name]; sub != nil {
		return sub.Stat()
	}
	return m.on(m.Dir.StatAt(name))
}

func (m *mounted) OpenDir(name string) (backing.Dir, error) {
	if sub := m.in[name]; sub != nil {
		return sub.Dup()
	}
	d, err := m.Dir.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &mounted{d, m.dev, nil}, nil
}

func (m *mounted) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	f, st, err := m.Dir.OpenStat(name, flags, mode)
	st.Dev = m.dev
	return f, st, err
}

// TestSnapshots: two files that have several names, one inode number and one time of birth, as those of a snapshot that is mounted
// in the source have, are two files with a data key each.
func TestSnapshots(t *testing.T) {
	moment := time.Now().Add(-time.Hour)
	fs := func(seed uint64) backing.Dir {
		d := memfs.New(memfs.Config{Now: func() time.Time { return moment }}).Root()
		for _, name := range []string{"one", "two"} { // mounted on in the first
			must(t, d.Mkdir(name, 0o700))
		}
		write(t, d, "file", content(seed, 5000), 0)
		must(t, d.Link("file", d, "other"))
		return d
	}
	two := &mounted{fs(3), 3, nil}
	src := &mounted{fs(1), 1, map[string]*mounted{"one": {fs(2), 2, map[string]*mounted{"two": two}}, "two": two}}
	b := newBench(t, 4096)
	v, err := reverse.Open(t.Context(), src, b.state.Root(), b.ks, reverse.Options{})
	must(t, err)
	defer v.Close()
	must(t, v.Prepare(t.Context()))
	made := v.Stats().KeysMade
	seen := map[string]string{}
	for _, at := range [][]string{{"file"}, {"one", "file"}, {"one", "two", "file"}, {"two", "file"}} {
		id := string(read(t, v, find(t, v, b.keys(), at...))[12:28])
		if was, ok := seen[id]; ok {
			t.Errorf("%q has the file id of %s", at, was)
		}
		seen[id] = at[0]
		other := append(at[:len(at)-1:len(at)-1], "other")
		if string(read(t, v, find(t, v, b.keys(), other...))[12:28]) != id {
			t.Errorf("%q has another file id than %q", other, at)
		}
	}
	if is := v.Stats().KeysMade; made != 4 || is != made {
		t.Errorf("%d keys were made ahead, %d in all", made, is)
	}
}
