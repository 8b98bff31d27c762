package backingtest

import (
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// The operations of Compare on attributes and lists.

func stepStat(c *comparison) {
	d, i := c.dir()
	name := c.name()
	a, errA := d.a.StatAt(name)
	b, errB := d.b.StatAt(name)
	c.same(fmt.Sprintf("stat %d/%s", i, name), statLine(a, errA), statLine(b, errB), errA, errB)
}

// object is an open file or directory.
func (c *comparison) object() (a, b backing.Meta, what string) {
	if f, i, ok := c.file(); ok && c.IntN(3) > 0 {
		return f.a, f.b, fmt.Sprintf("file %d", i)
	}
	d, i := c.dir()
	return d.a, d.b, fmt.Sprintf("dir %d", i)
}

func stepStatHandle(c *comparison) {
	oa, ob, what := c.object()
	a, errA := oa.Stat()
	b, errB := ob.Stat()
	c.same("stat "+what, statLine(a, errA), statLine(b, errB), errA, errB)
}

func stepReadDir(c *comparison) {
	d, i := c.dir()
	a, errA := entries(d.a)
	b, errB := entries(d.b)
	c.same(fmt.Sprintf("readdir %d", i), strings.Join(a, " "), strings.Join(b, " "), errA, errB)
}

// entries returns names and kinds, sorted.
func entries(d backing.Dir) ([]string, error) {
	var s []string
	err := d.ReadDir(func(e backing.Entry) bool { s = append(s, fmt.Sprintf("%s %o", e.Name, e.Kind)); return true })
	slices.Sort(s)
	return s, err
}

// mode is never that of a sticky directory that others may write: there the sysctls fs.protected_* add EACCES.
func (c *comparison) mode() uint32 {
	return pick(c, uint32(0o644), 0o600, 0o4711, 0o2755, 0o1755, 0o6755, 0)
}
func (c *comparison) id() uint32 { return pick(c, ^uint32(0), 0, 7, 100000) }

// time is a moment before what statLine takes for set, or a special one.
func (c *comparison) time() backing.Timespec {
	return pick(c, backing.Timespec{Sec: c.Int64N(1e8), Nsec: c.Int64N(1e9)}, backing.Timespec{Nsec: backing.UtimeOmit},
		backing.Timespec{Nsec: backing.UtimeNow}, backing.Timespec{Sec: 1, Nsec: pick(c, int64(1e9), -1, 0)})
}

func stepChmod(c *comparison) {
	d, i := c.dir()
	name, mode := c.name(), c.mode()
	c.does(fmt.Sprintf("chmod %d/%s %o", i, name, mode), d.a.ChmodAt(name, mode), d.b.ChmodAt(name, mode))
}

func stepChown(c *comparison) {
	d, i := c.dir()
	name, uid, gid := c.name(), c.id(), c.id()
	c.does(fmt.Sprintf("chown %d/%s %d:%d", i, name, int32(uid), int32(gid)), d.a.ChownAt(name, uid, gid), d.b.ChownAt(name, uid, gid))
}

func stepUtimes(c *comparison) {
	d, i := c.dir()
	name, at, mt := c.name(), c.time(), c.time()
	c.does(fmt.Sprintf("utimes %d/%s %v %v", i, name, at, mt), d.a.UtimesAt(name, at, mt), d.b.UtimesAt(name, at, mt))
}

func stepHandleAttr(c *comparison) {
	a, b, what := c.object()
	switch c.IntN(4) {
	case 0:
		mode := c.mode()
		c.does(fmt.Sprintf("chmod %s %o", what, mode), a.Chmod(mode), b.Chmod(mode))
	case 1:
		uid, gid := c.id(), c.id()
		c.does(fmt.Sprintf("chown %s %d:%d", what, int32(uid), int32(gid)), a.Chown(uid, gid), b.Chown(uid, gid))
	case 2:
		at, mt := c.time(), c.time()
		c.does(fmt.Sprintf("utimes %s %v %v", what, at, mt), a.Utimes(at, mt), b.Utimes(at, mt))
	case 3:
		attr, value := c.attr(), c.value()
		c.does(fmt.Sprintf("setxattr %s %s", what, attr), a.Setxattr(attr, value, 0), b.Setxattr(attr, value, 0))
	}
}

func (c *comparison) attr() string {
	if c.IntN(10) == 0 {
		return pick(c, "", "user", "user.", "trusted.", "bad.a", "user."+strings.Repeat("x", 251), "user.\x00", "trusted.a")
	}
	return pick(c, "user.a", "user.b", "user.c", "trusted.b")
}

func (c *comparison) value() []byte { return []byte(strings.Repeat("v", c.IntN(50))) }

func stepSetxattr(c *comparison) {
	d, i := c.dir()
	name, attr, value, flags := c.name(), c.attr(), c.value(), pick(c, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE, 4)
	c.does(fmt.Sprintf("setxattr %d/%s %q flags %d", i, name, attr, flags),
		d.a.SetxattrAt(name, attr, value, flags), d.b.SetxattrAt(name, attr, value, flags))
}

func stepGetxattr(c *comparison) {
	d, i := c.dir()
	name, attr, size := c.name(), c.attr(), pick(c, 0, 10, 100)
	get := func(d backing.Dir) (string, error) {
		buf := make([]byte, size)
		n, err := d.GetxattrAt(name, attr, buf)
		return fmt.Sprintf("%d %s", n, buf[:min(n, size)]), err
	}
	a, errA := get(d.a)
	b, errB := get(d.b)
	c.same(fmt.Sprintf("getxattr %d/%s %q", i, name, attr), a, b, errA, errB)
}

func stepRemovexattr(c *comparison) {
	d, i := c.dir()
	name, attr := c.name(), c.attr()
	c.does(fmt.Sprintf("removexattr %d/%s %q", i, name, attr), d.a.RemovexattrAt(name, attr), d.b.RemovexattrAt(name, attr))
}

func stepListxattr(c *comparison) {
	d, i := c.dir()
	name := c.name()
	a, errA := listAttrs(d.a, name)
	b, errB := listAttrs(d.b, name)
	c.same(fmt.Sprintf("listxattr %d/%s", i, name), a, b, errA, errB)
}

func listAttrs(d backing.Dir, name string) (string, error) {
	buf := make([]byte, 1000)
	n, err := d.ListxattrAt(name, buf)
	list := strings.Split(string(buf[:n]), "\x00")
	slices.Sort(list)
	return strings.Join(list, " "), err
}

// tree writes a line for each object below d, the names after path.
func tree(w io.Writer, d backing.Dir, path string) error {
	list, err := entries(d)
	if err != nil {
		return err
	}
	for _, e := range list {
		name := e[:strings.LastIndex(e, " ")]
		st, err := d.StatAt(name)
		if err != nil {
			return err
		}
		attrs, err := listAttrs(d, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%q %s attrs %s", path+name, statLine(st, nil), attrs)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := d.Readlink(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, " -> %q", target)
		case unix.S_IFREG:
			f, err := d.Open(name, unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			buf := make([]byte, st.Size)
			_, err = f.ReadAt(buf, 0)
			_ = f.Close()
			if err != nil {
				return err
			}
			fmt.Fprintf(w, " crc %08x", crc32.ChecksumIEEE(buf))
		}
		fmt.Fprintln(w)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub, err := d.OpenDir(name)
			if err != nil {
				return err
			}
			err = tree(w, sub, path+name+"/")
			_ = sub.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}
