package backingtest

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

func testReadWrite(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	want := pattern(3*4096 + 100)
	n, err := f.WriteAt(want, 0)
	ok(t, err)
	equal(t, "written", n, len(want))
	buf := make([]byte, len(want)+10)
	n, err = f.ReadAt(buf, 0)
	ok(t, err)
	equal(t, "read to the end", n, len(want))
	equal(t, "same", bytes.Equal(buf[:n], want), true)
	n, err = f.ReadAt(buf[:100], 4090)
	ok(t, err)
	equal(t, "read across a page", string(buf[:n]), string(want[4090:4190]))
	n, err = f.ReadAt(buf, int64(len(want)))
	ok(t, err)
	equal(t, "read at the end", n, 0)
	n, err = f.ReadAt(buf, 1<<40)
	ok(t, err)
	equal(t, "read far past the end", n, 0)
	_, err = f.ReadAt(buf, -1)
	fails(t, "read at -1", err, unix.EINVAL)
	_, err = f.WriteAt(buf, -1)
	fails(t, "write at -1", err, unix.EINVAL)
	n, err = f.WriteAt(nil, 1<<20)
	ok(t, err)
	equal(t, "empty write", n, 0)
	_, err = f.WriteAt([]byte("XY"), 4095)
	ok(t, err)
	copy(want[4095:], "XY")
	equal(t, "overwritten", content(t, f), string(want))
	equal(t, "by another handle", get(t, d, "a"), string(want))
}

func testVectors(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	n, err := f.WritevAt([][]byte{[]byte("one"), nil, []byte("two"), {}, []byte("three")}, 2)
	ok(t, err)
	equal(t, "written", n, 11)
	equal(t, "content", content(t, f), "\x00\x00onetwothree")
	n, err = f.WritevAt(nil, 0)
	ok(t, err)
	equal(t, "no buffers", n, 0)
	n, err = f.WritevAt([][]byte{nil, {}}, 0)
	ok(t, err)
	equal(t, "empty buffers", n, 0)
	var bufs [][]byte
	for range 3000 { // more than IOV_MAX
		bufs = append(bufs, []byte("abc"), nil)
	}
	n, err = f.WritevAt(bufs, 0)
	ok(t, err)
	equal(t, "written", n, 9000)
	equal(t, "content", content(t, f), strings.Repeat("abc", 3000))
}

func testTruncate(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	want := pattern(10000)
	_, err := f.WriteAt(want, 0)
	ok(t, err)
	ok(t, f.Truncate(5000))
	equal(t, "shorter", content(t, f), string(want[:5000]))
	ok(t, f.Truncate(9000))
	equal(t, "longer again", content(t, f), string(want[:5000])+strings.Repeat("\x00", 4000))
	ok(t, f.Truncate(0))
	equal(t, "empty", content(t, f), "")
	_, err = f.WriteAt([]byte("x"), 4097)
	ok(t, err)
	equal(t, "what was cut does not come back", content(t, f), strings.Repeat("\x00", 4097)+"x")
	fails(t, "truncate to -1", f.Truncate(-1), unix.EINVAL)
}

func testSparse(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	ok(t, f.Truncate(1<<30))
	_, err := f.Seek(0, unix.SEEK_DATA)
	fails(t, "no data", err, unix.ENXIO)
	hole, err := f.Seek(4097, unix.SEEK_HOLE)
	ok(t, err)
	equal(t, "all hole", hole, 4097)
	_, err = f.WriteAt(pattern(8192), 1<<20)
	ok(t, err)
	ok(t, f.Sync())
	for _, c := range []struct {
		what   string
		off    int64
		whence int
		want   int64
	}{
		{"data", 0, unix.SEEK_DATA, 1 << 20},
		{"data within", 1<<20 + 5000, unix.SEEK_DATA, 1<<20 + 5000},
		{"hole after", 1 << 20, unix.SEEK_HOLE, 1<<20 + 8192},
		{"hole", 5, unix.SEEK_HOLE, 5},
	} {
		got, err := f.Seek(c.off, c.whence)
		ok(t, err)
		equal(t, c.what, got, c.want)
	}
	_, err = f.Seek(1<<30, unix.SEEK_HOLE)
	fails(t, "at the end", err, unix.ENXIO)
	_, err = f.Seek(-1, unix.SEEK_DATA)
	fails(t, "at -1", err, unix.ENXIO)
	_, err = f.Seek(0, unix.SEEK_SET)
	fails(t, "other whence", err, unix.EINVAL)
	st, err := f.Stat()
	ok(t, err)
	if st.Blocks > 2048 {
		t.Errorf("a sparse file has %d blocks", st.Blocks)
	}
}

func testAllocate(t *testing.T, d backing.Dir) {
	const (
		keep  = unix.FALLOC_FL_KEEP_SIZE
		punch = unix.FALLOC_FL_PUNCH_HOLE
	)
	f := open(t, d, "a", unix.O_CREAT)
	want := pattern(5 * 4096)
	_, err := f.WriteAt(want, 0)
	ok(t, err)
	supported(t, "fallocate", f.Allocate(punch|keep, 4000, 8192))
	clear(want[4000:12192])
	equal(t, "punched", content(t, f), string(want))
	hole, err := f.Seek(0, unix.SEEK_HOLE)
	ok(t, err)
	equal(t, "the hole", hole, 4096)
	ok(t, f.Allocate(punch|keep, 1<<30, 4096))
	equal(t, "punched past the end", content(t, f), string(want))
	ok(t, f.Allocate(keep, 0, 1<<16))
	equal(t, "size kept", content(t, f), string(want))
	ok(t, f.Allocate(0, 100, 1<<16))
	equal(t, "longer", content(t, f), string(append(want, make([]byte, 1<<16+100-len(want))...)))
	fails(t, "nothing", f.Allocate(0, 0, 0), unix.EINVAL)
	fails(t, "negative", f.Allocate(0, -1, 1), unix.EINVAL)
	fails(t, "punch without keep", f.Allocate(punch, 0, 1), unix.EOPNOTSUPP)
}

func testCopyRange(t *testing.T, d backing.Dir) {
	src, dst := open(t, d, "a", unix.O_CREAT), open(t, d, "b", unix.O_CREAT)
	want := pattern(10000)
	_, err := src.WriteAt(want, 0)
	ok(t, err)
	n, err := src.CopyRange(dst, 100, 50, 5000)
	supported(t, "copy_file_range", err)
	equal(t, "copied", n, 5000)
	equal(t, "content", content(t, dst), strings.Repeat("\x00", 50)+string(want[100:5100]))
	n, err = src.CopyRange(dst, 9000, 0, 5000)
	ok(t, err)
	equal(t, "to the end", n, 1000)
	n, err = src.CopyRange(dst, 10000, 0, 5000)
	ok(t, err)
	equal(t, "at the end", n, 0)
	n, err = src.CopyRange(src, 0, 20000, 1000)
	ok(t, err)
	equal(t, "within one file", n, 1000)
	_, err = src.CopyRange(src, 0, 500, 1000)
	fails(t, "overlapping", err, unix.EINVAL)
	_, err = src.CopyRange(dst, -1, 0, 1)
	fails(t, "from -1", err, unix.EINVAL)
	ro, err := d.Open("b", unix.O_RDONLY, 0)
	ok(t, err)
	_, err = src.CopyRange(ro, 0, 0, 10)
	fails(t, "to a file open for reading", err, unix.EBADF)
	ok(t, ro.Close())
}

func testUnlinked(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	ok(t, d.Unlink("a"))
	_, err := f.WriteAt([]byte("still"), 0)
	ok(t, err)
	equal(t, "content", content(t, f), "still")
	st, err := f.Stat()
	ok(t, err)
	equal(t, "nlink", st.Nlink, 0)
	ok(t, f.Chmod(0o600))
	ok(t, f.Sync())
	fails(t, "link of a file without name", d.LinkFile(f, "b"), unix.ENOENT)
	g := open(t, d, "b", unix.O_CREAT)
	h := open(t, d, "c", unix.O_CREAT)
	ok(t, d.Rename("b", d, "c", 0))
	st, err = h.Stat()
	ok(t, err)
	equal(t, "nlink of one renamed over", st.Nlink, 0)
	_, err = g.WriteAt([]byte("by its handle"), 0)
	ok(t, err)
	equal(t, "renamed", get(t, d, "c"), "by its handle")
}

func testTmpfile(t *testing.T, d backing.Dir) {
	f, err := d.Tmpfile(0o600)
	supported(t, "O_TMPFILE", err)
	defer f.Close()
	_, err = f.WriteAt([]byte("made aside"), 0)
	ok(t, err)
	equal(t, "no name", len(names(t, d)), 0)
	put(t, d, "b", "")
	fails(t, "link over a name", d.LinkFile(f, "b"), unix.EEXIST)
	ok(t, d.LinkFile(f, "a"))
	equal(t, "content", get(t, d, "a"), "made aside")
	equal(t, "mode", stat(t, d, "a").Mode, unix.S_IFREG|0o600)
	ok(t, d.LinkFile(f, "c"))
	equal(t, "nlink", stat(t, d, "c").Nlink, 2)
	ok(t, d.Unlink("a"))
	ok(t, d.Unlink("c"))
	fails(t, "link once it was unlinked", d.LinkFile(f, "a"), unix.ENOENT)
}
