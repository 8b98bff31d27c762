package tree_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/tree/treetest"
)

func TestSplit(t *testing.T) {
	for path, want := range map[string]string{"": "", "/": "", ".": "", "a": "a", "/a//b/": "a|b", "a/./b": "a|b", "..": "!", "a/../b": "!", "a/..b": "a|..b"} {
		parts, err := tree.Split(path)
		got := strings.Join(parts, "|")
		if errors.Is(err, syscall.EINVAL) {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: got %q, %v; want %q", path, got, err, want)
		}
	}
}

// No symbolic link is followed on the way, nor at the end.
func TestFind(t *testing.T) {
	d, path := treetest.Plain(t)
	if err := errors.Join(os.MkdirAll(filepath.Join(path, "a/b"), 0o755), os.WriteFile(filepath.Join(path, "a/b/c"), []byte("x"), 0o600),
		os.Symlink("a", filepath.Join(path, "l")), os.Symlink("b/c", filepath.Join(path, "a/m"))); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]error{"a/b/c": nil, "": nil, "l": nil, "l/b": syscall.ENOTDIR, "a/m": nil, "a/x": syscall.ENOENT, "a/b/c/d": syscall.ENOTDIR} {
		at, err := tree.Find(d, p)
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", p, err, want)
		}
		if err == nil {
			if p == "l" && at.Stat.Mode&unix.S_IFMT != unix.S_IFLNK {
				t.Errorf("%s was followed", p)
			}
			at.Dir.Close()
		}
	}
}

// After a failure the name is what it was, and nothing else is left.
func TestPutFails(t *testing.T) {
	d, _ := treetest.Plain(t)
	treetest.WriteFile(t, d, "name", []byte("old"))
	want := treetest.Describe(t, d)
	failed := errors.New("failed")
	err := tree.PutFile(d, "name", func(f backing.File) error {
		f.WriteAt([]byte("half"), 0)
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	treetest.Equal(t, treetest.Describe(t, d), want)
	if err := d.Mkdir("dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tree.PutFile(d, "dir", func(backing.File) error { return nil }); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("over a directory: got %v", err)
	}
	if names, _ := tree.List(d); !slices.Equal(names, []string{"dir", "name"}) {
		t.Errorf("left: %q", names)
	}
}

// A file that is shorter than it was said to be is an error, not a copy with something else at its end.
func TestCutOff(t *testing.T) {
	d, _ := treetest.Plain(t)
	content := treetest.Random(rand.New(rand.NewPCG(1, 2)), 3<<20)
	treetest.WriteFile(t, d, "src", content)
	treetest.WriteFile(t, d, "dst", nil)
	open := func(name string) backing.File {
		f, err := d.Open(name, unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	src, dst := open("src"), open("dst")
	var c tree.Copier
	for _, size := range []int64{3<<20 + 1, 8 << 20} {
		if err := c.Stream(t.Context(), io.Discard, src, tree.Extent{Off: 0, Len: size}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("stream of %d: got %v", size, err)
		}
		if _, err := c.Patch(t.Context(), dst, src, size); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("patch to %d: got %v", size, err)
		}
	}
	var told int64
	c.Progress = func(n int64) { told += n }
	n, err := c.Patch(t.Context(), dst, src, 3<<20)
	if err != nil || told != 3<<20 {
		t.Errorf("wrote %d, told of %d, %v", n, told, err)
	}
	if same, err := c.Same(t.Context(), dst, src, 3<<20); !same || err != nil {
		t.Errorf("same: %v, %v", same, err)
	}
}
