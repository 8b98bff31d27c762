package reverse_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/reverse"
	"kmsfs/fs/vault/view"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// bench is a source, a state and a key store.
type bench struct {
	t     testing.TB
	src   *memfs.FS
	state *memfs.FS
	ks    *local.Store
}

func newBench(t testing.TB, chunk int) *bench {
	t.Helper()
	ks, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	b := &bench{t: t, src: memfs.New(memfs.Config{}), state: memfs.New(memfs.Config{}), ks: ks}
	d := b.state.Root()
	defer d.Close()
	if err := vault.Create(t.Context(), d, ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/aws/kmsfs", ChunkSize: chunk}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) open(o reverse.Options) *reverse.View {
	b.t.Helper()
	return b.openWith(b.ks, o)
}

func (b *bench) openWith(ks keysource.Keysource, o reverse.Options) *reverse.View {
	b.t.Helper()
	v, err := reverse.Open(b.t.Context(), b.src.Root(), b.state.Root(), ks, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// content is n bytes that nothing else has.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// write writes b at off of the file name in d, which is made where it is missing.
func write(t testing.TB, d backing.Dir, name string, b []byte, off int64) {
	t.Helper()
	f, err := d.Open(name, syscall.O_RDWR|syscall.O_CREAT, 0o640)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, off)
	must(t, err)
}

// mkdir makes and opens a directory.
func mkdir(t testing.TB, d backing.Dir, name string) backing.Dir {
	t.Helper()
	must(t, d.Mkdir(name, 0o750))
	sub, err := d.OpenDir(name)
	must(t, err)
	t.Cleanup(func() { sub.Close() })
	return sub
}

// fill makes a source with a bit of everything, chunks being of so many bytes.
func (b *bench) fill(chunk int) {
	t, top := b.t, b.src.Root()
	for i, n := range []int{0, 1, 3967, 3968, 3969, 4095, 4096, 4097, chunk, chunk + 1, 63*chunk - 1, 63 * chunk, 63*chunk + 1, 200*chunk + 77} {
		write(t, top, fmt.Sprintf("size %d", n), content(uint64(i), n), 0)
	}
	a := mkdir(t, top, "a directory")
	deep := mkdir(t, mkdir(t, a, "b"), "c")
	write(t, deep, "file", []byte("deep"), 0)
	for _, n := range []int{160, 161, 200, 255} {
		write(t, a, strings.Repeat("n", n), content(7, n), 0)
		mkdir(t, deep, strings.Repeat("d", n))
	}
	must(t, top.Symlink("a directory/b", "link"), top.Symlink(strings.Repeat("/target", 400), "a long link"),
		top.Mknod("fifo", syscall.S_IFIFO|0o600, 0), top.Mknod("null", syscall.S_IFCHR|0o666, 1<<8|3))
	write(t, top, "two names", content(9, 10000), 0)
	must(t, top.Link("two names", a, "the other"), top.Link("two names", deep, "the third"))
	if chunk < 65536 { // else it takes long
		write(t, top, "sparse", content(10, 3*chunk), int64(1000*63*chunk+5*chunk))
	}
	write(t, top, "sparse", content(11, 100), int64(2*chunk+9))
	write(t, top, "only a hole", nil, 0)
	f, err := top.Open("only a hole", syscall.O_RDWR, 0)
	must(t, err, f.Truncate(int64(130*chunk)), f.Close())
	for _, name := range []string{"size 0", "size 4096", "size 3968", "a directory"} {
		must(t, top.SetxattrAt(name, "user.colour", []byte("blue of "+name), 0))
	}
	must(t, top.ChmodAt("size 1", 0o4711), top.ChownAt("size 3967", 5, 6), a.UtimesAt("b", backing.Timespec{Sec: 5}, backing.Timespec{Sec: 77, Nsec: 8}),
		top.UtimesAt("size 4097", backing.Timespec{Sec: 5}, backing.Timespec{Sec: 99, Nsec: 9}))
}

// copyView makes in to what the view shows of a directory, as a tool would that knows of holes and hard links.
func copyView(t testing.TB, v *reverse.View, n *reverse.Node, to backing.Dir) {
	t.Helper()
	linked := map[uint64]struct {
		d    backing.Dir
		name string
	}{}
	var walk func(n *reverse.Node, to backing.Dir)
	walk = func(n *reverse.Node, to backing.Dir) {
		entries, err := v.List(t.Context(), n)
		must(t, err)
		for _, e := range entries {
			child, st, err := v.Lookup(n, e.Name)
			must(t, err)
			if st.Ino != e.Ino {
				t.Errorf("%s: listed with inode %d, looked up with %d", e.Name, e.Ino, st.Ino)
			}
			if got, err := v.Attr(child); err != nil || got != st {
				t.Errorf("%s: attributes %+v, looked up with %+v, %v", e.Name, got, st, err)
			}
			was, again := linked[st.Ino]
			switch {
			case st.Mode&syscall.S_IFMT == syscall.S_IFDIR:
				must(t, to.Mkdir(e.Name, 0o700))
				sub, err := to.OpenDir(e.Name)
				must(t, err)
				t.Cleanup(func() { sub.Close() })
				walk(child, sub)
			case again:
				must(t, was.d.Link(was.name, to, e.Name))
			case st.Mode&syscall.S_IFMT == syscall.S_IFLNK:
				target, err := v.Readlink(child)
				must(t, err, to.Symlink(target, e.Name))
				if int64(len(target)) != st.Size {
					t.Errorf("%s: a target of %d bytes, size %d", e.Name, len(target), st.Size)
				}
			case st.Mode&syscall.S_IFMT == syscall.S_IFREG:
				copyFile(t, v, child, st.Size, to, e.Name)
			default:
				must(t, to.Mknod(e.Name, st.Mode, st.Rdev))
			}
			if st.Nlink > 1 && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
				linked[st.Ino] = struct {
					d    backing.Dir
					name string
				}{to, e.Name}
			}
			copyMeta(t, v, child, &st, to, e.Name)
			v.Forget(child, 1)
		}
	}
	walk(n, to)
	st, err := v.Attr(n)
	must(t, err, to.Utimes(st.Atim, st.Mtim))
}

func copyFile(t testing.TB, v *reverse.View, n *reverse.Node, size int64, to backing.Dir, name string) {
	t.Helper()
	h, _, err := v.Open(n)
	must(t, err)
	defer h.Close()
	f, err := to.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	must(t, err, f.Truncate(size))
	defer f.Close()
	for off := int64(0); off < size; {
		data, err := h.Seek(off, 3)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		must(t, err)
		hole, err := h.Seek(data, 4)
		must(t, err)
		b := make([]byte, hole-data)
		got, err := h.Read(t.Context(), b, data)
		must(t, err)
		if got != len(b) {
			t.Fatalf("%s: %d bytes at %d of %d, want %d", name, got, data, size, len(b))
		}
		_, err = f.WriteAt(b, data)
		must(t, err)
		off = hole
	}
}

func copyMeta(t testing.TB, v *reverse.View, n *reverse.Node, st *backing.Stat, to backing.Dir, name string) {
	t.Helper()
	attrs, err := v.Listxattr(n)
	must(t, err)
	for _, attr := range attrs {
		value, err := v.Getxattr(n, attr)
		must(t, err, to.SetxattrAt(name, attr, value, 0))
	}
	must(t, to.ChownAt(name, st.UID, st.GID))
	if st.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		must(t, to.ChmodAt(name, st.Mode&0o7777))
	}
	must(t, to.UtimesAt(name, st.Atim, st.Mtim))
}

// copied is a copy of what the view shows.
func copied(t testing.TB, v *reverse.View) *memfs.FS {
	t.Helper()
	fs := memfs.New(memfs.Config{})
	d := fs.Root()
	defer d.Close()
	copyView(t, v, v.Root(), d)
	return fs
}

// opened is the plaintext of a copy, and whether its chunks all open.
func opened(t testing.TB, fs *memfs.FS, ks keysource.Keysource) map[string]string {
	t.Helper()
	v, err := vault.Open(t.Context(), fs.Root(), ks, vault.Options{Access: vault.ReadOnly})
	must(t, err)
	d := view.Root(t.Context(), v)
	tree := describe(t, d)
	must(t, d.Close(), v.Close())
	return tree
}

// describe says of everything below d what it is. What a vault computes or does not keep is left out.
func describe(t testing.TB, d backing.Dir) map[string]string {
	t.Helper()
	tree := map[string]string{}
	linked := map[uint64]string{}
	var walk func(d backing.Dir, path string)
	walk = func(d backing.Dir, path string) {
		var names []string
		must(t, d.ReadDir(func(e backing.Entry) bool {
			names = append(names, e.Name)
			return true
		}))
		slices.Sort(names)
		for _, name := range names {
			at := path + "/" + name
			st, err := d.StatAt(name)
			must(t, err)
			text := fmt.Sprintf("%o %d:%d %v links %d", st.Mode, st.UID, st.GID, st.Mtim, st.Nlink)
			if was, ok := linked[st.Ino]; ok {
				text += " of " + was
			}
			linked[st.Ino] = at
			switch st.Mode & syscall.S_IFMT {
			case syscall.S_IFDIR:
				sub, err := d.OpenDir(name)
				must(t, err)
				walk(sub, at)
				must(t, sub.Close())
			case syscall.S_IFLNK:
				target, err := d.Readlink(name)
				must(t, err)
				text += " " + target
			case syscall.S_IFREG:
				text += fmt.Sprintf(" size %d %x", st.Size, sumOf(t, d, name, st.Size))
			default:
				text += fmt.Sprintf(" device %x", st.Rdev)
			}
			tree[at] = text + attrsOf(t, d, name)
		}
	}
	walk(d, "")
	return tree
}

func attrsOf(t testing.TB, d backing.Dir, name string) (text string) {
	t.Helper()
	list := make([]byte, 4096)
	n, err := d.ListxattrAt(name, list)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return ""
	}
	must(t, err)
	for _, attr := range bytes.Split(list[:n], []byte{0}) {
		if len(attr) > 0 {
			value := make([]byte, 4096)
			n, err := d.GetxattrAt(name, string(attr), value)
			must(t, err)
			text += fmt.Sprintf(" %s=%q", attr, value[:n])
		}
	}
	return text
}

func sumOf(t testing.TB, d backing.Dir, name string, size int64) []byte {
	t.Helper()
	f, err := d.Open(name, syscall.O_RDONLY, 0)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	b := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		n, err := f.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if err != nil || n == 0 {
			t.Fatalf("%s at %d of %d: %d bytes, %v", name, off, size, n, err)
		}
		h.Write(b[:n])
		off += int64(n)
	}
	return h.Sum(nil)[:8]
}

// differences are the paths at which two trees differ.
func differences(a, b map[string]string) (paths []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for path := range all {
		if a[path] != b[path] {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// shown is what the view shows, as a new View does.
func (b *bench) shown() map[string]string {
	b.t.Helper()
	v := b.open(reverse.Options{})
	d := copied(b.t, v).Root()
	defer d.Close()
	must(b.t, v.Close())
	return describe(b.t, d)
}

// find looks a plain path up in the view.
func find(t testing.TB, v *reverse.View, vk *envelope.VolumeKeys, path ...string) *reverse.Node {
	t.Helper()
	n, err := lookup(v, vk, path...)
	must(t, err)
	return n
}

func lookup(v *reverse.View, vk *envelope.VolumeKeys, path ...string) (*reverse.Node, error) {
	n := v.Root()
	for i, name := range path {
		sealed, err := vk.SealName(vk.ReverseDirID(strings.Join(path[:i], "/")), name)
		if err != nil {
			return nil, err
		}
		if n, _, err = v.Lookup(n, sealed.Entry); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// keys are the volume keys of the state.
func (b *bench) keys() *envelope.VolumeKeys {
	b.t.Helper()
	d := b.state.Root()
	defer d.Close()
	cfg, err := vault.ReadConfig(d)
	must(b.t, err)
	vk, err := vault.OpenVolumeKey(b.t.Context(), b.ks, cfg)
	must(b.t, err)
	return vk
}

// read reads the whole of a stored file.
func read(t testing.TB, v *reverse.View, n *reverse.Node) []byte {
	t.Helper()
	st, err := v.Attr(n)
	must(t, err)
	h, _, err := v.Open(n)
	must(t, err)
	defer h.Close()
	b := make([]byte, st.Size+1)
	got, err := h.Read(t.Context(), b, 0)
	must(t, err)
	if int64(got) != st.Size {
		t.Fatalf("%d bytes, of size %d", got, st.Size)
	}
	return b[:got]
}
