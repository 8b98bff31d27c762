package fsck_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/walk"
)

// harmSomehow does one thing to a vault that anybody can do who writes to it, and tells what.
func (b *bed) harmSomehow(r *rand.Rand) string {
	var files, dirs []string
	root := b.fs.Root()
	b.must(eachFile(root, "", func(_ backing.Dir, at, name string) error {
		if at != ".kmsfs/vault.json" && !strings.HasSuffix(at, "lock") { // else it does not open, or not for writing
			files = append(files, at)
		}
		return nil
	}))
	var sub func(d backing.Dir, at string)
	sub = func(d backing.Dir, at string) {
		dirs = append(dirs, at)
		b.must(d.ReadDir(func(e backing.Entry) bool {
			if e.Kind == syscall.S_IFDIR {
				s, err := d.OpenDir(e.Name)
				b.must(err)
				sub(s, walk.Join(at, e.Name))
			}
			return true
		}))
	}
	sub(root, "")
	slices.Sort(files)
	slices.Sort(dirs)
	file, other, dir, to := files[r.IntN(len(files))], files[r.IntN(len(files))], dirs[r.IntN(len(dirs))], dirs[r.IntN(len(dirs))]
	open := func(p string) (backing.Dir, string) { up, name := walk.Split(p); return b.path(up), name }
	d, name := open(file)
	change := func(f func(bf backing.File, size int64)) {
		bf, st, err := d.OpenStat(name, syscall.O_RDWR, 0)
		b.must(err)
		defer bf.Close()
		f(bf, st.Size)
	}
	what := ""
	switch r.IntN(14) {
	case 0, 1, 2:
		what = "flip a bit of " + file
		change(func(bf backing.File, size int64) {
			if size > 0 {
				off := r.Int64N(size)
				if r.IntN(2) == 0 {
					off = r.Int64N(min(size, 100))
				}
				var c [1]byte
				bf.ReadAt(c[:], off)
				c[0] ^= 1 << r.IntN(8)
				bf.WriteAt(c[:], off)
			}
		})
	case 3:
		what = "cut " + file
		change(func(bf backing.File, size int64) { bf.Truncate(r.Int64N(size + 1)) })
	case 4:
		what = "make longer " + file
		change(func(bf backing.File, size int64) { bf.Truncate(size + r.Int64N(1<<uint(r.IntN(40)))) })
	case 5:
		what = "zero part of " + file
		change(func(bf backing.File, size int64) {
			off := r.Int64N(size+1) &^ 511
			if n := min(size-off, 512<<r.IntN(8)); n > 0 {
				bf.WriteAt(make([]byte, n), off)
			}
		})
	case 6:
		what = fmt.Sprintf("swap %s and %s", file, other)
		d2, name2 := open(other)
		d.Rename(name, d2, name2, 2)
	case 7:
		what = fmt.Sprintf("move %s to %s", file, to)
		d.Rename(name, b.path(to), name, 1)
	case 8:
		what = fmt.Sprintf("move directory %s to %s", dir, to)
		if dir != "" && !strings.HasPrefix(dir, ".kmsfs") {
			d, name := open(dir)
			d.Rename(name, b.path(to), name, 1)
		}
	case 9:
		what = "rename " + file
		d.Rename(name, d, name[:len(name)-1]+string("abcXYZ_-.~"[r.IntN(10)]), 1)
	case 10:
		what = "remove " + file
		d.Unlink(name)
	case 11:
		what = fmt.Sprintf("copy %s to %s", file, to)
		change(func(bf backing.File, size int64) {
			c := make([]byte, min(size, 1<<20))
			bf.ReadAt(c, 0)
			b.put(to, name+".copy", string(c))
		})
	case 12:
		what = "something else in place of " + file
		d.Unlink(name)
		switch r.IntN(4) {
		case 0:
			d.Mkdir(name, 0o700)
		case 1:
			d.Symlink("/etc/passwd", name)
		case 2:
			d.Mknod(name, syscall.S_IFIFO|0o600, 0)
		case 3:
			b.put(strings.TrimSuffix(strings.TrimSuffix(file, name), "/"), name, "something else")
		}
	case 13:
		what = "put something into " + to
		b.put(to, ".something", "else")
	}
	return what
}

// TestRepairHostile changes a vault in random ways and mends it: it never ends with a panic or without an end, nothing reads worse than
// before, no stored bytes are gone, and once is enough.
func TestRepairHostile(t *testing.T) {
	rounds := uint64(40)
	if os.Getenv("KMSFS_LONG") == "1" {
		rounds = 4000
	} else if testing.Short() {
		rounds = 8
	}
	for part := range uint64(4) {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			base := newBed(t)
			for seed := part; seed < rounds; seed += 4 {
				r := rand.New(rand.NewPCG(seed, 17))
				b := *base
				b.fs = base.fs.WithHook(nil)
				var steps []string
				for range 1 + r.IntN(6) {
					steps = append(steps, b.harmSomehow(r))
				}
				b.sync()
				before, err := b.look(b.fs)
				if err != nil {
					continue // it is no vault any more
				}
				began := time.Now()
				_, did, err := b.repair(b.fs)
				why := ""
				if err != nil {
					why = err.Error()
				} else {
					why = b.noWorse(before)
				}
				if took := time.Since(began); took > 20*time.Second {
					why = cmp.Or(why, fmt.Sprintf("it took %v", took))
				}
				if why != "" {
					var done []string
					for _, m := range did {
						done = append(done, fmt.Sprintf("%s of %s: %s: %s", m.Kind, m.Stored, m.What, m.Done))
					}
					t.Fatalf("seed %d: %s\n%s\ndone: %s", seed, why, strings.Join(steps, "\n"), strings.Join(done, "\n"))
				}
			}
		})
	}
}

// noWorse says what is worse after a repair, or what the next one mends once more.
func (b *bed) noWorse(before state) string {
	now, err := b.look(b.fs)
	if err != nil {
		return err.Error()
	}
	if why := cmp.Or(worse(before, now), lost(before, now)); why != "" {
		return why
	}
	left, did, err := b.repair(b.fs)
	if err != nil {
		return fmt.Sprintf("repair: %v", err)
	}
	if len(did) > 0 {
		return fmt.Sprintf("%s of %s was mended once more: %s", did[0].Kind, did[0].Stored, did[0].Done)
	}
	return clean(left)
}
