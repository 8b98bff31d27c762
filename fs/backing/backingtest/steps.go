package backingtest

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// steps are the operations of Compare; those that stand twice are done twice as often.
var steps = []func(*comparison){
	stepOpen, stepOpen, stepOpen, stepOpenDir, stepCloseFile, stepCloseDir, stepTmpfile,
	stepWrite, stepWrite, stepWrite, stepRead, stepRead, stepTruncate, stepAllocate, stepSeek, stepSeek, stepCopy,
	stepMkdir, stepMkdir, stepMknod, stepSymlink, stepReadlink, stepUnlink, stepUnlink, stepRmdir, stepRename, stepRename,
	stepLink, stepLinkFile, stepStat, stepStat, stepStatHandle, stepReadDir,
	stepChmod, stepChown, stepUtimes, stepSetxattr, stepSetxattr, stepGetxattr, stepRemovexattr, stepListxattr,
	stepHandleAttr, stepSync, stepLock,
}

func (c *comparison) keepFile(a, b backing.File) {
	c.files = append(c.files, two[backing.File]{a, b})
	if len(c.files) > 12 {
		_, _ = c.files[0].a.Close(), c.files[0].b.Close()
		c.files = c.files[1:]
	}
}

func stepOpen(c *comparison) {
	d, i := c.dir()
	name, mode := c.name(), pick(c, uint32(0o644), 0o600, 0o4755)
	flags := pick(c, unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY) | pick(c, 0, unix.O_CREAT, unix.O_CREAT, unix.O_CREAT|unix.O_EXCL) |
		pick(c, 0, 0, 0, unix.O_TRUNC, unix.O_SYNC, unix.O_APPEND)
	what := fmt.Sprintf("open %d/%s flags %#x mode %o", i, name, flags, mode)
	fa, sa, errA := d.a.OpenStat(name, flags, mode)
	fb, sb, errB := d.b.OpenStat(name, flags, mode)
	if c.same(what, statLine(sa, errA), statLine(sb, errB), errA, errB) {
		c.keepFile(fa, fb)
	}
}

func stepOpenDir(c *comparison) {
	d, i := c.dir()
	name := c.name()
	da, errA := d.a.OpenDir(name)
	db, errB := d.b.OpenDir(name)
	if c.does(fmt.Sprintf("opendir %d/%s = %d", i, name, len(c.dirs)), errA, errB) {
		c.dirs = append(c.dirs, two[backing.Dir]{da, db})
	}
}

func stepCloseFile(c *comparison) {
	if f, i, ok := c.file(); ok {
		c.files = slices.Delete(c.files, i, i+1)
		c.does(fmt.Sprintf("close file %d", i), f.a.Close(), f.b.Close())
	}
}

func stepCloseDir(c *comparison) {
	if d, i := c.dir(); i > 0 && len(c.dirs) > 5 {
		c.dirs = slices.Delete(c.dirs, i, i+1)
		c.does(fmt.Sprintf("close dir %d", i), d.a.Close(), d.b.Close())
	}
}

func stepTmpfile(c *comparison) {
	d, i := c.dir()
	if st, err := d.a.Stat(); err != nil || st.Nlink == 0 {
		return // ext4 says EPERM, tmpfs and others make one
	}
	fa, errA := d.a.Tmpfile(0o600)
	fb, errB := d.b.Tmpfile(0o600)
	if c.does(fmt.Sprintf("tmpfile %d", i), errA, errB) {
		c.keepFile(fa, fb)
	}
}

func stepWrite(c *comparison) {
	f, i, ok := c.file()
	if !ok {
		return
	}
	off, buf := c.offset(), make([]byte, c.length())
	for j := range buf {
		buf[j] = byte(c.Uint32())
	}
	cut := c.IntN(len(buf) + 1)
	bufs := [][]byte{buf[:cut], buf[cut:]}
	na, errA := f.a.WritevAt(bufs, off)
	nb, errB := f.b.WritevAt(bufs, off)
	c.same(fmt.Sprintf("write file %d at %d of %d", i, off, len(buf)), fmt.Sprint(na), fmt.Sprint(nb), errA, errB)
}

func stepRead(c *comparison) {
	f, i, ok := c.file()
	if !ok {
		return
	}
	off, n := c.offset(), c.length()
	read := func(f backing.File) (string, error) {
		buf := make([]byte, n)
		m, err := f.ReadAt(buf, off)
		return fmt.Sprintf("%d bytes, crc %08x", m, crc32.ChecksumIEEE(buf[:m])), err
	}
	a, errA := read(f.a)
	b, errB := read(f.b)
	c.same(fmt.Sprintf("read file %d at %d of %d", i, off, n), a, b, errA, errB)
}

func stepTruncate(c *comparison) {
	if f, i, ok := c.file(); ok {
		size := c.offset()
		c.does(fmt.Sprintf("truncate file %d to %d", i, size), f.a.Truncate(size), f.b.Truncate(size))
	}
}

func stepAllocate(c *comparison) {
	f, i, ok := c.file()
	if !ok {
		return
	}
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	mode := pick(c, uint32(punch|keep), punch|keep, punch|keep, 0, keep, zero, zero|keep, punch)
	if c.options.NoZeroRange && mode&zero != 0 {
		return
	}
	off, n := c.offset(), c.length()
	// A punch past the end frees the last block whole on ext4, and zeroes its part on tmpfs.
	if st, err := f.a.Stat(); err == nil && (mode&punch == 0 || off+n >= st.Size) {
		c.unwritten[st.Ino] = true
	}
	c.does(fmt.Sprintf("allocate file %d mode %d at %d of %d", i, mode, off, n), f.a.Allocate(mode, off, n), f.b.Allocate(mode, off, n))
}

func stepSeek(c *comparison) {
	f, i, ok := c.file()
	if !ok {
		return
	}
	if st, err := f.a.Stat(); err != nil || c.unwritten[st.Ino] {
		return
	}
	off, whence := c.offset(), pick(c, unix.SEEK_DATA, unix.SEEK_HOLE)
	pa, errA := f.a.Seek(off, whence)
	pb, errB := f.b.Seek(off, whence)
	c.same(fmt.Sprintf("seek file %d whence %d from %d", i, whence, off), fmt.Sprint(pa), fmt.Sprint(pb), errA, errB)
}

func stepCopy(c *comparison) {
	f, i, ok := c.file()
	if !ok {
		return
	}
	g, j, _ := c.file()
	if st, err := f.a.Stat(); err == nil && c.unwritten[st.Ino] {
		if st, err := g.a.Stat(); err == nil {
			c.unwritten[st.Ino] = true
		}
	}
	off, to, n := c.offset(), c.offset(), c.length()
	na, errA := f.a.CopyRange(g.a, off, to, n)
	nb, errB := f.b.CopyRange(g.b, off, to, n)
	c.same(fmt.Sprintf("copy file %d at %d to file %d at %d of %d", i, off, j, to, n), fmt.Sprint(na), fmt.Sprint(nb), errA, errB)
}

func stepMkdir(c *comparison) {
	d, i := c.dir()
	name, mode := c.name(), pick(c, uint32(0o755), 0o700, 0o6777)
	c.does(fmt.Sprintf("mkdir %d/%s mode %o", i, name, mode), d.a.Mkdir(name, mode), d.b.Mkdir(name, mode))
}

func stepMknod(c *comparison) {
	d, i := c.dir()
	name, mode := c.name(), pick(c, uint32(unix.S_IFIFO), unix.S_IFSOCK, unix.S_IFREG, 0, unix.S_IFDIR, unix.S_IFLNK)|0o640
	c.does(fmt.Sprintf("mknod %d/%s mode %o", i, name, mode), d.a.Mknod(name, mode, 0), d.b.Mknod(name, mode, 0))
}

func stepSymlink(c *comparison) {
	d, i := c.dir()
	name, target := c.name(), strings.Repeat("t", c.IntN(100))
	c.does(fmt.Sprintf("symlink %d/%s", i, name), d.a.Symlink(target, name), d.b.Symlink(target, name))
}

func stepReadlink(c *comparison) {
	d, i := c.dir()
	name := c.name()
	a, errA := d.a.Readlink(name)
	b, errB := d.b.Readlink(name)
	c.same(fmt.Sprintf("readlink %d/%s", i, name), a, b, errA, errB)
}

func stepUnlink(c *comparison) {
	d, i := c.dir()
	name := c.name()
	c.does(fmt.Sprintf("unlink %d/%s", i, name), d.a.Unlink(name), d.b.Unlink(name))
}

func stepRmdir(c *comparison) {
	d, i := c.dir()
	name := c.name()
	c.does(fmt.Sprintf("rmdir %d/%s", i, name), d.a.Rmdir(name), d.b.Rmdir(name))
}

func stepRename(c *comparison) {
	d, i := c.dir()
	e, j := c.dir()
	name, to := c.name(), c.name()
	flags := pick(c, uint32(0), 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, 3, 4)
	c.does(fmt.Sprintf("rename %d/%s to %d/%s flags %d", i, name, j, to, flags), d.a.Rename(name, e.a, to, flags), d.b.Rename(name, e.b, to, flags))
}

func stepLink(c *comparison) {
	d, i := c.dir()
	e, j := c.dir()
	name, to := c.name(), c.name()
	c.does(fmt.Sprintf("link %d/%s to %d/%s", i, name, j, to), d.a.Link(name, e.a, to), d.b.Link(name, e.b, to))
}

func stepLinkFile(c *comparison) {
	if f, i, ok := c.file(); ok {
		d, j := c.dir()
		name := c.name()
		c.does(fmt.Sprintf("link file %d to %d/%s", i, j, name), d.a.LinkFile(f.a, name), d.b.LinkFile(f.b, name))
	}
}

func stepLock(c *comparison) {
	d, i := c.dir()
	name, mode := c.name(), pick(c, backing.LockExclusive, backing.LockShared)
	fa, errA := d.a.Lock(name, mode)
	fb, errB := d.b.Lock(name, mode)
	if c.does(fmt.Sprintf("lock %d/%s mode %d", i, name, mode), errA, errB) {
		c.keepFile(fa, fb)
	}
}

func stepSync(c *comparison) {
	if f, i, ok := c.file(); ok && c.IntN(10) == 0 {
		c.does(fmt.Sprintf("sync file %d", i), f.a.Sync(), f.b.Sync())
	}
}
