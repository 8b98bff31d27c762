package posix

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// VirtualXattrs is the prefix of the names that kmsfs answers itself; no other file system has them.
const VirtualXattrs = "user.kmsfs"

// Tree is what a snapshot saw: every path and what stands there.
type Tree map[string]Node

// Node is one file, of any type. Fields that file systems are free to choose are left out: times that nobody set,
// sizes and link counts of directories, inode numbers, blocks.
type Node struct {
	Mode     uint32
	Nlink    uint32 // 0 for directories
	UID, GID uint32
	Rdev     uint64
	Size     int64  // 0 for directories
	Mtime    Time   // zero if recent
	Content  string // hash of a regular file, target of a symbolic link
	First    string // the first path in order that is the same file
	Xattrs   map[string]string
}

// Options say what a snapshot leaves out.
type Options struct {
	// SkipContent leaves out the hash and size of the paths for which it is true: files that hold inode numbers or
	// times, as git's index does.
	SkipContent func(path string) bool
	// SkipTimes leaves out all times.
	SkipTimes bool
}

// Snapshot reads the whole tree. Every error fails it: a file that cannot be read is a finding.
func Snapshot(fs FS, o Options) (Tree, error) {
	s := snapshotter{fs: fs, o: o, tree: Tree{}, first: map[uint64]string{}}
	if err := s.visit("."); err != nil {
		return nil, err
	}
	return s.tree, nil
}

type snapshotter struct {
	fs    FS
	o     Options
	tree  Tree
	first map[uint64]string
}

func (s *snapshotter) visit(path string) error {
	n, err := s.node(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.tree[path] = n
	if n.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	entries, err := s.fs.ReadDir(path)
	if err != nil {
		return fmt.Errorf("%s: readdir: %w", path, err)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	for i, e := range entries {
		if i > 0 && e.Name == entries[i-1].Name {
			return fmt.Errorf("%s: %q is listed twice", path, e.Name)
		}
		child := strings.TrimPrefix(path+"/"+e.Name, "./")
		if err := s.visit(child); err != nil {
			return err
		}
		if kind := s.tree[child].Mode & unix.S_IFMT; e.Kind != 0 && e.Kind != kind {
			return fmt.Errorf("%s: readdir says type %#o, stat %#o", child, e.Kind, kind)
		}
	}
	return nil
}

func (s *snapshotter) node(path string) (Node, error) {
	st, err := s.fs.Stat(path)
	if err != nil {
		return Node{}, fmt.Errorf("stat: %w", err)
	}
	n := Node{Mode: st.Mode, UID: st.UID, GID: st.GID, Rdev: st.Rdev, First: path}
	if !s.o.SkipTimes && !st.Mtime.Recent() {
		n.Mtime = st.Mtime
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR {
		n.Nlink, n.Size = st.Nlink, st.Size
		if first, ok := s.first[st.Ino]; ok && st.Nlink > 1 {
			n.First = first
		}
		s.first[st.Ino] = n.First
	}
	switch {
	case kind == unix.S_IFLNK:
		if n.Content, err = s.fs.Readlink(path); err != nil {
			return n, fmt.Errorf("readlink: %w", err)
		}
	case kind == unix.S_IFREG && s.o.SkipContent != nil && s.o.SkipContent(path):
		n.Size = 0
	case kind == unix.S_IFREG:
		if n.Content, err = s.hash(path, st.Size); err != nil {
			return n, fmt.Errorf("read: %w", err)
		}
	}
	n.Xattrs, err = Xattrs(s.fs, path)
	return n, err
}

// hash reads the file to its end, which must be where stat said.
func (s *snapshotter) hash(path string, size int64) (string, error) {
	f, err := s.fs.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, io.NewSectionReader(readerAt{f}, 0, 1<<62), make([]byte, 1<<20))
	if err != nil {
		return "", err
	}
	if n != size {
		return "", fmt.Errorf("read %d bytes, stat says %d", n, size)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// readerAt makes an io.ReaderAt of a File.
type readerAt struct{ f File }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		m, err := r.f.Pread(p[n:], off+int64(n))
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
		n += m
	}
	return len(p), nil
}

// Xattrs returns the extended attributes of path with their values, but for the virtual ones.
func Xattrs(fs FS, path string) (map[string]string, error) {
	names, err := fs.Listxattr(path)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr: %w", err)
	}
	var m map[string]string
	for _, name := range names {
		if strings.HasPrefix(name, VirtualXattrs) {
			continue
		}
		v, err := fs.Getxattr(path, name)
		if err != nil {
			return nil, fmt.Errorf("getxattr %s: %w", name, err)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[name] = string(v)
	}
	return m, nil
}

// Diff says in words where o differs from t; empty when they agree.
func (t Tree) Diff(o Tree) []string {
	var d []string
	for _, path := range slices.Sorted(maps.Keys(t)) {
		want := t[path]
		got, ok := o[path]
		if !ok {
			d = append(d, fmt.Sprintf("%s: missing", path))
			continue
		}
		if w, g := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got); w != g {
			d = append(d, fmt.Sprintf("%s:\n\twant %s\n\tgot  %s", path, clip(w), clip(g)))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(o)) {
		if _, ok := t[path]; !ok {
			d = append(d, fmt.Sprintf("%s: not expected", path))
		}
	}
	return d
}

// clip shortens the middle of long attribute values and link targets.
func clip(s string) string {
	const most = 600
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes) ...%q", s[:most/2], len(s), s[len(s)-most/2:])
}
