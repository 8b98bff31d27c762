package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/manifest"
	"kmsfs/keysource"
)

// victim is a small vault, closed and settled, whose stored bytes a test changes and puts back.
type victim struct {
	t      *testing.T
	fs     *memfs.FS
	ks     *memoryKeys
	stored map[string]string // by plaintext path
	want   map[string]string // what each path reads as
	errs   map[string]error  // and what with, where it is refused; nil: they are not kept

	contents, indexes *manifest.Manifest // of before
}

const groupStored = 64 * 4096

// victimFiles are the files of a victim, in two states.
func victimFiles(seed byte) map[string][]byte {
	big := make([]byte, 2*63*4096+5*4096+100) // its second group is a hole
	copy(big, pattern(seed+1, 3*4096))
	copy(big[2*63*4096:], pattern(seed+2, 5*4096+100))
	return map[string][]byte{
		"inline": pattern(seed+3, 700), "inline2": pattern(seed+4, 700), "one": pattern(seed+5, 10*4096+50),
		"other": pattern(seed+6, 10*4096+50), "big": big, "d/" + longA: pattern(seed+7, 300), "d/in": pattern(seed+8, 5000),
	}
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	x := &victim{t: t, fs: memfs.New(memfs.Config{}), ks: &memoryKeys{}, stored: map[string]string{}}
	v := newVault(t, x.fs.Root, x.ks, vault.Options{})
	for _, s := range []step{mkdir("d"), mkdir("d2"), symlink("link", "some/where"), symlink("link2", "else/where")} {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	for path := range victimFiles(0) {
		if err := put(path, nil).do(v); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"one", "d"} {
		n, err := find(v, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Setxattr(ctx, n, "user.colour", []byte("blue of "+path), 0); err != nil {
			t.Fatal(err)
		}
		v.Forget(n, 1)
	}
	for _, path := range []string{"", "d"} {
		dir, _ := find(v, path)
		v.ReadDir(dir, func(e vault.DirEntry) bool {
			p := strings.TrimPrefix(path+"/"+e.Name, "/")
			s := e.Stored
			if path != "" {
				s = x.stored[path] + "/" + s
			}
			x.stored[p] = s
			return true
		})
		v.Forget(dir, 1)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	x.write(0)
	return x
}

// write gives all files the content of a seed, and settles them.
func (x *victim) write(seed byte) {
	x.t.Helper()
	v := openVault(x.t, x.fs.Root, x.ks, vault.Options{})
	for path, data := range victimFiles(seed) {
		n, err := find(v, path)
		if err != nil {
			x.t.Fatal(err)
		}
		for off := 0; off < len(data); off += 4096 {
			if p := data[off:min(off+4096, len(data))]; p[0] != 0 {
				if _, err := v.Write(ctx, n, p, int64(off), vault.KeepPrivileges); err != nil {
					x.t.Fatal(err)
				}
			}
		}
		v.Forget(n, 1)
	}
	if err := v.Close(); err != nil {
		x.t.Fatal(err)
	}
	x.want = x.read()
	for path, got := range x.want {
		if strings.HasPrefix(got, "error") {
			x.t.Fatalf("%s: %s", path, got)
		}
	}
}

// read reads everything; what is refused reads as "error: ...".
func (x *victim) read() map[string]string {
	x.t.Helper()
	got := map[string]string{}
	v, err := vault.Open(ctx, x.fs.Root(), x.ks, vault.Options{Access: vault.ReadOnly})
	if err != nil {
		x.refused("vault", err)
		return nil
	}
	defer v.Close()
	show := func(path string, value []byte, err error) {
		if err != nil {
			x.refused(path, err)
			got[path] = "error: " + err.Error()
			return
		}
		got[path] = string(value)
	}
	for path := range x.stored {
		n, err := find(v, path)
		if err != nil {
			show(path, nil, err)
			continue
		}
		switch n.Kind() {
		case syscall.S_IFREG:
			p := make([]byte, 600_000)
			k, err := v.Read(ctx, n, p, 0)
			show(path, p[:k], err)
		case syscall.S_IFLNK:
			target, err := v.Readlink(n)
			show(path, []byte(target), err)
		}
		if path == "one" || path == "d" {
			value, err := v.Getxattr(ctx, n, "user.colour")
			show(path+" xattr", value, err)
			_, err = v.Listxattr(ctx, n)
			x.refusal(path, err)
		}
		v.Forget(n, 1)
	}
	if _, err := look(v); err != nil {
		x.refusal("list", err)
	}
	show("list /d", []byte("longA is there"), listed(v, "d", longA))
	return got
}

// listed looks for a name in the listing of a directory.
func listed(v *vault.Vault, dir, name string) error {
	n, err := find(v, dir)
	if err != nil {
		return err
	}
	defer v.Forget(n, 1)
	there := false
	if err := v.ReadDir(n, func(e vault.DirEntry) bool { there = there || e.Name == name; return true }); err != nil || there {
		return err
	}
	return syscall.ENOENT
}

// refused notes that err was the answer, and checks it.
func (x *victim) refused(path string, err error) {
	x.t.Helper()
	if x.errs != nil {
		x.errs[path] = err
	}
	x.refusal(path, err)
}

// refusal checks that err is how damage is refused.
func (x *victim) refusal(path string, err error) {
	x.t.Helper()
	for _, e := range []error{nil, vault.ErrCorrupt, vault.ErrNoKey, vault.ErrNotVault, envelope.ErrCorrupt, envelope.ErrUnsupported,
		envelope.ErrWrongKey, envelope.ErrErased, keysource.ErrInvalidCiphertext, syscall.ENOENT, syscall.ENODATA} {
		if errors.Is(err, e) {
			return
		}
	}
	x.t.Errorf("%s is refused with: %v", path, err)
}

// open opens a stored file by its path in the vault directory.
func (x *victim) open(stored string) backing.File {
	x.t.Helper()
	d := x.fs.Root()
	parts := strings.Split(stored, "/")
	for _, p := range parts[:len(parts)-1] {
		next, err := d.OpenDir(p)
		if err != nil {
			x.t.Fatal(err)
		}
		d = next
	}
	f, err := d.Open(parts[len(parts)-1], syscall.O_RDWR, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	return f
}

func (x *victim) bytes(stored string) []byte {
	f := x.open(stored)
	defer f.Close()
	b := make([]byte, 1<<21)
	n, err := f.ReadAt(b, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	return b[:n]
}

func (x *victim) set(stored string, b []byte) {
	f := x.open(stored)
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		x.t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil && len(b) > 0 {
		x.t.Fatal(err)
	}
}

// expectation says what a change must do to the paths named.
type expectation int

const (
	refused  expectation = iota // all of them read as an error
	harmless                    // nothing is other than it was, or is refused
)

// change changes a stored file by f, checks that nothing reads as other data, and puts it back.
func (x *victim) change(what, stored string, e expectation, paths []string, f func(b []byte) []byte) {
	x.t.Helper()
	old := x.bytes(stored)
	x.set(stored, f(bytes.Clone(old)))
	x.check(what, e, paths)
	if x.set(stored, old); x.t.Failed() {
		x.t.FailNow()
	}
}

func (x *victim) check(what string, e expectation, paths []string) {
	x.t.Helper()
	got := x.read()
	for path, g := range got {
		if g != x.want[path] && !strings.HasPrefix(g, "error") {
			x.t.Errorf("%s: %.60s reads as other data", what, path)
		}
	}
	if e == refused && got != nil {
		for _, path := range paths {
			if !strings.HasPrefix(got[path], "error") {
				x.t.Errorf("%s: %.60s is not refused", what, path)
			}
		}
	}
}

func flip(bit int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[bit/8] ^= 1 << (bit % 8)
		return b
	}
}

// TestTamperBits flips bits: all of what is small, a sample of what is large.
func TestTamperBits(t *testing.T) {
	x := newVictim(t)
	r := rand.New(rand.NewPCG(1, 1))
	sample := effort(t, 1500, 150, 1)
	bits := func(stored string, e expectation, paths []string, from, to int) {
		for bit := from * 8; bit < to*8; bit += 1 + r.IntN(2*sample) {
			x.change(fmt.Sprintf("bit %d of %.30s", bit, stored), stored, e, paths, flip(bit))
		}
	}
	sampleOf := func(n int) func() { old := sample; sample = n; return func() { sample = old } }
	for path := range victimFiles(0) {
		s := x.stored[path]
		n := len(x.bytes(s))
		done := sampleOf(min(sample, 10))
		bits(s, refused, []string{path}, 0, 128) // header and first slots, or all that stands before an inline file's content
		done()
		for at := 0; at < n; at += groupStored {
			if path == "big" && at == groupStored {
				continue // a hole
			}
			bits(s, refused, []string{path}, at, min(at+4096, n))
		}
		done = sampleOf(3000)
		if n > 4096 && path != "big" {
			bits(s, refused, []string{path}, 4096, n)
		}
		done()
	}
	control := func(name string) string { return envelope.ControlDir + "/" + name }
	bits(control("vault.json"), harmless, nil, 0, len(x.bytes(control("vault.json"))))
	bits(x.stored["d"]+"/"+envelope.DirFileName, refused, []string{"d/in"}, 0, envelope.DirFileSize)
	for name := range x.names(envelope.ControlDir + "/keys") {
		n := len(x.bytes(control("keys/" + name)))
		done := sampleOf(200)
		bits(control("keys/"+name), harmless, nil, 0, n)
		done()
	}
}

// names lists a stored directory.
func (x *victim) names(stored string) map[string]bool {
	d := x.fs.Root()
	for _, p := range strings.Split(stored, "/") {
		next, err := d.OpenDir(p)
		if err != nil {
			x.t.Fatal(err)
		}
		d = next
	}
	names := map[string]bool{}
	d.ReadDir(func(e backing.Entry) bool { names[e.Name] = true; return true })
	return names
}

// TestTamperBlocks swaps, zeroes and cuts chunks, slots, sectors, index blocks and records.
func TestTamperBlocks(t *testing.T) {
	x := newVictim(t)
	swap := func(i, j, n int) func([]byte) []byte {
		return func(b []byte) []byte {
			c := bytes.Clone(b[i : i+n])
			copy(b[i:i+n], b[j:j+n])
			copy(b[j:j+n], c)
			return b
		}
	}
	zero := func(i, n int) func([]byte) []byte {
		return func(b []byte) []byte {
			clear(b[i : i+n])
			return b
		}
	}
	one, other, big := x.stored["one"], x.stored["other"], x.stored["big"]
	paste := func(from string, i, j, n int) func([]byte) []byte {
		c := x.bytes(from)[i : i+n]
		return func(b []byte) []byte {
			copy(b[j:j+n], c)
			return b
		}
	}
	only := func(p string) []string { return []string{p} }
	for i := range 9 {
		x.change("swap chunks", one, refused, only("one"), swap(4096*(i+1), 4096*(i+2), 4096))
		x.change("chunk of another file", one, refused, only("one"), paste(other, 4096*(i+1), 4096*(i+1), 4096))
		x.change("zero chunk", one, refused, only("one"), zero(4096*(i+1), 4096))
	}
	x.change("swap chunks of groups", big, refused, only("big"), swap(4096, 2*groupStored+4096, 4096))
	for i := range 7 {
		x.change("swap slots", one, refused, only("one"), swap(60*i, 60*(i+1), 60))
		x.change("slot of another file", one, refused, only("one"), paste(other, 60*i, 60*i, 60))
		x.change("zero slot", one, refused, only("one"), zero(60*i, 60))
		x.change("swap sectors", one, refused, only("one"), swap(512*i, 512*(i+1), 512))
		x.change("sector of another file", one, refused, only("one"), paste(other, 512*i, 512*i, 512))
		x.change("sector of another group", big, refused, only("big"), swap(512*i, 2*groupStored+512*i, 512))
	}
	for i := range 8 {
		x.change("zero sector", one, refused, only("one"), zero(512*i, 512))
		x.change("zero sector of the last group", big, refused, only("big"), zero(2*groupStored+512*i, 512))
	}
	x.change("swap index blocks", big, refused, only("big"), swap(0, 2*groupStored, 4096))
	x.change("index block of another file", one, refused, only("one"), paste(other, 0, 0, 4096))
	x.change("index block in the hole", big, refused, only("big"), swap(groupStored, 2*groupStored, 4096))
	x.change("zero index block", big, refused, only("big"), zero(2*groupStored, 4096))
	x.change("zero group", big, refused, only("big"), func(b []byte) []byte { clear(b[2*groupStored:]); return b })
	x.change("zero first index block", big, refused, only("big"), zero(0, 4096))
	x.change("zero half of an inline block", x.stored["inline"], refused, only("inline"), zero(0, 400)) // of all: TestNeverSynced
	x.change("inline of another file's content", x.stored["inline"], refused, only("inline"), paste(x.stored["inline2"], 60, 60, 768))
	for path := range victimFiles(0) {
		s := x.stored[path]
		n := len(x.bytes(s))
		step := 512
		if path == "big" {
			step = 512 * 37
		}
		for cut := step; cut < n; cut += step { // to nothing is what an empty file looks like: see TestTamperLimits
			x.change(fmt.Sprintf("cut to %d", cut), s, refused, only(path), func(b []byte) []byte { return b[:cut] })
		}
		for _, more := range []int{1, 512, 4096, groupStored} {
			e := refused
			if n <= 4096 {
				e = harmless // longer than an inline block says: what a crash leaves
			}
			x.change("longer", s, e, only(path), func(b []byte) []byte { return append(b, make([]byte, more)...) })
		}
	}
	keys := envelope.ControlDir + "/keys"
	for name := range x.names(keys) {
		n := len(x.bytes(keys + "/" + name))
		for i := 512; i+1024 <= n; i += 512 {
			x.change("swap records", keys+"/"+name, harmless, nil, swap(i, i+512, 512))
		}
		e := harmless
		if bytes.Contains(x.bytes(keys+"/"+name), x.bytes(one)[12:28]) {
			e = refused // it has the record of the file with this id
		}
		x.change("zero table", keys+"/"+name, e, only("one"), zero(0, n))
		x.change("zero records", keys+"/"+name, e, only("one"), zero(512, n-512))
		for cut := 0; cut < n; cut += 512 {
			x.change("cut table", keys+"/"+name, harmless, nil, func(b []byte) []byte { return b[:cut] })
		}
	}
	config := envelope.ControlDir + "/vault.json"
	for _, edit := range [][2]string{{"4096", "16384"}, {"local:store", "local:other"}, {"alias/aws/kmsfs", "alias/mallory"}, {`"features": []`, `"features": ["x"]`}} {
		old := x.bytes(config)
		if !bytes.Contains(old, []byte(edit[0])) && edit[1] != `"features": ["x"]` {
			t.Fatalf("config has no %s", edit[0])
		}
		if n := bytes.Replace(old, []byte(edit[0]), []byte(edit[1]), 1); !bytes.Equal(n, old) {
			x.set(config, n)
			if x.read() != nil {
				t.Errorf("edited config opens: %v", edit)
			}
			x.set(config, old)
		}
	}
}

// TestTamperReplay puts back parts of an older state.
func TestTamperReplay(t *testing.T) {
	x := newVictim(t)
	old := map[string][]byte{}
	for _, path := range []string{"one", "big", "inline"} {
		old[path] = x.bytes(x.stored[path])
	}
	oldOne := x.want["one"]
	x.write(100)
	for _, path := range []string{"one", "big"} {
		part := func(what string, e expectation, at, n int) {
			x.change(what, x.stored[path], e, []string{path}, func(b []byte) []byte { copy(b[at:at+n], old[path][at:at+n]); return b })
		}
		for c := range 3 {
			part("older chunk", refused, 4096*(c+1), 4096)
			part("older slot", refused, 60*(c+1), 60)
		}
		part("older sector", refused, 0, 512)
		part("older index block", refused, 0, 4096)
	}
	x.change("older tag", x.stored["inline"], refused, []string{"inline"}, func(b []byte) []byte { copy(b[60:88], old["inline"][60:88]); return b })

	// The limits that FORMAT.md states. A sector together with its chunks (slots 0 to 6) is old data that is not noticed.
	s := x.stored["one"]
	now := x.bytes(s)
	mixed := bytes.Clone(now)
	copy(mixed[:512], old["one"][:512])
	copy(mixed[4096:8*4096], old["one"][4096:8*4096])
	x.set(s, mixed)
	if got := x.read()["one"]; got[:7*4096] != oldOne[:7*4096] || got[7*4096:] != x.want["one"][7*4096:] {
		t.Error("an older sector with its chunks is not read as that")
	}
	x.set(s, old["one"]) // a whole file
	if got := x.read()["one"]; got != oldOne {
		t.Error("an older file is not read as that")
	}
	x.set(s, nil) // before the first write
	if got := x.read()["one"]; got != "" {
		t.Error("a file cut to nothing is not read as empty")
	}
	x.set(s, x.bytes(x.stored["other"])) // the file id goes along
	if got := x.read()["one"]; got != x.want["other"] {
		t.Error("a file under another's name is not read as that")
	}
}

// TestTamperNames moves names and companions, and changes symlinks and attributes.
func TestTamperNames(t *testing.T) {
	x := newVictim(t)
	root := x.fs.Root()
	sub := func(path string) backing.Dir {
		d, err := root.OpenDir(x.stored[path])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d, d2 := sub("d"), sub("d2")
	in := strings.TrimPrefix(x.stored["d/in"], x.stored["d"]+"/")
	move := func(what string, a backing.Dir, name string, b backing.Dir, to string, paths ...string) {
		t.Helper()
		if err := a.Rename(name, b, to, 0); err != nil {
			t.Fatal(err)
		}
		x.check(what, refused, paths)
		if err := b.Rename(to, a, name, 0); err != nil {
			t.Fatal(err)
		}
	}
	move("name in another directory", d, in, d2, in, "d/in")
	move("name in the root", d, in, root, in, "d/in")
	other := "A" // as the last character of a name, which may have it
	if strings.HasSuffix(x.stored["inline"], other) {
		other = "E"
	}
	move("other name", root, x.stored["inline"], root, x.stored["inline"][:42]+other, "inline")
	move("no id", d, envelope.DirFileName, d2, "x", "d/in")
	for n := range x.names(x.stored["d"]) {
		if strings.HasPrefix(n, ".kmsfs.long") {
			move("no companion", d, n, d2, n)
		}
	}
	// Directories exchanged with their id files, and so files, are read under the other name: FORMAT.md states it.
	if err := root.Rename(x.stored["d"], root, x.stored["d2"], vault.RenameExchange); err != nil {
		t.Fatal(err)
	}
	if got := x.read(); !strings.HasPrefix(got["d/in"], "error") {
		t.Error("exchanged directories are not read as that")
	}
	if err := root.Rename(x.stored["d"], root, x.stored["d2"], vault.RenameExchange); err != nil {
		t.Fatal(err)
	}
	link, _ := root.Readlink(x.stored["link"])
	for i := range link {
		for _, c := range []byte{'A', 'z', '-', '!'} {
			b := []byte(link)
			if b[i] == c {
				continue
			}
			b[i] = c
			root.Unlink(x.stored["link"])
			root.Symlink(string(b), x.stored["link"])
			x.check("symlink", harmless, nil)
		}
	}
	root.Unlink(x.stored["link"])
	root.Symlink(link, x.stored["link"])
	for _, path := range []string{"one", "d"} {
		names := make([]byte, 1000)
		n, err := root.ListxattrAt(x.stored[path], names)
		if err != nil || n == 0 {
			t.Fatal(err)
		}
		name := string(bytes.TrimRight(names[:n], "\x00"))
		value := make([]byte, 1000)
		n, _ = root.GetxattrAt(x.stored[path], name, value)
		for bit := range n * 8 {
			root.SetxattrAt(x.stored[path], name, flip(bit)(bytes.Clone(value[:n])), 0)
			x.check("attribute", refused, []string{path + " xattr"})
		}
		root.SetxattrAt(x.stored[path], name, value[:n], 0)
		// One of another owner, under the right name.
		b := map[string]string{"one": "d", "d": "one"}[path]
		k, _ := root.ListxattrAt(x.stored[b], names)
		other := make([]byte, 1000)
		k, _ = root.GetxattrAt(x.stored[b], string(bytes.TrimRight(names[:k], "\x00")), other)
		root.SetxattrAt(x.stored[path], name, other[:k], 0)
		if got := x.read()[path+" xattr"]; !strings.HasPrefix(got, "error") {
			t.Errorf("attribute of another file reads as %q", got)
		}
		root.SetxattrAt(x.stored[path], name, value[:n], 0)
	}
}
