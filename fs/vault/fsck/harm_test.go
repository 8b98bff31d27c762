package fsck_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/fsck"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/tree/treetest"
	"kmsfs/fs/vault/view"
	"kmsfs/fs/vault/walk"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// bed is a vault in memory that harm is done to.
type bed struct {
	t    *testing.T
	fs   *memfs.FS
	ks   keysource.Keysource
	want map[string]bool // sums of what files hold that are to be readable somewhere in the end
	rand *rand.Rand
}

var (
	longName = strings.Repeat("n", 200)
	bedDirs  = []string{"a", "b", "c", "d", "e", "f", "a/sub", "c/sub", strings.Repeat("long", 50)}
	bedSizes = []int{0, 100, 5000, 300_000, 70}
)

// newBed makes a vault with some of everything, all of it durable.
func newBed(t *testing.T) *bed {
	t.Helper()
	ks, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	b := &bed{t, memfs.New(memfs.Config{}), ks, map[string]bool{}, rand.New(rand.NewPCG(3, 4))}
	b.must(vault.Create(t.Context(), b.fs.Root(), ks, vault.CreateConfig{Keysource: "local:", Key: "alias/aws/kmsfs"}))
	b.open(vault.ReadWrite, func(v *vault.Vault) {
		root := view.Root(t.Context(), v)
		for _, dir := range bedDirs {
			up, name := walk.Split(dir)
			at := b.dir(root, up)
			b.must(at.Mkdir(name, 0o755))
			at.Close()
			d := b.dir(root, dir)
			for i, size := range bedSizes {
				content := treetest.Random(b.rand, size)
				b.want[sum(content)] = true
				name := fmt.Sprintf("file%d", i)
				if i == 4 {
					name = longName
				}
				treetest.WriteFile(t, d, name, content)
			}
			b.must(d.Symlink("target", "link"))
			b.must(d.Link("file2", d, "hard"))
			d.Close()
		}
	})
	b.sync()
	return b
}

func sum(b []byte) string { s := sha256.Sum256(b); return string(s[:]) }

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) sync() { b.must(b.fs.Root().SyncFS()) }

// open opens the vault and closes it.
func (b *bed) open(a vault.Access, f func(v *vault.Vault)) {
	b.t.Helper()
	v, err := vault.Open(b.t.Context(), b.fs.Root(), b.ks, vault.Options{Access: a})
	b.must(err)
	f(v)
	b.must(v.Close())
}

// dir opens a plaintext directory.
func (b *bed) dir(root backing.Dir, path string) backing.Dir {
	b.t.Helper()
	if path == "" {
		d, err := root.Dup()
		b.must(err)
		return d
	}
	d, err := tree.OpenDir(root, strings.Split(path, "/")...)
	b.must(err)
	return d
}

// at returns the stored directory and name of a plaintext path.
func (b *bed) at(path string) (d backing.Dir, name string) {
	b.t.Helper()
	stored := b.stored(path)
	up, name := walk.Split(stored)
	d, err := walk.Open(b.fs.Root(), up)
	b.must(err)
	return d, name
}

// stored is the stored path of a plaintext one.
func (b *bed) stored(path string) (stored string) {
	b.t.Helper()
	b.open(vault.ReadOnly, func(v *vault.Vault) {
		n := v.Root()
		v.Refer(n)
		for part := range strings.SplitSeq(path, "/") {
			found := ""
			b.must(v.List(n, func(e vault.DirEntry, err error) bool {
				if err == nil && e.Name == part {
					found = e.Stored
				}
				return true
			}))
			if found == "" {
				b.t.Fatalf("no %s", path)
			}
			next, _, err := v.LookupStored(n, found)
			b.must(err)
			v.Forget(n, 1)
			n = next
			stored = walk.Join(stored, found)
		}
		v.Forget(n, 1)
	})
	return stored
}

// path opens a stored directory.
func (b *bed) path(stored string) backing.Dir {
	b.t.Helper()
	d, err := walk.Open(b.fs.Root(), stored)
	b.must(err)
	return d
}

// move moves what has a plaintext path to another stored directory, under the same stored name or another one.
func (b *bed) move(path, dir, name string) {
	b.t.Helper()
	d, entry := b.at(path)
	if name == "" {
		name = entry
	}
	b.must(d.Rename(entry, b.path(dir), name, 0))
}

// put writes a stored file.
func (b *bed) put(dir, name, content string) {
	b.t.Helper()
	f, err := b.path(dir).Open(name, syscall.O_WRONLY|syscall.O_CREAT, 0o600)
	b.must(err)
	_, err = f.WriteAt([]byte(content), 0)
	b.must(errors.Join(err, f.Close()))
}

// flip flips a bit of a stored file.
func (b *bed) flip(d backing.Dir, name string, off int64) {
	b.t.Helper()
	f, err := d.Open(name, syscall.O_RDWR, 0)
	b.must(err)
	var c [1]byte
	_, err = f.ReadAt(c[:], off)
	b.must(err)
	c[0] ^= 4
	_, err = f.WriteAt(c[:], off)
	b.must(errors.Join(err, f.Close()))
}

// tables are the names of the key tables.
func (b *bed) tables() (names []string) {
	b.must(b.path(".kmsfs/keys").ReadDir(func(e backing.Entry) bool {
		if _, ok := envelope.ParseTableName(e.Name); ok {
			names = append(names, e.Name)
		}
		return true
	}))
	return names
}

// forget says that what a plaintext path holds is to be gone.
func (b *bed) forget(path string) {
	b.t.Helper()
	b.open(vault.ReadOnly, func(v *vault.Vault) {
		up, name := walk.Split(path)
		d := b.dir(view.Root(b.t.Context(), v), up)
		defer d.Close()
		f, st, err := d.OpenStat(name, syscall.O_RDONLY, 0)
		b.must(err)
		defer f.Close()
		c := make([]byte, st.Size)
		_, err = f.ReadAt(c, 0)
		b.must(err)
		delete(b.want, sum(c))
	})
}

// harms are the kinds of damage that fsck mends. Each is done to other files than the rest, so that all of them can be done.
var harms = map[string]func(b *bed){
	"orphan records": func(b *bed) {
		for _, p := range []string{"a/file1", "a/file3"} {
			b.forget(p)
			d, name := b.at(p)
			b.must(d.Unlink(name))
		}
	},
	"orphan companions": func(b *bed) {
		b.forget("a/" + longName)
		d, name := b.at("a/" + longName)
		b.must(d.Unlink(name))
	},
	"leftovers": func(b *bed) {
		b.put(".kmsfs", "vault.json.new", "x")
		b.put(".kmsfs/keys", b.tables()[0]+".new", "x")
		b.put(b.stored("a/sub"), ".kmsfs.dir.new", "x")
	},
	"half-made directories": func(b *bed) {
		for _, up := range []string{".kmsfs/tmp", b.stored("a/sub")} {
			d := b.path(up)
			for _, name := range []string{".kmsfs.new.0123456789abcdef0123456789abcdef", ".kmsfs.new.1123456789abcdef0123456789abcdef"} {
				b.must(d.Mkdir(name, 0o700))
			}
			b.put(up+"/.kmsfs.new.0123456789abcdef0123456789abcdef", ".kmsfs.dir", strings.Repeat("x", 64))
		}
	},
	"a directory without an id, with nothing in it": func(b *bed) {
		b.open(vault.ReadWrite, func(v *vault.Vault) { b.must(view.Root(b.t.Context(), v).Mkdir("nothing", 0o755)) })
		b.must(b.path(b.stored("nothing")).Unlink(".kmsfs.dir"))
	},
	"a directory taken apart with something in it": func(b *bed) {
		b.move("f/sub2", ".kmsfs/tmp", "0123456789abcdef0123456789abcdef")
	},
	"table header": func(b *bed) { b.flip(b.path(".kmsfs/keys"), b.tables()[0], 20) },
	"records with a bit wrong": func(b *bed) {
		for _, p := range []string{"c/file2", "c/file3"} {
			d, name := b.at(p)
			f, err := d.Open(name, syscall.O_RDONLY, 0)
			b.must(err)
			var h [envelope.HeaderSize]byte
			_, err = f.ReadAt(h[:], 0)
			b.must(err)
			head, err := envelope.ParseHeader(h[:])
			b.must(errors.Join(err, f.Close()))
			b.flip(b.path(".kmsfs/keys"), envelope.TableName(head.Loc.Table), int64(head.Loc.Slot)*512+int64(b.rand.IntN(512)))
		}
	},
	"misplaced": func(b *bed) {
		b.move("b/file3", "", "")
		b.move("b/file0", b.stored("a/sub"), "")
		b.move("b/"+longName, b.stored("a/sub"), "")
		b.move("b/link", "", "link of mine")
		b.move("b/hard", "", "")
		b.move("c/sub", b.stored("b"), "")
	},
	"a lost id that the names tell": func(b *bed) {
		d := b.path(b.stored("c"))
		b.flip(d, ".kmsfs.dir", 50)
		b.flip(d, ".kmsfs.dir", 55)
	},
	"a lost id with one bit wrong": func(b *bed) { b.flip(b.path(b.stored(bedDirs[8])), ".kmsfs.dir", 10) },
	"a lost id": func(b *bed) {
		for _, p := range []string{"d", "d/sub2"} {
			d := b.path(b.stored("d"))
			if p == "d/sub2" {
				d = b.path(b.stored("d") + "/" + b.subdirs(b.stored("d"))[0])
			}
			b.flip(d, ".kmsfs.dir", 10)
			b.flip(d, ".kmsfs.dir", 55)
		}
		b.put(b.stored("d"), "README", "do not touch")
	},
	"other programs": func(b *bed) {
		b.put("", "README.md", "do not touch")
		b.put(b.stored("e"), ".DS_Store", "do not touch")
		b.must(b.fs.Root().Mkdir(".git", 0o755))
		b.must(b.path(".git").Mkdir("objects", 0o755))
		b.put(".git/objects", strings.Repeat("0123456789abcdef", 4), "do not touch")
		b.must(b.fs.Root().Mkdir("lost+found", 0o700))
		b.must(b.fs.Root().Mkdir("backup", 0o700))
		b.move("e/file3", "lost+found", "#12")
		b.move("e/sub2", "lost+found", "#13")
		b.move("e/"+longName, "backup", "")
	},
	"lost+found taken": func(b *bed) {
		b.open(vault.ReadWrite, func(v *vault.Vault) {
			treetest.WriteFile(b.t, view.Root(b.t.Context(), v), fsck.LostFound, []byte("mine"))
		})
		b.want[sum([]byte("mine"))] = true
		b.move("f/file1", "", "")
	},
	"unsettled": func(b *bed) {
		v, err := vault.Open(b.t.Context(), b.fs.Root(), b.ks, vault.Options{})
		b.must(err)
		d := b.dir(view.Root(b.t.Context(), v), "f")
		change := func(name string, size, off int64, data string) {
			b.t.Helper()
			f, st, err := d.OpenStat(name, syscall.O_RDWR, 0)
			b.must(err)
			c := make([]byte, st.Size)
			_, err = f.ReadAt(c, 0)
			b.must(err)
			delete(b.want, sum(c))
			if size >= 0 {
				b.must(f.Truncate(size))
				c = append(c, make([]byte, max(size-st.Size, 0))...)[:size]
			}
			if data != "" {
				_, err = f.WriteAt([]byte(data), off)
				b.must(err)
				c = append(c, make([]byte, max(off+int64(len(data))-int64(len(c)), 0))...)
				copy(c[off:], data)
			}
			b.must(f.Sync())
			b.must(f.Close())
			b.want[sum(c)] = true
		}
		change("file2", -1, 1000, strings.Repeat("over", 500))
		change("file3", 270_000, 269_000, "cut and more")
		change("file4", -1, 50, strings.Repeat("grown", 2000))
		treetest.WriteFile(b.t, d, "new", bytes.Repeat([]byte("new"), 10_000))
		b.want[sum(bytes.Repeat([]byte("new"), 10_000))] = true
		b.fs = b.fs.Kill()
		d.Close()
		v.Close()
	},
}

// subdirs are the stored subdirectories of a stored directory.
func (b *bed) subdirs(stored string) (names []string) {
	b.must(b.path(stored).ReadDir(func(e backing.Entry) bool {
		if e.Kind == syscall.S_IFDIR {
			names = append(names, e.Name)
		}
		return true
	}))
	return names
}

// order is that in which harms are done: what makes a vault that does not open for the next comes last.
func order() []string {
	names := slices.Sorted(maps.Keys(harms))
	last := []string{"a lost id", "a lost id that the names tell", "a lost id with one bit wrong", "table header"}
	return append(slices.DeleteFunc(names, func(n string) bool { return slices.Contains(last, n) }), last...)
}

// harmed is a bed with harm done, durably; name "all" is all of it.
func harmed(t *testing.T, name string) *bed {
	t.Helper()
	b := newBed(t)
	b.open(vault.ReadWrite, func(v *vault.Vault) {
		for _, up := range []string{"d", "e", "f"} {
			d := b.dir(view.Root(t.Context(), v), up)
			b.must(d.Mkdir("sub2", 0o755))
			sub := b.dir(d, "sub2")
			content := treetest.Random(b.rand, 9000)
			b.want[sum(content)] = true
			treetest.WriteFile(t, sub, "inner", content)
			if up == "f" { // what is changed later
				treetest.WriteFile(t, d, "file4", treetest.Random(b.rand, 60))
			}
			sub.Close()
			d.Close()
		}
	})
	for _, n := range order() {
		if n == name || name == "all" {
			harms[n](b)
		}
	}
	b.sync()
	return b
}

// state is what a vault holds.
type state struct {
	plain map[string]string     // by path: the sum of what files hold that open, the targets of symlinks, directories
	files map[uint64]storedFile // stored files that hold something, by inode, but for those that are none of the user's
	raw   map[string]bool       // the sums of the bytes of all of them
}

// storedFile is one: opens is the sum of its plaintext, "" where it does not open.
type storedFile struct{ path, sum, opens string }

// look reads all of a vault, opened without writing.
func (b *bed) look(fs *memfs.FS) (s state, err error) {
	s = state{map[string]string{}, map[uint64]storedFile{}, map[string]bool{}}
	v, err := vault.Open(b.t.Context(), fs.Root(), b.ks, vault.Options{Access: vault.ReadOnly})
	if err != nil {
		return s, fmt.Errorf("it does not open: %w", err)
	}
	defer v.Close()
	opens := map[uint64]string{}
	buf := make([]byte, 1<<20)
	var plain func(n *vault.Node, path string)
	plain = func(n *vault.Node, path string) {
		v.List(n, func(e vault.DirEntry, err error) bool {
			if err != nil {
				return true
			}
			sub, st, err := v.LookupStored(n, e.Stored)
			if err != nil {
				return true
			}
			defer v.Forget(sub, 1)
			p := tree.Join(path, e.Name)
			switch st.Mode & syscall.S_IFMT {
			case syscall.S_IFDIR:
				s.plain[p] = "directory"
				plain(sub, p)
			case syscall.S_IFLNK:
				if to, err := v.Readlink(sub); err == nil {
					s.plain[p] = "symlink " + to
				}
			case syscall.S_IFREG:
				if k, err := v.Read(b.t.Context(), sub, buf, 0); err == nil {
					s.plain[p] = sum(buf[:k])
					opens[st.Ino] = s.plain[p]
				}
			}
			return true
		})
	}
	plain(v.Root(), "")
	return s, eachFile(fs.Root(), "", func(d backing.Dir, at, name string) error {
		if strings.HasPrefix(at, ".kmsfs/keys/") || strings.HasPrefix(at, ".kmsfs/journal/") || path.Dir(at) == ".kmsfs" {
			return nil
		}
		f, st, err := d.OpenStat(name, syscall.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		c := make([]byte, min(st.Size, 1<<20)) // what is longer has been made so with holes
		if _, err := f.ReadAt(c, 0); err != nil {
			return err
		}
		if st.Size > 1<<20 {
			c = fmt.Append(c, st.Size)
		}
		s.raw[sum(c)] = true
		if len(c) > 0 {
			s.files[st.Ino] = storedFile{at, sum(c), opens[st.Ino]}
		}
		return nil
	})
}

// eachFile calls f for each stored file.
func eachFile(d backing.Dir, dir string, f func(d backing.Dir, at, name string) error) error {
	var list []backing.Entry
	if err := d.ReadDir(func(e backing.Entry) bool { list = append(list, e); return true }); err != nil {
		return err
	}
	for _, e := range list {
		at := walk.Join(dir, e.Name)
		switch e.Kind {
		case syscall.S_IFDIR:
			sub, err := d.OpenDir(e.Name)
			if err == nil {
				err = eachFile(sub, at, f)
				sub.Close()
			}
			if err != nil {
				return err
			}
		case syscall.S_IFREG:
			if err := f(d, at, e.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// repair mends once, as the command does.
func (b *bed) repair(fs *memfs.FS) (left *fsck.Result, did []fsck.Mended, err error) {
	v, err := vault.Open(b.t.Context(), fs.Root(), b.ks, vault.Options{})
	if err != nil {
		return nil, nil, err
	}
	left, did, err = fsck.Repair(b.t.Context(), fs.Root(), v, fsck.Options{})
	return left, did, errors.Join(err, v.Close())
}

// worse says what was there before, and is not now; "" for nothing.
func worse(before, now state) string {
	for path, s := range before.plain {
		if now.plain[path] != s {
			return fmt.Sprintf("%s was %.10q and is %.10q", path, s, now.plain[path])
		}
	}
	return ""
}

// lost says what of the stored files is nowhere any more, or has other bytes and does not open; "" for nothing. The id of a directory
// may be replaced, and is kept; what was never finished may go.
func lost(before, now state) string {
	for ino, was := range before.files {
		name := path.Base(was.path)
		is, there := now.files[ino]
		switch {
		case there && is.sum == was.sum, there && is.opens != "" && (was.opens == "" || is.opens == was.opens):
		case name == envelope.DirFileName && now.raw[was.sum]:
		case strings.HasSuffix(name, ".new"), strings.Contains(was.path, "/.kmsfs.new."):
		default:
			return fmt.Sprintf("%s is gone, or holds something else: %+v", was.path, is)
		}
	}
	return ""
}

// readable wants all that files were made with to be readable somewhere.
func (b *bed) readable(now state) string {
	have := map[string]bool{}
	for _, s := range now.plain {
		have[s] = true
	}
	for s := range b.want {
		if !have[s] {
			return fmt.Sprintf("a file that was to be readable is not: %x", s[:4])
		}
	}
	return ""
}

// clean wants nothing that can be mended to be left after a repair.
func clean(left *fsck.Result) string {
	for _, f := range left.Findings {
		if f.Mendable() {
			return fmt.Sprintf("left is %s: %s: %s", f.Kind, f.Stored, f.What)
		}
	}
	return ""
}
