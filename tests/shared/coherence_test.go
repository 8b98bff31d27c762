package shared_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// closeToOpen changes a file on one side and looks at it on the other, to and fro. A descriptor that stays open on the other
// side, which has read the file before, sees the new contents too.
func closeToOpen(t *testing.T, p *pair, dir string) {
	var stay [2]*os.File
	var want []byte
	for side := range stay {
		f, err := os.OpenFile(p.path(side, dir, "file"), os.O_RDWR|os.O_CREATE, 0o644)
		check(t, err)
		defer f.Close()
		stay[side] = f
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	sizes := []int64{0, 1, 100, 3968, 3969, 4095, 4096, 4097, 70_000, 300_000}
	for round, end := 0, time.Now().Add(seconds(t)); time.Now().Before(end); round++ {
		side := r.IntN(2)
		what := change(t, r, p.path(side, dir, "file"), &want, sizes[r.IntN(len(sizes))])
		other := 1 - side
		for _, s := range []int{other, side} {
			got, err := os.ReadFile(p.path(s, dir, "file"))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("seed %d, round %d: after %s on side %d, side %d reads %d bytes, want %d, differing at %d: %v",
					seed, round, what, side, s, len(got), len(want), differAt(got, want), err)
			}
		}
		a, err := os.Stat(p.path(side, dir, "file"))
		check(t, err)
		b, err := os.Stat(p.path(other, dir, "file"))
		check(t, err)
		if a.Size() != int64(len(want)) || b.Size() != a.Size() || !a.ModTime().Equal(b.ModTime()) || a.Mode() != b.Mode() {
			t.Fatalf("seed %d, round %d: after %s: size %d, %d, want %d; time %v, %v; mode %v, %v", seed, round, what, a.Size(), b.Size(), len(want),
				a.ModTime(), b.ModTime(), a.Mode(), b.Mode())
		}
		got := make([]byte, len(want)+1)
		n, _ := stay[other].ReadAt(got, 0) // EOF
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("seed %d, round %d: after %s on side %d an open file of the other reads %d bytes, want %d, differing at %d", seed, round, what, side, n, len(want), differAt(got[:n], want))
		}
	}
}

// change does something to the file, and to what it should hold, and says what.
func change(t *testing.T, r *rand.Rand, path string, want *[]byte, n int64) string {
	t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	flags, what := os.O_WRONLY, r.IntN(6)
	off := r.Int64N(int64(len(*want)) + 1)
	switch what {
	case 0:
		flags |= os.O_TRUNC
	case 1:
		flags |= os.O_APPEND
	}
	f, err := os.OpenFile(path, flags, 0)
	check(t, err)
	var name string
	switch what {
	case 0:
		name, *want = fmt.Sprintf("writing %d bytes", n), data
		_, err = f.Write(data)
	case 1:
		name, *want = fmt.Sprintf("appending %d bytes", n), append(*want, data...)
		_, err = f.Write(data)
	case 2:
		name = fmt.Sprintf("truncating to %d", n)
		*want = append(*want, make([]byte, max(n-int64(len(*want)), 0))...)[:n]
		err = f.Truncate(n)
	case 3, 4:
		name = fmt.Sprintf("writing %d bytes at %d", n, off)
		*want = append(*want, make([]byte, max(off+n-int64(len(*want)), 0))...)
		copy((*want)[off:], data)
		_, err = f.WriteAt(data, off)
	case 5:
		n = min(n, int64(len(*want))-off)
		name = fmt.Sprintf("punching %d bytes at %d", n, off)
		if n > 0 {
			clear((*want)[off : off+n])
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	check(t, f.Close())
	return name
}

func differAt(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// namesSeen makes, moves, replaces and removes names on one side, each of which the other side sees at once.
func namesSeen(t *testing.T, p *pair, dir string) {
	for round, end := 0, time.Now().Add(seconds(t)); time.Now().Before(end); round++ {
		side := round % 2
		a := func(name string) string { return p.path(side, dir, name) }
		b := func(name string) string { return p.path(1-side, dir, name) }
		gone := func(name string) {
			t.Helper()
			if _, err := os.Lstat(b(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("round %d: %s on the other side: %v, want that it does not exist", round, name, err)
			}
		}
		reads := func(name, want string) {
			t.Helper()
			if got, err := os.ReadFile(b(name)); err != nil || string(got) != want {
				t.Fatalf("round %d: %s on the other side: %q, %v; want %q", round, name, got, err, want)
			}
		}
		gone("file")
		check(t, os.WriteFile(a("file"), []byte("one"), 0o600))
		reads("file", "one")
		check(t, os.WriteFile(a("new"), []byte("two"), 0o600))
		check(t, os.Rename(a("new"), a("file")))
		reads("file", "two")
		gone("new")
		check(t, os.Link(a("file"), a("link")))
		reads("link", "two")
		check(t, os.Symlink("file", a("symlink")))
		reads("symlink", "two")
		gone("dir")
		check(t, os.Mkdir(a("dir"), 0o700))
		check(t, os.WriteFile(a("dir/inside"), []byte("deep"), 0o600))
		reads("dir/inside", "deep")
		check(t, os.Rename(a("dir"), a("moved")))
		reads("moved/inside", "deep")
		gone("dir/inside")
		check(t, os.Mkdir(a("dir"), 0o700))
		check(t, unix.Rename(a("moved"), a("dir"))) // over an empty one, which os.Rename does not do
		reads("dir/inside", "deep")
		gone("moved")
		check(t, os.Chmod(a("file"), 0o640))
		check(t, unix.Setxattr(a("file"), "user.round", []byte{byte(round)}, 0))
		st, err := os.Stat(b("file"))
		check(t, err)
		var attr [2]byte
		if n, err := unix.Getxattr(b("file"), "user.round", attr[:]); st.Mode().Perm() != 0o640 || err != nil || n != 1 || attr[0] != byte(round) {
			t.Fatalf("round %d: mode %v and attribute %v, %v on the other side", round, st.Mode(), attr[:max(n, 0)], err)
		}
		long := string(bytes.Repeat([]byte("n"), 255))
		check(t, os.WriteFile(a(long), []byte("long"), 0o600))
		reads(long, "long")
		var names [2][]string
		for s := range names {
			list, err := os.ReadDir(p.path(s, dir))
			check(t, err)
			for _, e := range list {
				names[s] = append(names[s], e.Name())
			}
		}
		if want := []string{"dir", "file", "link", long, "symlink"}; !slices.Equal(names[0], want) || !slices.Equal(names[1], want) {
			t.Fatalf("round %d: listed are %v and %v, want %v", round, names[0], names[1], want)
		}
		// What one side has made the other takes away.
		for _, name := range []string{"dir/inside", "dir", "file", "link", "symlink", long} {
			check(t, os.Remove(b(name)))
			if _, err := os.Lstat(a(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("round %d: %s is still there: %v", round, name, err)
			}
		}
	}
}

// deletedOpen removes and replaces files that are open on the other side and have been read there.
func deletedOpen(t *testing.T, p *pair, dir string) {
	for round := range 20 {
		side := round % 2
		want := bytes.Repeat([]byte{byte(round + 1)}, 100+round*1000)
		name := fmt.Sprint("file", round)
		check(t, os.WriteFile(p.path(side, dir, name), want, 0o600))
		f, err := os.OpenFile(p.path(1-side, dir, name), os.O_RDWR, 0)
		check(t, err)
		_, err = f.ReadAt(make([]byte, 1), 0)
		check(t, err)
		if round%4 < 2 {
			check(t, os.Remove(p.path(side, dir, name)))
		} else {
			check(t, os.WriteFile(p.path(side, dir, "other"), []byte("other"), 0o600))
			check(t, os.Rename(p.path(side, dir, "other"), p.path(side, dir, name)))
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: what was deleted on the other side reads differently: %v", round, err)
		}
		if _, err := f.WriteAt([]byte("more"), int64(len(want))); err != nil {
			t.Fatalf("round %d: writing what was deleted on the other side: %v", round, err)
		}
		if _, err := f.ReadAt(got[:4], int64(len(want))); err != nil || string(got[:4]) != "more" {
			t.Fatalf("round %d: %q, %v", round, got[:4], err)
		}
		check(t, f.Close())
	}
}

// mkdirAll has both sides make the same directories at the same time, and files in them.
func mkdirAll(t *testing.T, p *pair, dir string) {
	for round, end := 0, time.Now().Add(seconds(t)); time.Now().Before(end); round++ {
		deep := filepath.Join(dir, fmt.Sprint(round), "b", "c", "d")
		var wg sync.WaitGroup
		var errs [4]error
		for i := range errs {
			wg.Go(func() {
				if errs[i] = os.MkdirAll(p.path(i%2, deep), 0o755); errs[i] == nil {
					errs[i] = os.WriteFile(p.path(i%2, deep, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o600)
				}
			})
		}
		wg.Wait()
		check(t, errors.Join(errs[:]...))
		for i := range errs {
			if got, err := os.ReadFile(p.path(1-i%2, deep, fmt.Sprint(i))); err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("round %d: %q, %v; want %d", round, got, err, i)
			}
		}
	}
}

// renames has both sides make, link, rename, exchange and remove the same names in two directories at the same time. Each
// file holds where it comes from, and reads so under whatever name; both sides end with the same tree.
func renames(t *testing.T, p *pair, dir string) {
	for _, d := range []string{"d0", "d1"} {
		check(t, os.Mkdir(p.path(0, dir, d), 0o755))
	}
	p.load(t, 3, func(side, id int, going func() bool) error {
		r := rand.New(rand.NewPCG(uint64(id), 7))
		name := func() string { return p.path(side, dir, fmt.Sprint("d", r.IntN(2)), fmt.Sprint("n", r.IntN(6))) }
		for n := 0; going(); n++ {
			var err error
			a, b := name(), name()
			switch r.IntN(6) {
			case 0, 1:
				own := p.path(side, dir, fmt.Sprintf("own-%d", id))
				if err = os.WriteFile(own, stamp(id, n), 0o600); err != nil {
					return err // nobody else has this name
				}
				err = os.Rename(own, a)
			case 2:
				err = os.Rename(a, b)
			case 3:
				err = os.Link(a, b)
			case 4:
				err = os.Remove(a)
			case 5:
				var got []byte
				if got, err = os.ReadFile(a); err == nil && !stamped(got) {
					return fmt.Errorf("%s holds what nobody has written: %q", a, got)
				}
			}
			switch {
			case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist), errors.Is(err, unix.ESTALE):
			default:
				return err
			}
		}
		return nil
	})
	var trees [2]map[string]string
	for side := range trees {
		trees[side] = map[string]string{}
		check(t, filepath.WalkDir(p.path(side, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			rel, _ := filepath.Rel(p.path(side, dir), path) // below it
			trees[side][rel] = string(b)
			if err == nil && !stamped(b) {
				err = fmt.Errorf("%s holds what nobody has written: %q", path, b)
			}
			return err
		}))
	}
	if len(trees[0]) != len(trees[1]) {
		t.Fatalf("one side has %d names, the other %d", len(trees[0]), len(trees[1]))
	}
	for name, want := range trees[0] {
		if got, there := trees[1][name]; !there || got != want {
			t.Errorf("%s: the sides differ", name)
		}
	}
}

func stamp(id, n int) []byte { return fmt.Appendf(nil, "[%d %d]", id, n) }

func stamped(b []byte) bool {
	var id, n int
	_, err := fmt.Sscanf(string(b), "[%d %d]", &id, &n)
	return err == nil && bytes.Equal(b, stamp(id, n))
}
