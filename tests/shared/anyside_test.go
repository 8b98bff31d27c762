package shared_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
	"kmsfs/tests/metamorphic"
)

// anySide is one tree that is used by all sides in turn: each call goes to one that is picked at random, and a file that is
// open stays with the side that has opened it.
type anySide struct {
	sides []posix.Dir
	r     *rand.Rand
}

func (a *anySide) side() posix.Dir { return a.sides[a.r.IntN(len(a.sides))] }

func (a *anySide) Open(path string, flags int, mode uint32) (posix.File, error) {
	f, err := a.side().Open(path, flags, mode)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR { // of one that another side removes no more is known
		err = unix.EISDIR
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
func (a *anySide) Mkdir(path string, mode uint32) error { return a.side().Mkdir(path, mode) }
func (a *anySide) Mknod(path string, mode uint32, dev uint64) error {
	return a.side().Mknod(path, mode, dev)
}
func (a *anySide) Symlink(value, path string) error     { return a.side().Symlink(value, path) }
func (a *anySide) Readlink(path string) (string, error) { return a.side().Readlink(path) }
func (a *anySide) Link(old, path string) error          { return a.side().Link(old, path) }
func (a *anySide) Unlink(path string) error             { return a.side().Unlink(path) }
func (a *anySide) Rmdir(path string) error              { return a.side().Rmdir(path) }
func (a *anySide) Rename(old, path string, flags uint32) error {
	return a.side().Rename(old, path, flags)
}
func (a *anySide) ReadDir(path string) ([]posix.Entry, error) { return a.side().ReadDir(path) }
func (a *anySide) Stat(path string) (posix.Stat, error)       { return a.side().Stat(path) }
func (a *anySide) Chmod(path string, mode uint32) error       { return a.side().Chmod(path, mode) }
func (a *anySide) Chown(path string, uid, gid int) error      { return a.side().Chown(path, uid, gid) }
func (a *anySide) Utimes(path string, atime, mtime posix.Time) error {
	return a.side().Utimes(path, atime, mtime)
}
func (a *anySide) Truncate(path string, size int64) error { return a.side().Truncate(path, size) }
func (a *anySide) Setxattr(path, attr string, value []byte, flags int) error {
	return a.side().Setxattr(path, attr, value, flags)
}
func (a *anySide) Getxattr(path, attr string) ([]byte, error) { return a.side().Getxattr(path, attr) }
func (a *anySide) Listxattr(path string) ([]string, error)    { return a.side().Listxattr(path) }
func (a *anySide) Removexattr(path, attr string) error        { return a.side().Removexattr(path, attr) }

// alternation plays random lists of operations on a plain directory and on all sides in turn, which must be one tree. Left out
// is what belongs to one side: copying between two open files, and mappings, whose pages are not asked for again; and devices.
func alternation(t *testing.T, p *pair, dir string) {
	beside := lab.Dir(t)
	a := &metamorphic.Arena{Contestants: []metamorphic.Contestant{
		{Name: "plain", Fresh: func(run string) (posix.FS, error) {
			root := filepath.Join(beside, run)
			return &anySide{r: rand.New(rand.NewPCG(1, 1)), sides: []posix.Dir{posix.NewDir(root)}}, os.Mkdir(root, 0o755)
		}},
		{Name: "all sides", Fresh: func(run string) (posix.FS, error) {
			all := &anySide{r: rand.New(rand.NewPCG(1, 1))}
			for side := range p.mounts {
				all.sides = append(all.sides, posix.NewDir(p.path(side, dir, run)))
			}
			return all, os.Mkdir(p.path(0, dir, run), 0o755)
		}},
	}}
	played := 0
	for seed, end := uint64(time.Now().UnixNano()), time.Now().Add(seconds(t)); time.Now().Before(end); seed++ {
		ops := slices.DeleteFunc(metamorphic.Generate(seed, 300, metamorphic.Limits{}), func(op metamorphic.Op) bool {
			if op.Attr != "" && op.Len > 300 { // ext4 has one block for all of a file's, and sealed ones are longer
				return true
			}
			return op.Do == "mknod" && op.Mode&unix.S_IFMT != unix.S_IFIFO || op.Do == "copyrange" || op.Do == "mapread" || op.Do == "mapwrite" || op.Do == "remount"
		})
		var d *metamorphic.Divergence
		if err := a.Run(ops); errors.As(err, &d) {
			d = a.Shrink(d, 20*time.Second)
			t.Fatalf("seed %d: %v\nall of it: %v", seed, d, d.Ops)
		} else if err != nil {
			t.Fatal(err)
		}
		played += len(ops)
	}
	t.Logf("%d operations", played)
}
