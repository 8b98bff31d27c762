// Package treetest makes and compares directory trees for tests.
//
// Start with [Make] for a tree of everything that a file system has, [Describe] to compare two.
package treetest

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/view"
	"kmsfs/keysource/local"
)

// Vault returns the plaintext of a new vault in memory.
func Vault(t testing.TB) backing.Dir {
	t.Helper()
	ks, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	top := memfs.New(memfs.Config{}).Root
	if err := vault.Create(t.Context(), top(), ks, vault.CreateConfig{Keysource: "local:", Key: "alias/aws/kmsfs"}); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), top(), ks, vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return view.Root(t.Context(), v)
}

// Plain returns an empty directory on the disk, and its path.
func Plain(t testing.TB) (backing.Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := backing.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

// Make fills d with one of everything: what root alone may make is there for root.
func Make(t testing.TB, d backing.Dir) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	ok(d.Mkdir("sub", 0o755))
	ok(d.Mkdir("empty", 0o700))
	sub, err := d.OpenDir("sub")
	ok(err)
	defer sub.Close()
	long := strings.Repeat("long name ", 25)
	ok(sub.Mkdir(long, 0o750))
	deep, err := sub.OpenDir(long)
	ok(err)
	defer deep.Close()
	for _, size := range []int{0, 1, 3968, 3969, 4096, 5000, 63 * 4096, 300 << 10, 3<<20 + 17} {
		WriteFile(t, d, fmt.Sprintf("size%d", size), Random(r, size))
		WriteFile(t, deep, fmt.Sprintf("%d of many", size), Random(r, size/2))
	}
	for i := range 200 {
		WriteFile(t, sub, fmt.Sprintf("small%d", i), Random(r, r.IntN(2000)))
	}
	for _, name := range []string{"sparse", "ends in a hole", "all hole", "small sparse"} {
		f, err := d.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o640)
		ok(err)
		switch name {
		case "small sparse":
			_, err = f.WriteAt(Random(r, 4096), 64<<10)
		case "sparse":
			_, err = f.WriteAt(Random(r, 10000), 1<<20)
			ok(err)
			_, err = f.WriteAt(Random(r, 100), 20<<20)
		case "ends in a hole":
			if _, err = f.WriteAt(Random(r, 5000), 0); err == nil {
				err = f.Truncate(10 << 20)
			}
		case "all hole":
			err = f.Truncate(5 << 20)
		}
		ok(err)
		ok(f.Close())
	}
	ok(d.Symlink("sub/small1", "link"))
	ok(d.Symlink("/nowhere/"+strings.Repeat("x", 200), "dangling"))
	ok(d.Link("size5000", sub, "another name"))
	ok(d.Link("sparse", deep, "another sparse"))
	ok(d.Mknod("fifo", unix.S_IFIFO|0o620, 0))
	ok(d.SetxattrAt("size1", "user.comment", []byte("a\x00b\n=c"), 0))
	ok(d.SetxattrAt("sub", "user.dir", []byte("value"), 0))
	ok(d.ChmodAt("size3968", 0o4751))
	ok(d.UtimesAt("link", backing.Timespec{Sec: 5}, backing.Timespec{Sec: 1e9, Nsec: 123456789}))
	ok(d.UtimesAt("size1", backing.Timespec{Sec: 5}, backing.Timespec{Sec: -100, Nsec: 5}))
	if tree.Owners() {
		ok(d.ChownAt("size4096", 12, 34))
		ok(d.ChownAt("link", 56, 78))
		ok(d.Mknod("device", unix.S_IFCHR|0o600, unix.Mkdev(1, 3)))
		ok(d.SetxattrAt("size3968", "trusted.t", []byte("t"), 0))
	}
	ok(d.UtimesAt("empty", backing.Timespec{Sec: 5}, backing.Timespec{Sec: 1234567890, Nsec: 987654321}))
}

// Random is size random bytes.
func Random(r *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// WriteFile makes name in d with that content, in place of what is there.
func WriteFile(t testing.TB, d backing.Dir, name string, content []byte) {
	t.Helper()
	f, err := d.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
}

// Describe has a line for each object below d: its path, type, mode, owner, time, attributes, content and which others it is
// the same file as.
func Describe(t testing.TB, d backing.Dir) []string {
	t.Helper()
	s := &description{t: t, first: map[[2]uint64]string{}}
	s.dir(d, "")
	return s.lines
}

type description struct {
	t     testing.TB
	lines []string
	first map[[2]uint64]string
}

func (s *description) dir(d backing.Dir, path string) {
	s.t.Helper()
	names, err := tree.List(d)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		if path == "" && name == "lost+found" {
			continue
		}
		p := tree.Join(path, name)
		st, err := d.StatAt(name)
		if err != nil {
			s.t.Fatal(p, err)
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", p, st.Mode, st.UID, st.GID, st.Mtim.Sec, st.Mtim.Nsec)
		x, err := tree.ReadXattrs(tree.Named(d, name))
		if err != nil {
			s.t.Fatal(p, err)
		}
		var attrs []string
		for name, value := range x {
			attrs = append(attrs, fmt.Sprintf("%s=%q", name, value))
		}
		slices.Sort(attrs)
		line += " " + strings.Join(attrs, " ")
		if !tree.IsDir(&st) && st.Nlink > 1 {
			at := [2]uint64{st.Dev, st.Ino}
			if other, ok := s.first[at]; ok {
				line += " is " + other
			} else {
				s.first[at] = p
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			s.lines = append(s.lines, line)
			sub, err := d.OpenDir(name)
			if err != nil {
				s.t.Fatal(p, err)
			}
			s.dir(sub, p)
			sub.Close()
			continue
		case unix.S_IFLNK:
			to, err := d.Readlink(name)
			if err != nil {
				s.t.Fatal(p, err)
			}
			line += " -> " + to
		case unix.S_IFREG:
			line += s.content(d, name, st.Size)
		default:
			line += fmt.Sprint(" device ", st.Rdev)
		}
		s.lines = append(s.lines, line)
	}
}

// content is the size, a checksum and whether there are holes.
func (s *description) content(d backing.Dir, name string, size int64) string {
	f, err := d.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		s.t.Fatal(name, err)
	}
	defer f.Close()
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil || int64(n) != size {
		s.t.Fatal(name, n, err)
	}
	list, err := tree.Extents(f, size)
	if err != nil {
		s.t.Fatal(name, err)
	}
	data := int64(0)
	for _, x := range list {
		data += x.Len
	}
	holes := ""
	if size-data > 1<<20 {
		holes = " with holes"
	}
	return fmt.Sprintf(" %d bytes %08x%s", size, crc32.ChecksumIEEE(b), holes)
}

// Same compares two trees.
func Same(t testing.TB, got, want backing.Dir) {
	t.Helper()
	Equal(t, Describe(t, got), Describe(t, want))
}

// Equal compares two descriptions.
func Equal(t testing.TB, got, want []string) {
	t.Helper()
	shown := 0
	for _, line := range want {
		if !slices.Contains(got, line) && shown < 20 {
			t.Errorf("missing: %s", line)
			shown++
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) && shown < 40 {
			t.Errorf("instead: %s", line)
			shown++
		}
	}
}
