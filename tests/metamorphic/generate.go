package metamorphic

import (
	"math/rand/v2"
	"strings"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/posix"
)

// Limits are what the file systems to compare allow; the zero value is ext4's with ea_inode.
type Limits struct {
	// MaxSymlink is the longest target of a symbolic link, 3000 if 0. xfs ends at 1024, and a sealed target is longer.
	MaxSymlink int
	// Unprivileged leaves every mode open to the owner, so that whoever is not root can still read the whole tree.
	Unprivileged bool
	// NoZeroRange leaves out FALLOC_FL_ZERO_RANGE, which tmpfs does not have.
	NoZeroRange bool
}

// Generate makes a list of n operations, the same from the same seed.
func Generate(seed uint64, n int, l Limits) []Op {
	if l.MaxSymlink == 0 {
		l.MaxSymlink = 3000
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), limits: l}
	choices, total := g.choices(), 0
	for _, c := range choices {
		total += c.weight
	}
	ops := make([]Op, 0, n)
	for range n {
		at := g.IntN(total)
		for _, c := range choices {
			if at -= c.weight; at < 0 {
				ops = append(ops, c.make())
				break
			}
		}
	}
	return ops
}

type generator struct {
	*rand.Rand
	limits Limits
}

// choice is one kind of operation and how often it is made.
type choice struct {
	weight int
	make   func() Op
}

func (g *generator) choices() []choice {
	return []choice{
		{12, g.open},
		{4, func() Op { return Op{Do: "mkdir", Path: g.dir(), Mode: g.mode()} }},
		{2, g.mknod},
		{3, g.symlink},
		{1, func() Op { return Op{Do: "readlink", Path: g.path()} }},
		{4, func() Op { return Op{Do: "link", Path: g.path(), Path2: g.path()} }},
		{4, func() Op { return Op{Do: "unlink", Path: g.path()} }},
		{2, func() Op { return Op{Do: "rmdir", Path: g.pick(g.dir, g.path)} }},
		{6, g.rename},
		{3, func() Op { return Op{Do: "readdir", Path: g.pick(g.dir, g.dir, g.path)} }},
		{5, func() Op { return Op{Do: "stat", Path: g.path()} }},
		{3, func() Op { return Op{Do: "chmod", Path: g.path(), Mode: g.mode()} }},
		{2, func() Op { return Op{Do: "chown", Path: g.path(), UID: g.owner(), GID: g.owner()} }},
		{3, func() Op { return Op{Do: "utimes", Path: g.path(), Atime: g.time(), Mtime: g.time()} }},
		{3, func() Op { return Op{Do: "truncate", Path: g.path(), Len: g.offset()} }},
		{3, g.setxattr},
		{2, func() Op { return Op{Do: "getxattr", Path: g.path(), Attr: g.attr()} }},
		{2, func() Op { return Op{Do: "listxattr", Path: g.path()} }},
		{2, func() Op { return Op{Do: "removexattr", Path: g.path(), Attr: g.attr()} }},

		{3, func() Op { return Op{Do: "close", FD: g.fd()} }},
		{8, func() Op { return Op{Do: "pread", FD: g.fd(), Off: g.offset(), Len: g.length()} }},
		{14, func() Op { return Op{Do: "pwrite", FD: g.fd(), Off: g.offset(), Len: g.length(), Seed: g.seed()} }},
		{6, func() Op { return Op{Do: "write", FD: g.fd(), Len: g.length(), Seed: g.seed()} }},
		{3, func() Op { return Op{Do: "mapread", FD: g.fd(), Off: g.offset(), Len: g.length()} }},
		{4, func() Op { return Op{Do: "mapwrite", FD: g.fd(), Off: g.offset(), Len: g.length(), Seed: g.seed()} }},
		{6, func() Op { return Op{Do: "ftruncate", FD: g.fd(), Len: g.offset()} }},
		{5, g.fallocate},
		{3, func() Op { return Op{Do: "holes", FD: g.fd()} }},
		{4, func() Op {
			return Op{Do: "copyrange", FD: g.fd(), FD2: g.fd(), Off: g.offset(), Off2: g.offset(), Len: g.length()}
		}},
		{5, func() Op { return Op{Do: "fstat", FD: g.fd()} }},
		{2, func() Op { return Op{Do: "fchmod", FD: g.fd(), Mode: g.mode()} }},
		{1, func() Op { return Op{Do: "fchown", FD: g.fd(), UID: g.owner(), GID: g.owner()} }},
		{2, func() Op { return Op{Do: "futimes", FD: g.fd(), Atime: g.time(), Mtime: g.time()} }},
		{2, func() Op { o := g.setxattr(); o.Do, o.Path, o.FD = "fsetxattr", "", g.fd(); return o }},
		{2, func() Op { return Op{Do: "fgetxattr", FD: g.fd(), Attr: g.attr()} }},
		{2, func() Op { return Op{Do: "fsync", FD: g.fd()} }},
		{2, func() Op { return Op{Do: "fdatasync", FD: g.fd()} }},
		{1, func() Op { return Op{Do: "remount"} }},
	}
}

// one returns one of the values.
func one[T any](g *generator, values ...T) T { return values[g.IntN(len(values))] }

func (g *generator) pick(from ...func() Name) Name { return one(g, from...)() }

func (g *generator) fd() int      { return g.IntN(slots) }
func (g *generator) seed() uint64 { return uint64(g.Uint32()) }
func (g *generator) owner() int   { return one(g, -1, -1, 0, 1000, 65534) }

// dir is a directory's path: there are few, so that they meet.
func (g *generator) dir() Name {
	return one(g, Name("."), ".", "d0", "d0", "d1", "d0/d1", "d1/d0", "d0/d1/"+Name(longest))
}

// path is any path: mostly plain, sometimes strange, sometimes wrong.
func (g *generator) path() Name {
	if g.IntN(12) == 0 {
		return g.dir()
	}
	dir := g.dir()
	name := one(g, Name("f0"), "f0", "f1", "f1", "f2", "f3")
	if g.IntN(8) == 0 {
		name = Name(one(g, "-", " a\nb\t", "\xff\xfe\x01", "héλ漢", ".kmsfs", ".kmsfs.dir", "...",
			longest, strings.Repeat("é", 127)+"x", longest+"y", // 255, 255 and 256 bytes
			strings.Repeat("n", 100), strings.Repeat("m", 180), "f0/x", "f1/", "l0"))
	}
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// longest is a name of 255 bytes.
const longest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" +
	"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" +
	"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"

// offset is a size or a position: near the edges of blocks, chunks and groups, seldom beyond a megabyte.
func (g *generator) offset() int64 {
	edge := one(g, int64(0), 0, 0, 1, 100, 3968, 3968, 4096, 4096, 8192, 12288, 64<<10, 258048, 258048, 262144, 516096)
	if g.IntN(16) == 0 {
		edge = one(g, int64(1<<20), 3<<20, 20*258048)
	}
	return max(0, edge+one(g, int64(0), 0, 0, -1, 1, -100, 17, 2048))
}

// length is how much to read or write at once.
func (g *generator) length() int64 {
	n := one(g, int64(1), 1, 7, 100, 200, 1000, 3967, 3968, 3969, 4095, 4096, 4096, 4097, 8192, 20000, 65536)
	if g.IntN(12) == 0 {
		n = one(g, int64(0), 258048, 258049, 262144, 300_000, 1<<20)
	}
	return n
}

// time is a moment far from the present, or one of the marks.
func (g *generator) time() *posix.Time {
	return one(g,
		&posix.Time{Sec: g.Int64N(1 << 30), Nsec: g.Int64N(1e9)},
		&posix.Time{Sec: 2_000_000_000 + g.Int64N(1<<26), Nsec: one(g, 0, 1, 999_999_999, g.Int64N(1e9))},
		&posix.Time{Nsec: posix.UtimeNow},
		&posix.Time{Nsec: posix.UtimeOmit})
}

func (g *generator) mode() uint32 {
	m := one(g, uint32(0o644), 0o755, 0o600, 0o777, 0o666, 0o700, 0o4755, 0o2755, 0o6777, 0o2644, 0o1777, 0o710)
	if g.limits.Unprivileged {
		m |= 0o700
	}
	return m
}

func (g *generator) attr() string {
	return one(g, "user.a", "user.a", "user.b.c", "user."+longest[:200], "trusted.t", "nonsense")
}

func (g *generator) open() Op {
	flags := one(g, unix.O_RDWR, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY, unix.O_RDONLY)
	for _, f := range []struct{ flag, in int }{
		{unix.O_APPEND, 8}, {unix.O_TRUNC, 8}, {unix.O_NOFOLLOW, 10}, {unix.O_SYNC, 16}, {unix.O_DSYNC, 16},
	} {
		if g.IntN(f.in) == 0 {
			flags |= f.flag
		}
	}
	path := g.path()
	switch g.IntN(12) {
	case 0, 1, 2, 3, 4:
		flags |= unix.O_CREAT
	case 5:
		flags |= unix.O_CREAT | unix.O_EXCL
	case 6:
		flags |= unix.O_DIRECTORY
	case 7:
		flags, path = unix.O_RDONLY|unix.O_DIRECTORY, g.dir()
	}
	return Op{Do: "open", FD: g.fd(), Path: path, Flags: flags, Mode: g.mode()}
}

func (g *generator) mknod() Op {
	return Op{Do: "mknod", Path: g.path(),
		Mode: one(g, uint32(unix.S_IFIFO), unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFREG) | 0o644,
		Dev:  unix.Mkdev(uint32(g.IntN(4000)), uint32(g.IntN(1<<20)))}
}

func (g *generator) symlink() Op {
	o := Op{Do: "symlink", Path: g.path(), Path2: one(g, Name("f0"), "f1", "d0", "d0/f0", "l0", "nowhere", ".")}
	if g.IntN(3) == 0 {
		o.Path = "l0"
	}
	if g.IntN(3) == 0 {
		o.Repeat = one(g, 1, 100, 127, g.limits.MaxSymlink/4, g.limits.MaxSymlink/2-4)
	}
	return o
}

func (g *generator) rename() Op {
	return Op{Do: "rename", Path: g.path(), Path2: g.path(),
		Flags: one(g, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE)}
}

func (g *generator) setxattr() Op {
	return Op{Do: "setxattr", Path: g.path(), Attr: g.attr(), Seed: g.seed(),
		Len:   one(g, int64(0), 1, 20, 100, 100, 700, 3000),
		Flags: one(g, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)}
}

func (g *generator) fallocate() Op {
	modes := []uint32{0, unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}
	if !g.limits.NoZeroRange {
		modes = append(modes, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE)
	}
	return Op{Do: "fallocate", FD: g.fd(), Mode: one(g, modes...), Off: g.offset(), Len: g.length()}
}
