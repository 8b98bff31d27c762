package backingtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// Options says how two implementations may differ.
type Options struct {
	NoZeroRange bool // FALLOC_FL_ZERO_RANGE is not known to one of them (tmpfs)
}

// Compare does the same n random operations, which follow from seed, in two empty directories and wants the same
// results, errors and trees. In a no inode number may ever be reused. It stops at the first difference, with the
// operations before it.
func Compare(t *testing.T, seed uint64, n int, a, b backing.Dir, o Options) {
	t.Helper()
	ok(t, a.Chmod(0o755))
	ok(t, b.Chmod(0o755))
	r := rand.New(rand.NewPCG(seed, 1))
	c := &comparison{Rand: r, options: o, unwritten: map[uint64]bool{}}
	c.dirs = append(c.dirs, two[backing.Dir]{a, b})
	defer c.close()
	for i := range n {
		c.what, c.diff = "", ""
		steps[r.IntN(len(steps))](c)
		if c.what == "" {
			continue
		}
		c.log = append(c.log, c.what)
		if c.diff != "" {
			t.Fatalf("seed %d, operation %d: %s\nbefore it:\n%s", seed, i, c.diff, c.tail())
		}
	}
	ta, err := Tree(a)
	ok(t, err)
	tb, err := Tree(b)
	ok(t, err)
	if ta != tb {
		t.Fatalf("seed %d: trees differ\n%s\n%s\nafter:\n%s", seed, ta, tb, c.tail())
	}
}

// two is one thing in both implementations.
type two[T any] struct{ a, b T }

type comparison struct {
	*rand.Rand
	options   Options
	dirs      []two[backing.Dir] // the roots first; never empty
	files     []two[backing.File]
	unwritten map[uint64]bool // inodes with parts that SEEK_DATA may or may not find
	log       []string
	what      string // the operation
	diff      string // how the results differ
}

func (c *comparison) tail() string {
	return strings.Join(c.log[max(0, len(c.log)-40):], "\n")
}

func (c *comparison) close() {
	for _, f := range c.files {
		_, _ = f.a.Close(), f.b.Close()
	}
	for _, d := range c.dirs[1:] {
		_, _ = d.a.Close(), d.b.Close()
	}
}

// errno is the number in err, so that errors of different types compare.
func errno(err error) string {
	var e unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// same notes the operation and its two results.
func (c *comparison) same(what string, a, b string, errA, errB error) bool {
	c.what = fmt.Sprintf("%s: %s %s", what, a, errno(errA))
	if errno(errA) != errno(errB) || a != b {
		c.diff = fmt.Sprintf("%s: got %q %s and %q %s", what, a, errno(errA), b, errno(errB))
	}
	return c.diff == "" && errA == nil
}

// does is same for operations with no result but an error.
func (c *comparison) does(what string, errA, errB error) bool {
	return c.same(what, "", "", errA, errB)
}

func (c *comparison) dir() (two[backing.Dir], int) {
	i := c.IntN(len(c.dirs))
	return c.dirs[i], i
}

func (c *comparison) file() (two[backing.File], int, bool) {
	if len(c.files) == 0 {
		return two[backing.File]{}, 0, false
	}
	i := c.IntN(len(c.files))
	return c.files[i], i, true
}

// name is one of few, so that operations meet.
func (c *comparison) name() string {
	if c.IntN(200) == 0 {
		return []string{"", ".", "..", "x/y", strings.Repeat("l", 256), strings.Repeat("l", 255)}[c.IntN(6)]
	}
	return string(rune('a' + c.IntN(8)))
}

// offset is within 64 KiB, often at the edge of a page.
func (c *comparison) offset() int64 {
	off := int64(c.IntN(16)) * 4096
	switch c.IntN(6) {
	case 0:
		return off + 1
	case 1:
		return max(0, off-1)
	case 2:
		return int64(c.IntN(1 << 16))
	case 3:
		if c.IntN(20) == 0 {
			return -1
		}
	}
	return off
}

func (c *comparison) length() int64 {
	if c.IntN(3) == 0 {
		return int64(c.IntN(3)) * 4096
	}
	return int64(c.IntN(20000))
}

func pick[T any](c *comparison, of ...T) T { return of[c.IntN(len(of))] }

// statLine is of a stat what must be the same in both.
func statLine(st backing.Stat, err error) string {
	if err != nil {
		return ""
	}
	s := fmt.Sprintf("%o nlink %d owner %d:%d rdev %d", st.Mode, st.Nlink, st.UID, st.GID, st.Rdev)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		s += fmt.Sprintf(" size %d", st.Size)
	}
	if st.Mtim.Sec < 1e9 { // set by the test, not the time of its operations
		s += fmt.Sprintf(" mtime %v", st.Mtim)
	}
	return s
}

// Tree describes all below d, one line each: what the two sides of a comparison must have in common.
func Tree(d backing.Dir) (string, error) {
	var s strings.Builder
	err := tree(&s, d, "")
	return s.String(), err
}
