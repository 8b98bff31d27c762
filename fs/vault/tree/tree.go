// Package tree has what copying, archiving and listing of directory trees have in common. It knows directories as backing.Dir:
// plain ones, and by fs/vault/view the plaintext of a vault.
//
// Start with [Find] for one path, [List] for a directory, [Put] to make a file. No symbolic link is followed anywhere.
package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// At is an object in a tree: Name in Dir. Name is "" for the root, which is Dir itself.
type At struct {
	Dir  backing.Dir // the caller's to close
	Name string
	Stat backing.Stat
}

// Split returns the components of a slash-separated path from the root of a tree; "" and "/" have none. EINVAL for one with
// a component "..".
func Split(path string) ([]string, error) {
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%s: %w", path, syscall.EINVAL)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// OpenDir opens the directory at the end of parts below root.
func OpenDir(root backing.Dir, parts ...string) (backing.Dir, error) {
	d, err := root.Dup()
	for _, part := range parts {
		if err != nil {
			break
		}
		var next backing.Dir
		next, err = d.OpenDir(part)
		d.Close()
		d = next
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Find finds path below root.
func Find(root backing.Dir, path string) (At, error) {
	parts, err := Split(path)
	if err != nil {
		return At{}, err
	}
	if len(parts) == 0 {
		d, err := root.Dup()
		if err != nil {
			return At{}, err
		}
		st, err := d.Stat()
		if err != nil {
			d.Close()
			return At{}, err
		}
		return At{Dir: d, Stat: st}, nil
	}
	last := len(parts) - 1
	d, err := OpenDir(root, parts[:last]...)
	if err != nil {
		return At{}, err
	}
	st, err := d.StatAt(parts[last])
	if err != nil {
		d.Close()
		return At{}, err
	}
	return At{d, parts[last], st}, nil
}

// OpenDir opens a, which is a directory.
func (a At) OpenDir() (backing.Dir, error) {
	if a.Name == "" {
		return a.Dir.Dup()
	}
	return a.Dir.OpenDir(a.Name)
}

// IsDir says whether st is of a directory.
func IsDir(st *backing.Stat) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsFile says whether st is of a regular file.
func IsFile(st *backing.Stat) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

// List returns the names in d, sorted by bytes. With an error there may be more than those that it returns.
func List(d backing.Dir) ([]string, error) {
	var names []string
	err := d.ReadDir(func(e backing.Entry) bool {
		names = append(names, e.Name)
		return true
	})
	slices.Sort(names)
	return names, err
}

// Join is dir/name, without a slash where dir is the root, "".
func Join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Extent is a range of a file.
type Extent struct{ Off, Len int64 }

// Extents returns the ranges of f below size that hold data. A file that has as many blocks as its size takes, and a file system
// that knows no holes, has one of all: to look for holes in a vault reads all index blocks. io.ErrUnexpectedEOF where f is shorter.
func Extents(f backing.File, size int64) ([]Extent, error) {
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.Size < size:
		return nil, errShort(st.Size)
	case size > 0 && st.Blocks*512 >= size:
		return []Extent{{0, size}}, nil
	}
	var list []Extent
	for off := int64(0); off < size; {
		from, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
			return []Extent{{0, size}}, nil
		}
		if err != nil {
			return nil, err
		}
		to, err := f.Seek(from, unix.SEEK_HOLE)
		if err != nil && !errors.Is(err, syscall.ENXIO) { // cut off meanwhile
			return nil, err
		}
		if err != nil || to > size {
			to = size
		}
		if from >= size || to <= from {
			break
		}
		list = append(list, Extent{from, to - from})
		off = to
	}
	return list, nil
}
