package tree

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// Xattrs are extended attributes by name.
type Xattrs map[string][]byte

// Object is what the attributes of one object are reached by: an open one (backing.Meta), or a name ([Named]).
type Object interface {
	Getxattr(attr string, buf []byte) (int, error)
	Setxattr(attr string, value []byte, flags int) error
	Removexattr(attr string) error
	Listxattr(buf []byte) (int, error)
	Chmod(mode uint32) error
	Chown(uid, gid uint32) error
	Utimes(atime, mtime backing.Timespec) error
}

// Named is name in a directory as an Object.
func Named(d backing.Dir, name string) Object { return named{d, name} }

type named struct {
	d    backing.Dir
	name string
}

func (n named) Getxattr(attr string, buf []byte) (int, error) {
	return n.d.GetxattrAt(n.name, attr, buf)
}
func (n named) Setxattr(attr string, value []byte, flags int) error {
	return n.d.SetxattrAt(n.name, attr, value, flags)
}
func (n named) Removexattr(attr string) error      { return n.d.RemovexattrAt(n.name, attr) }
func (n named) Listxattr(buf []byte) (int, error)  { return n.d.ListxattrAt(n.name, buf) }
func (n named) Chmod(mode uint32) error            { return n.d.ChmodAt(n.name, mode) }
func (n named) Chown(uid, gid uint32) error        { return n.d.ChownAt(n.name, uid, gid) }
func (n named) Utimes(a, m backing.Timespec) error { return n.d.UtimesAt(n.name, a, m) }

// attrMost is more than the kernel allows for a list of attributes or a value.
const attrMost = 64 << 10

// ReadXattrs returns the extended attributes of o that are copied: those of users, ACLs, and for root those that only root
// sees. A file system that has none has none.
func ReadXattrs(o Object) (Xattrs, error) {
	var few [256]byte
	buf := few[:]
	n, err := o.Listxattr(buf)
	if errors.Is(err, syscall.ERANGE) {
		buf = make([]byte, attrMost)
		n, err = o.Listxattr(buf)
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	x := Xattrs{}
	value := make([]byte, attrMost)
	for _, name := range bytes.Split(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0}) {
		if !Copied(string(name)) {
			continue
		}
		k, err := o.Getxattr(string(name), value)
		if errors.Is(err, syscall.ENODATA) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		x[string(name)] = bytes.Clone(value[:k])
	}
	return x, nil
}

// Copied says whether an attribute goes with a file: not labels that a system gives by itself, nor what a vault
// says of its files, which nobody sets.
func Copied(name string) bool {
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.kmsfs.") || name == "system.posix_acl_access" || name == "system.posix_acl_default" ||
		os.Geteuid() == 0 && (strings.HasPrefix(name, "trusted.") || name == "security.capability")
}

// Owners says whether owners are copied: root alone may give files away.
func Owners() bool { return os.Geteuid() == 0 }

// Mode is the mode of a copy of st. Who may not give files away makes the copy his own: it then has no setuid or setgid bit that was
// for another owner or group, or all who may run it could do so as him.
func Mode(st *backing.Stat) uint32 {
	mode := st.Mode & 0o7777
	if Owners() || IsDir(st) {
		return mode
	}
	if st.UID != uint32(os.Geteuid()) {
		mode &^= unix.S_ISUID
	}
	if st.GID != uint32(os.Getegid()) {
		mode &^= unix.S_ISGID
	}
	return mode
}

// SetAttrs gives o the owner, mode, attributes and times of st and x. Attributes that o has and x has not are removed, also from
// what is new: a directory may give ACLs to what is made in it. Symbolic links have no mode.
func SetAttrs(o Object, st *backing.Stat, x Xattrs, age Age) error {
	link := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if Owners() {
		if err := o.Chown(st.UID, st.GID); err != nil { // which takes capabilities and setuid away
			return err
		}
	} else if age == Old && !link { // attributes are set by who may write
		if err := o.Chmod(Mode(st) | 0o200); err != nil {
			return err
		}
	}
	if err := setXattrs(o, x); err != nil {
		return err
	}
	if !link {
		if err := o.Chmod(Mode(st)); err != nil {
			return err
		}
	}
	return o.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, st.Mtim)
}

// Age says whether an object was there before.
type Age uint8

// The two ages.
const (
	New Age = iota
	Old
)

func setXattrs(o Object, x Xattrs) error {
	old, err := ReadXattrs(o)
	if err != nil {
		return err
	}
	for name := range old {
		if _, ok := x[name]; !ok {
			if err := o.Removexattr(name); err != nil && !errors.Is(err, syscall.ENODATA) {
				return err
			}
		}
	}
	for name, value := range x {
		if had, ok := old[name]; ok && bytes.Equal(had, value) {
			continue
		}
		if err := o.Setxattr(name, value, 0); err != nil {
			return err
		}
	}
	return nil
}

// SameXattrs says whether two objects have the same attributes.
func SameXattrs(a, b Xattrs) bool {
	if len(a) != len(b) {
		return false
	}
	for name, value := range a {
		if other, ok := b[name]; !ok || !bytes.Equal(value, other) {
			return false
		}
	}
	return true
}
