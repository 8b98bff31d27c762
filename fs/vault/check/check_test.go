package check_test

import (
	"context"
	"errors"
	"fmt"
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
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

var ctx = context.Background()

// sample is a vault on the disk, and where its files stand.
type sample struct {
	t      testing.TB
	dir    string
	ks     keysource.Keysource
	stored map[string]string // by plaintext path
}

// long is a name with companions.
var long = "long " + strings.Repeat("x", 200)

// contents are the files of a sample: inline, of one group, of several groups, empty.
func contents() map[string]int {
	return map[string]int{"small": 100, "middle": 9000, "big": 3 << 20, "empty": 0, "sub/inner": 5000, "sub/deep/er": 70, long: 50}
}

func newSample(t testing.TB) *sample { return newSampleOf(t, envelope.BlockSize) }

// newSampleOf is newSample with chunks of a size.
func newSampleOf(t testing.TB, chunk int) *sample {
	t.Helper()
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	s := &sample{t: t, dir: t.TempDir(), ks: ks, stored: map[string]string{}}
	top := s.top()
	if err := vault.Create(ctx, top, ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/aws/kmsfs", ChunkSize: chunk}); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(ctx, top, ks, vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"sub", "sub/deep"} {
		s.mkdir(v, d)
	}
	for name, size := range contents() {
		s.put(v, name, size, 'a')
	}
	dir, base := s.parent(v, "link")
	if _, _, err := v.Symlink(dir, base, "small", vault.Caller{}); err != nil {
		t.Fatal(err)
	}
	n, _, err := v.Lookup(v.Root(), "small")
	if err == nil {
		err = v.Setxattr(ctx, n, "user.note", []byte("value"), 0)
	}
	if err == nil {
		_, err = v.Link(n, v.Root(), "small again")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.close(v)
	s.find()
	return s
}

func (s *sample) top() backing.Dir {
	s.t.Helper()
	d, err := backing.OpenDir(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *sample) open(access vault.Access) *vault.Vault {
	s.t.Helper()
	v, err := vault.Open(ctx, s.top(), s.ks, vault.Options{Access: access})
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *sample) close(v *vault.Vault) {
	s.t.Helper()
	if err := v.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// parent returns the directory of a plaintext path.
func (s *sample) parent(v *vault.Vault, path string) (*vault.Node, string) {
	s.t.Helper()
	n := v.Root()
	parts := strings.Split(path, "/")
	for _, name := range parts[:len(parts)-1] {
		next, _, err := v.Lookup(n, name)
		if err != nil {
			s.t.Fatal(err)
		}
		n = next
	}
	return n, parts[len(parts)-1]
}

func (s *sample) mkdir(v *vault.Vault, path string) {
	s.t.Helper()
	dir, base := s.parent(v, path)
	if _, _, err := v.Mkdir(dir, base, 0o755, vault.Caller{}); err != nil {
		s.t.Fatal(err)
	}
}

// put makes a file of size bytes.
func (s *sample) put(v *vault.Vault, path string, size int, fill byte) {
	s.t.Helper()
	dir, base := s.parent(v, path)
	n, _, err := v.Create(dir, base, 0o644, vault.Caller{})
	if err == nil && size > 0 {
		_, err = v.Write(ctx, n, []byte(strings.Repeat(string(fill), size)), 0, vault.KeepPrivileges)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// find notes where everything stands.
func (s *sample) find() {
	s.t.Helper()
	v := s.open(vault.ReadOnly)
	defer s.close(v)
	var walk func(n *vault.Node, stored, plain string)
	walk = func(n *vault.Node, stored, plain string) {
		if err := v.ReadDir(n, func(e vault.DirEntry) bool {
			at, path := filepath.Join(stored, e.Stored), filepath.Join(plain, e.Name)
			s.stored[path] = at
			if child, _, err := v.LookupStored(n, e.Stored); err != nil {
				s.t.Error(err)
			} else if child.Kind() == uint32(0o040000) {
				walk(child, at, path)
			}
			return true
		}); err != nil {
			s.t.Error(err)
		}
	}
	walk(v.Root(), "", "")
}

// path is where the file of a plaintext path stands on the disk.
func (s *sample) path(plain string) string {
	s.t.Helper()
	at, ok := s.stored[plain]
	if !ok {
		s.t.Fatalf("%q is not in the vault", plain)
	}
	return filepath.Join(s.dir, at)
}

// flip changes a byte of a file on the disk; one below 0 counts from the end.
func (s *sample) flip(path string, at int) {
	s.t.Helper()
	b := s.read(path)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x40
	s.write(path, b)
}

func (s *sample) read(path string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *sample) write(path string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sample) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// record returns the table and slot of a file's record.
func (s *sample) record(plain string) (table string, slot int) {
	s.t.Helper()
	h, err := envelope.ParseHeader(s.read(s.path(plain)))
	if err != nil {
		s.t.Fatal(err)
	}
	return filepath.Join(s.dir, ".kmsfs/keys", envelope.TableName(h.Loc.Table)), int(h.Loc.Slot)
}

// check runs a check; without keys where v is not to be opened.
func (s *sample) check(keys bool) *check.Result {
	s.t.Helper()
	o := check.Options{}
	if keys {
		o.Vault = s.open(vault.ReadOnly)
		defer s.close(o.Vault)
	}
	top := s.top()
	defer top.Close()
	r, err := check.Run(ctx, top, o)
	if err != nil {
		s.t.Fatal(err)
	}
	again, err := check.Again(ctx, top, o, r.Findings)
	if err != nil {
		s.t.Fatal(err)
	}
	if got, want := lines(again.Findings), lines(r.Findings); !slices.Equal(got, want) || again.Gone != 0 {
		s.t.Errorf("looked at again: %q, %d gone; the first time %q", got, again.Gone, want)
	}
	return r
}

// lines are findings in short.
func lines(found []check.Finding) []string {
	var out []string
	for _, f := range found {
		line := string(f.Kind)
		if f.Path != "" {
			line += " " + f.Path
		}
		for _, r := range f.Ranges {
			line += fmt.Sprintf(" %d-%d", r.From, r.To)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// TestClean finds nothing in a vault that is in order, and has looked at all of it.
func TestClean(t *testing.T) {
	s := newSample(t)
	size := int64(0)
	for _, n := range contents() {
		size += int64(n)
	}
	for _, keys := range []bool{false, true} {
		r := s.check(keys)
		if len(r.Findings) != 0 {
			t.Errorf("keys %v: %+v", keys, r.Findings)
		}
		if want := int64(len(contents()) + 1); r.Files != want || r.Directories != 3 || r.Bytes != size || r.Records < 6 {
			t.Errorf("keys %v: %d files, want %d; %d directories; %d bytes, want %d; %d records", keys, r.Files, want, r.Directories, r.Bytes, size, r.Records)
		}
	}
}

// TestDamage does every kind of damage to every kind of object, and says what finds it.
func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(s *sample)
		without []string // findings
		with    []string
	}{
		"byte of an inline file": {func(s *sample) { s.flip(s.path("sub/deep/er"), 140) }, nil, []string{"file sub/deep/er"}},
		"byte of the header":     {func(s *sample) { s.flip(s.path("middle"), 14) }, []string{"no-record"}, []string{"no-record middle"}},
		"bit of a later version": {func(s *sample) { s.flip(s.path("middle"), 10) }, []string{"unsupported"}, []string{"unsupported middle"}},
		"byte of an inline header with two names": {func(s *sample) { s.flip(s.path("small"), 40) }, []string{"no-record", "no-record"},
			[]string{"no-record small", "no-record small again"}},
		"byte of a chunk": {func(s *sample) { s.flip(s.path("big"), 4096+20*4096+5) }, nil, []string{"chunks big 81920-86016"}},
		"bytes of two chunks in two groups": {func(s *sample) {
			s.flip(s.path("big"), 4096+62*4096)
			s.flip(s.path("big"), 2*4096+63*4096)
			s.flip(s.path("big"), -1)
		}, nil, []string{"chunks big 253952-262144 3141632-3145728"}},
		"byte of an index block": {func(s *sample) { s.flip(s.path("big"), 64*4096+700) }, nil, []string{"chunks big 258048-516096"}},
		"byte of a group header": {func(s *sample) { s.flip(s.path("big"), 64*4096+9) }, []string{"file"}, []string{"chunks big 258048-516096"}},
		"index block of another place": {func(s *sample) {
			b := s.read(s.path("big"))
			copy(b[128*4096:129*4096], b[64*4096:])
			s.write(s.path("big"), b)
		}, []string{"file"}, []string{"chunks big 516096-774144"}},
		"zeroed index block": {func(s *sample) {
			b := s.read(s.path("big"))
			clear(b[64*4096 : 65*4096])
			s.write(s.path("big"), b)
		}, []string{"file"}, []string{"chunks big 258048-516096"}},
		"truncated file":        {func(s *sample) { s.must(os.Truncate(s.path("big"), 1<<20)) }, []string{"file"}, []string{"file big"}},
		"truncated inline file": {func(s *sample) { s.must(os.Truncate(s.path("sub/deep/er"), 150)) }, []string{"file"}, []string{"file sub/deep/er"}},
		"longer file":           {func(s *sample) { s.must(os.Truncate(s.path("big"), 4<<20)) }, []string{"file"}, []string{"file big"}},
		"zeroed file":           {func(s *sample) { s.write(s.path("middle"), make([]byte, 9000)) }, []string{"note"}, []string{"note middle"}},
		"garbage file":          {func(s *sample) { s.write(s.path("middle"), []byte("garbage")) }, []string{"file"}, []string{"file middle"}},
		"emptied file":          {func(s *sample) { s.must(os.Truncate(s.path("middle"), 0)) }, nil, nil},
		"exchanged files": {func(s *sample) {
			a, b := s.path("middle"), s.path("sub/inner")
			s.must(os.Rename(a, a+"x"))
			s.must(os.Rename(b, a))
			s.must(os.Rename(a+"x", b))
		}, nil, nil},
		"name of another directory": {func(s *sample) {
			s.must(os.Rename(s.path("middle"), filepath.Join(s.path("sub"), filepath.Base(s.path("middle")))))
		}, nil, []string{"name"}},
		"foreign file": {func(s *sample) { s.write(filepath.Join(s.path("sub"), "notes.txt"), nil) }, []string{"name"}, []string{"name"}},
		"byte of a name": {func(s *sample) {
			s.must(os.Rename(s.path("middle"), s.path("middle")[:len(s.path("middle"))-5]+"AAAAA"))
		}, nil, []string{"name"}},
		"removed companion": {func(s *sample) {
			all, err := filepath.Glob(filepath.Join(s.dir, ".kmsfs.long.*.1.*"))
			s.must(err)
			s.must(os.Remove(all[0]))
		}, []string{"name"}, []string{"name"}},
		"removed file":             {func(s *sample) { s.must(os.Remove(s.path("middle"))) }, nil, nil},
		"removed directory id":     {func(s *sample) { s.must(os.Remove(filepath.Join(s.path("sub"), ".kmsfs.dir"))) }, []string{"directory"}, []string{"directory sub"}},
		"byte of a directory id":   {func(s *sample) { s.flip(filepath.Join(s.path("sub"), ".kmsfs.dir"), 12) }, nil, []string{"directory sub"}},
		"byte of a directory file": {func(s *sample) { s.flip(filepath.Join(s.path("sub"), ".kmsfs.dir"), 1) }, []string{"directory"}, []string{"directory sub"}},
		"byte of a target": {func(s *sample) {
			target, err := os.Readlink(s.path("link"))
			s.must(err)
			s.must(os.Remove(s.path("link")))
			other := "A"
			if target[0] == 'A' {
				other = "B"
			}
			s.must(os.Symlink(other+target[1:], s.path("link")))
		}, nil, []string{"symlink link"}},
		"plain target": {func(s *sample) {
			s.must(os.Remove(s.path("link")))
			s.must(os.Symlink("/etc/passwd", s.path("link")))
		}, []string{"symlink"}, []string{"symlink link"}},
		"removed key table": {func(s *sample) {
			table, _ := s.record("middle")
			s.must(os.Remove(table))
		}, slices.Repeat([]string{"no-record"}, 7), []string{"no-record " + long, "no-record big", "no-record middle", "no-record small", "no-record small again", "no-record sub/deep/er", "no-record sub/inner"}},
		"byte of a record": {func(s *sample) {
			table, slot := s.record("middle")
			s.flip(table, slot*512+100)
		}, []string{"no-record", "record"}, []string{"no-record middle", "record"}},
		"zeroed record": {func(s *sample) {
			table, slot := s.record("middle")
			b := s.read(table)
			clear(b[slot*512 : (slot+1)*512])
			s.write(table, b)
		}, []string{"no-record"}, []string{"no-record middle"}},
		"wrapped key of another file": {func(s *sample) {
			table, slot := s.record("middle")
			other, from := s.record("big")
			b := s.read(table)
			r, err := envelope.ParseRecord(b[slot*512 : (slot+1)*512])
			s.must(err)
			o, err := envelope.ParseRecord(s.read(other)[from*512 : (from+1)*512])
			s.must(err)
			r.Wrappings = o.Wrappings
			s.must(r.Marshal(b[slot*512 : (slot+1)*512]))
			s.write(table, b)
		}, nil, []string{"no-record middle"}},
		"byte of a table's header": {func(s *sample) {
			table, _ := s.record("middle")
			s.flip(table, 20)
		}, append(slices.Repeat([]string{"no-record"}, 7), "key-table"), []string{"key-table", "no-record " + long, "no-record big", "no-record middle", "no-record small", "no-record small again", "no-record sub/deep/er", "no-record sub/inner"}},
		"cut key table": {func(s *sample) {
			table, slot := s.record("middle")
			s.must(os.Truncate(table, int64(slot)*512+100))
		}, nil, nil},
		"config": {func(s *sample) { s.write(filepath.Join(s.dir, ".kmsfs/vault.json"), []byte("{")) }, []string{"config"}, nil},
		"file that the journal may mend": {func(s *sample) {
			h, err := envelope.ParseHeader(s.read(s.path("middle")))
			s.must(err)
			v := s.open(vault.ReadOnly)
			volume := v.Config().Volume
			s.close(v)
			b := make([]byte, 1024)
			copy(b, "KMJ1")
			copy(b[16:], volume[:])
			b[512+16] = 64 // a record of no more than its head, which no key has sealed
			copy(b[512+32:], h.ID[:])
			s.must(os.MkdirAll(filepath.Join(s.dir, ".kmsfs/journal"), 0o700))
			s.write(filepath.Join(s.dir, ".kmsfs/journal/0"), b)
			s.must(os.Truncate(s.path("middle"), 5000))
		}, []string{"note"}, []string{"file middle"}},
		"journal of nobody": {func(s *sample) {
			s.must(os.MkdirAll(filepath.Join(s.dir, ".kmsfs/journal"), 0o700))
			s.write(filepath.Join(s.dir, ".kmsfs/journal/0"), []byte(strings.Repeat("x", 600)))
		}, []string{"note"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSample(t)
			c.do(s)
			slices.Sort(c.without)
			slices.Sort(c.with)
			if name == "cut key table" { // it hits those behind it, in whatever order they were made
				if got := s.check(false).Findings; !slices.ContainsFunc(got, func(f check.Finding) bool { return f.Kind == check.Record }) || len(got) < 2 {
					t.Errorf("%+v", got)
				}
				return
			}
			r := s.check(false)
			if got := lines(r.Findings); !slices.Equal(got, c.without) {
				t.Errorf("without keys: %q, want %q: %+v", got, c.without, r.Findings)
			}
			if name == "config" { // it does not open
				return
			}
			r = s.check(true)
			if got := lines(r.Findings); !slices.Equal(got, c.with) {
				t.Errorf("with keys: %q, want %q: %+v", got, c.with, r.Findings)
			}
		})
	}
}

// TestHalfReencrypted finds nothing in a file that is between two keys.
func TestHalfReencrypted(t *testing.T) {
	s := newSample(t)
	v := s.open(vault.ReadWrite)
	n, _, err := v.Lookup(v.Root(), "big")
	s.must(err)
	half, stop := context.WithCancel(ctx)
	defer stop()
	out := v.Reencrypt(half, []*vault.Node{n}, vault.ReencryptOptions{Progress: func(int64) { stop() }})
	if !errors.Is(out[0].Err, vault.ErrUnfinished) {
		t.Fatalf("it is not half done: %+v", out)
	}
	s.close(v)
	for _, keys := range []bool{false, true} {
		if r := s.check(keys); len(r.Findings) != 0 {
			t.Errorf("keys %v: %+v", keys, r.Findings)
		}
	}
	s.flip(s.path("big"), 4096+5)
	s.flip(s.path("big"), -5)
	if got, want := lines(s.check(true).Findings), []string{"chunks big 0-4096 3141632-3145728"}; !slices.Equal(got, want) {
		t.Errorf("damage in both halves: %q, want %q", got, want)
	}
}

// TestUnsettled: what was never known to be durable may be as a crash leaves it, and reads as zeros; what else stands there is told.
func TestUnsettled(t *testing.T) {
	for chunk, want := range map[int]string{4096: "chunks new 81920-86016", 65536: "note new 65536-131072"} {
		s := newSampleOf(t, chunk)
		v := s.open(vault.ReadWrite)
		s.put(v, "new", 300000, 'n')
		killed := *s
		killed.dir = filepath.Join(t.TempDir(), "copy")
		s.must(os.CopyFS(killed.dir, os.DirFS(s.dir))) // as a kill would leave it
		s.close(v)
		s = &killed
		s.find()
		at := 4096 + 20*4096
		for _, step := range []struct {
			do   func()
			want []string
		}{
			{func() {}, nil},
			{func() { s.flip(s.path("new"), at+5) }, []string{want}},
			{func() {
				b := s.read(s.path("new"))
				clear(b[(at-4096)/chunk*chunk+4096:][:chunk])
				s.write(s.path("new"), b)
			}, nil},
		} {
			step.do()
			if got := lines(s.check(true).Findings); !slices.Equal(got, step.want) {
				t.Errorf("chunks of %d: %q, want %q", chunk, got, step.want)
			}
		}
	}
}

// TestSparse does not take the time of its size for a file of holes.
func TestSparse(t *testing.T) {
	s := newSample(t)
	v := s.open(vault.ReadWrite)
	n, _, err := v.Create(v.Root(), "sparse", 0o644, vault.Caller{})
	s.must(err)
	for _, off := range []int64{0, 1 << 39, 1<<40 - 1} {
		_, err := v.Write(ctx, n, []byte("x"), off, vault.KeepPrivileges)
		s.must(err)
	}
	s.close(v)
	s.find()
	began := time.Now()
	for _, keys := range []bool{false, true} {
		if r := s.check(keys); len(r.Findings) != 0 {
			t.Errorf("keys %v: %+v", keys, r.Findings)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestCanceled ends when it is told to.
func TestCanceled(t *testing.T) {
	s := newSample(t)
	v := s.open(vault.ReadOnly)
	defer s.close(v)
	top := s.top()
	defer top.Close()
	ended, stop := context.WithCancel(ctx)
	stop()
	if _, err := check.Run(ended, top, check.Options{Vault: v}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
