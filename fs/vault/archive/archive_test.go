package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/archive"
	"kmsfs/fs/vault/tree/treetest"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	m.Run()
}

// strict ends at the first trouble.
func export(t *testing.T, d backing.Dir, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Export(t.Context(), d, path, &b, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importAll(t *testing.T, d backing.Dir, b []byte) {
	t.Helper()
	if err := archive.Import(t.Context(), d, "", bytes.NewReader(b), archive.Options{}); err != nil {
		t.Fatal(err)
	}
}

// What a vault has arrives in a directory by our archive, and by GNU tar from it; and back.
func TestRoundTrip(t *testing.T) {
	v := treetest.Vault(t)
	treetest.Make(t, v)
	b := export(t, v, "")
	d, _ := treetest.Plain(t)
	importAll(t, d, b)
	treetest.Same(t, d, v)
	w := treetest.Vault(t)
	importAll(t, w, b)
	treetest.Same(t, w, v)
	importAll(t, w, b) // over what is there
	treetest.Same(t, w, v)
	if again := export(t, w, ""); !bytes.Equal(again, b) {
		t.Error("the archive of the copy is another one")
	}
	if sub := export(t, v, "sub"); len(sub) == 0 || !bytes.Contains(sub, []byte("sub/small1")) || bytes.Contains(sub, []byte("fifo")) {
		t.Error("the archive of a directory has something else")
	}
	if one := export(t, v, "size1"); len(one) > 4096 {
		t.Errorf("the archive of a file of one byte has %d bytes", len(one))
	}
	if len(b) > 20<<20 {
		t.Errorf("%d bytes: the holes are in it", len(b))
	}
}

func gnuTar(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("needs GNU tar: apt-get install tar")
	}
	return path
}

func TestGNUTar(t *testing.T) {
	program := gnuTar(t)
	v := treetest.Vault(t)
	treetest.Make(t, v)
	d, path := treetest.Plain(t)
	x := exec.Command(program, "-C", path, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-")
	x.Stdin = bytes.NewReader(export(t, v, ""))
	if out, err := x.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	treetest.Same(t, d, v)
	for _, format := range []string{"posix", "gnu"} {
		c := exec.Command(program, "-C", path, "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "--format="+format, "-cf", "-", ".")
		if format == "gnu" { // which has neither attributes nor parts of seconds
			c.Args = slices.DeleteFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--xattrs") })
		}
		b, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		w := treetest.Vault(t)
		importAll(t, w, b)
		if format == "posix" {
			treetest.Same(t, w, v)
		} else if got, want := len(treetest.Describe(t, w)), len(treetest.Describe(t, v)); got != want {
			t.Errorf("%d objects of %d", got, want)
		}
	}
}

// A file of more than 8 GiB, which the fields of the first tar had no room for.
func TestHuge(t *testing.T) {
	program := gnuTar(t)
	v := treetest.Vault(t)
	f, err := v.Open("huge", unix.O_RDWR|unix.O_CREAT, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("end"), 9<<30)
	f.Close()
	b := export(t, v, "")
	if len(b) > 64<<10 {
		t.Fatalf("%d bytes", len(b))
	}
	d, path := treetest.Plain(t)
	x := exec.Command(program, "-C", path, "-xf", "-")
	x.Stdin = bytes.NewReader(b)
	if out, err := x.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g, st, err := d.OpenStat("huge", unix.O_RDONLY, 0)
	if err != nil || st.Size != 9<<30+3 {
		t.Fatal(st.Size, err)
	}
	defer g.Close()
	got := make([]byte, 3)
	if _, err := g.ReadAt(got, 9<<30); err != nil || string(got) != "end" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Nothing gets out of the tree, and what is refused is told of while the rest arrives.
func TestHostile(t *testing.T) {
	outside := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, content string) {
		t.Helper()
		h.Size, h.Mode = int64(len(content)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	put(tar.Header{Name: "../up", Typeflag: tar.TypeReg}, "x")
	put(tar.Header{Name: "a/../../up", Typeflag: tar.TypeReg}, "x")
	put(tar.Header{Name: "way", Typeflag: tar.TypeSymlink, Linkname: outside}, "")
	put(tar.Header{Name: "way/in", Typeflag: tar.TypeReg}, "x")
	put(tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}, "")
	put(tar.Header{Name: "hard2", Typeflag: tar.TypeLink, Linkname: "way/x"}, "")
	put(tar.Header{Name: "hard3", Typeflag: tar.TypeLink, Linkname: "."}, "")
	put(tar.Header{Name: "..", Typeflag: tar.TypeDir}, "")
	put(tar.Header{Name: ".", Typeflag: tar.TypeReg}, "x")
	put(tar.Header{Name: "nul", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.": "x"}}, "")
	put(tar.Header{Name: strings.Repeat("n", 256), Typeflag: tar.TypeReg}, "x")
	put(tar.Header{Name: "root's", Typeflag: tar.TypeReg, Uid: 1 << 32}, "x")
	put(tar.Header{Name: "nobody's", Typeflag: tar.TypeReg, Gid: 1<<32 - 1}, "x")
	put(tar.Header{Name: "/absolute/good", Typeflag: tar.TypeReg}, "good")
	w.Close()
	for name, d := range map[string]backing.Dir{"vault": treetest.Vault(t), "plain": func() backing.Dir { d, _ := treetest.Plain(t); return d }()} {
		var told []string
		err := archive.Import(t.Context(), d, "", bytes.NewReader(b.Bytes()), archive.Options{Trouble: func(path string, err error) { told = append(told, path) }})
		if !errors.Is(err, archive.ErrIncomplete) {
			t.Errorf("%s: got %v", name, err)
		}
		if len(told) != 12 {
			t.Errorf("%s: told of %d: %q", name, len(told), told)
		}
		lines := strings.Join(treetest.Describe(t, d), "\n")
		if !strings.Contains(lines, `"absolute/good"`) || strings.Contains(lines, ".part") {
			t.Errorf("%s: got\n%s", name, lines)
		}
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("outside there is %v", names)
	}
}

// An archive that is cut off anywhere is an error, and leaves no half of a file.
func TestCutOff(t *testing.T) {
	d, path := treetest.Plain(t)
	treetest.WriteFile(t, d, "a", bytes.Repeat([]byte("a"), 1000))
	treetest.WriteFile(t, d, "b", bytes.Repeat([]byte("b"), 400<<10))
	treetest.WriteFile(t, d, "c", bytes.Repeat([]byte("c"), 1000))
	whole := export(t, d, "")
	want := treetest.Describe(t, d)
	for n := 0; n < len(whole)-1; n += 777 + n/50 {
		v := treetest.Vault(t)
		err := archive.Import(t.Context(), v, "", bytes.NewReader(whole[:n]), archive.Options{})
		for _, line := range treetest.Describe(t, v) {
			if !slices.Contains(want, line) {
				t.Fatalf("cut at %d: %s", n, line)
			}
		}
		if !errors.Is(err, archive.ErrArchive) {
			t.Errorf("cut at %d of %d: no error", n, len(whole))
		}
	}
	os.RemoveAll(filepath.Join(path, "a"))
}

// A writer that fails, and a context that ends, end the call.
func TestExportEnds(t *testing.T) {
	v := treetest.Vault(t)
	treetest.Make(t, v)
	if err := archive.Export(t.Context(), v, "", &limited{100 << 10}, archive.Options{}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
	if err := archive.Export(t.Context(), v, "nothing", &limited{1}, archive.Options{}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v", err)
	}
}

type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, syscall.EPIPE
	}
	return len(p), nil
}

// No archive makes a panic.
func FuzzImport(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 3, Mode: 0o600})
	w.Write([]byte("abc"))
	w.WriteHeader(&tar.Header{Name: "l", Linkname: "a/b", Typeflag: tar.TypeLink})
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		archive.Import(t.Context(), memory(), "", bytes.NewReader(b), archive.Options{Ahead: 2, Trouble: func(string, error) {}})
	})
}

func memory() backing.Dir { return memfs.New(memfs.Config{}).Root() }

// A call that fails leaves no directory open.
func TestExportLeavesNothingOpen(t *testing.T) {
	d, path := treetest.Plain(t)
	for i := range 100 {
		sub := filepath.Join(path, strings.Repeat("d", 1+i))
		if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(filepath.Join(sub, "file"), make([]byte, 10<<10), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	open := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := open()
	for n := range 20 {
		if err := archive.Export(t.Context(), d, "", &limited{n * 10 << 10}, archive.Options{}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("got %v", err)
		}
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
}

// vanishing is a directory in which a name goes when a large file of it is to be opened the second time, to be written.
type vanishing struct {
	backing.Dir
	path  string
	opens *atomic.Int32
}

func (v vanishing) Dup() (backing.Dir, error) { return v, nil }
func (v vanishing) Close() error              { return nil }
func (v vanishing) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	if name == "first" && v.opens.Add(1) == 2 {
		os.Remove(filepath.Join(v.path, name))
	}
	return v.Dir.OpenStat(name, flags, mode)
}

// A file of two names one of which goes meanwhile is there under the other.
func TestFirstNameGoes(t *testing.T) {
	d, path := treetest.Plain(t)
	treetest.WriteFile(t, d, "first", bytes.Repeat([]byte("x"), 1<<20))
	if err := d.Link("first", d, "second"); err != nil {
		t.Fatal(err)
	}
	b := export(t, vanishing{d, path, new(atomic.Int32)}, "")
	v := treetest.Vault(t)
	importAll(t, v, b)
	if st, err := v.StatAt("second"); err != nil || st.Size != 1<<20 {
		t.Errorf("got %d, %v", st.Size, err)
	}
}
