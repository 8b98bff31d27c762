package check_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing/faults"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
)

// repair moves aside what a check with keys has found.
func (s *sample) repair(at time.Time) []check.Moved {
	s.t.Helper()
	r := s.check(true)
	top := s.top()
	defer top.Close()
	v := s.open(vault.ReadOnly)
	defer s.close(v)
	moved, err := check.Repair(ctx, top, v.Config().Volume, r.Findings, at)
	if err != nil {
		s.t.Fatal(err)
	}
	return moved
}

// TestRepair: after it nothing is found, what was in order still is, and what was moved can be moved back.
func TestRepair(t *testing.T) {
	s := newSample(t)
	s.flip(s.path("big"), 4096+20*4096+5)
	s.flip(s.path(long), 140)
	s.must(os.Truncate(s.path("small"), 90))
	s.must(os.Remove(filepath.Join(s.path("sub/deep"), ".kmsfs.dir")))
	s.write(filepath.Join(s.dir, "notes.txt"), []byte("kept"))
	table, slot := s.record("middle")
	s.flip(table, slot*512+100)
	s.write(table, append(s.read(table), "a slot that is cut"...))
	whole := s.read(table)
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	moved := s.repair(at)
	var got []string
	for _, m := range moved {
		got = append(got, string(m.Kind)+" "+m.Path)
		if _, err := os.Lstat(filepath.Join(s.dir, m.To)); err != nil {
			t.Errorf("%s: %v", m.Path, err)
		}
	}
	slices.Sort(got)
	want := []string{"chunks big", "directory sub/deep", "file " + long, "file small", "file small again", "name ", "no-record middle", "record ", "record "}
	if !slices.Equal(got, want) {
		t.Errorf("moved %q, want %q", got, want)
	}
	if r := s.check(true); len(r.Findings) > 0 || r.Files != 3 {
		t.Errorf("after it: %d files, %+v", r.Files, r.Findings)
	}
	if r := s.check(false); len(r.Findings) > 0 {
		t.Errorf("after it, without keys: %+v", r.Findings)
	}
	base := filepath.Join(s.dir, ".kmsfs/damaged/20261124T120000Z")
	if b := s.read(filepath.Join(base, "notes.txt")); string(b) != "kept" {
		t.Errorf("what was moved holds %q", b)
	}
	if b := s.read(filepath.Join(base, ".kmsfs/keys", filepath.Base(table))); !slices.Equal(b, whole) {
		t.Error("the key table was not kept as it was")
	}
	for _, name := range []string{s.stored["big"], s.stored[long], s.stored["sub/deep"]} {
		s.must(os.Rename(filepath.Join(base, name), filepath.Join(s.dir, name)))
	}
	companions, err := filepath.Glob(filepath.Join(base, ".kmsfs.long.*"))
	if err != nil || len(companions) != 2 {
		t.Errorf("companions that went along: %q, %v", companions, err)
	}
	for _, c := range companions {
		s.must(os.Rename(c, filepath.Join(s.dir, filepath.Base(c))))
	}
	if got, want := lines(s.check(true).Findings), []string{"chunks big 81920-86016", "directory sub/deep", "file " + long}; !slices.Equal(got, want) {
		t.Errorf("moved back: %q, want %q", got, want)
	}
}

// TestRepairAttribute keeps the bytes of an attribute that does not open.
func TestRepairAttribute(t *testing.T) {
	s := newSample(t)
	path := s.path("small")
	b := make([]byte, 1000)
	n, err := unix.Listxattr(path, b)
	if err != nil || n == 0 {
		t.Skipf("the file system of the test has no extended attributes: %v", err)
	}
	name := string(b[:slices.Index(b, 0)])
	s.must(unix.Setxattr(path, name, []byte("nonsense that is long enough"), 0))
	if got, want := lines(s.check(true).Findings), []string{"xattribute small", "xattribute small again"}; !slices.Equal(got, want) {
		t.Fatalf("found %q, want %q", got, want)
	}
	moved := s.repair(time.Now())
	if len(moved) != 2 {
		t.Fatalf("moved %+v", moved)
	}
	if b := s.read(filepath.Join(s.dir, moved[0].To, name)); string(b) != "nonsense that is long enough" {
		t.Errorf("kept %q", b)
	}
	if r := s.check(true); len(r.Findings) > 0 {
		t.Errorf("after it: %+v", r.Findings)
	}
}

// TestMendTables makes a key table's header anew, so that nothing has to be moved.
func TestMendTables(t *testing.T) {
	s := newSample(t)
	table, _ := s.record("middle")
	s.flip(table, 20)
	r := s.check(true)
	top := s.top()
	defer top.Close()
	v := s.open(vault.ReadOnly)
	mended, err := check.MendTables(top, v.Config().Volume, r.Findings)
	s.close(v)
	if err != nil || len(mended) != 1 || filepath.Join(s.dir, mended[0]) != table {
		t.Errorf("%q, %v", mended, err)
	}
	if r := s.check(true); len(r.Findings) > 0 {
		t.Errorf("after it: %+v", r.Findings)
	}
}

// TestRepairNothing writes nothing where there is no damage.
func TestRepairNothing(t *testing.T) {
	s := newSample(t)
	s.write(s.path("middle"), make([]byte, 9000)) // a note
	if moved := s.repair(time.Now()); len(moved) > 0 {
		t.Errorf("moved %+v", moved)
	}
	if _, err := os.Stat(filepath.Join(s.dir, ".kmsfs/damaged")); err == nil {
		t.Error("a directory was made for nothing")
	}
}

// TestRepairCut cuts a repair before each change that it makes: nothing is lost, and the next repair does the rest.
func TestRepairCut(t *testing.T) {
	s := newSample(t)
	s.must(os.Remove(s.path("big"))) // which would take time
	s.flip(s.path("sub/inner"), 4200)
	s.flip(s.path(long), 140)
	s.must(os.Remove(filepath.Join(s.path("sub/deep"), ".kmsfs.dir")))
	table, slot := s.record("middle")
	s.flip(table, slot*512+100)
	whole := s.read(table)
	want := map[string][]byte{filepath.Base(table): whole}
	for _, name := range []string{"sub/inner", long, "sub/deep/er", "middle"} {
		want[filepath.Base(s.path(name))] = s.read(s.path(name))
	}
	failed := errors.New("cut")
	for k := 0; ; k++ {
		c := *s
		c.dir = filepath.Join(t.TempDir(), "copy")
		s.must(os.CopyFS(c.dir, os.DirFS(s.dir)))
		r := c.check(true)
		calls := 0
		top := faults.Wrap(c.top(), func(op faults.Op) error {
			if !op.Changes() {
				return nil
			}
			if calls++; calls > k {
				return failed
			}
			return nil
		})
		v := c.open(vault.ReadOnly)
		volume := v.Config().Volume
		c.close(v)
		_, err := check.Repair(ctx, top, volume, r.Findings, time.Unix(1e9, 0))
		if err != nil && !errors.Is(err, failed) {
			t.Fatalf("change %d: %v", k, err)
		}
		c.repair(time.Unix(1e9+1, 0))
		if r := c.check(true); len(r.Findings) > 0 {
			t.Fatalf("change %d: after the second repair %+v", k, r.Findings)
		}
		got := map[string]bool{}
		s.must(filepath.WalkDir(filepath.Join(c.dir, ".kmsfs/damaged"), func(path string, e os.DirEntry, err error) error {
			if text, ok := want[e.Name()]; err == nil && ok && bytes.Equal(s.read(path), text) {
				got[e.Name()] = true
			}
			return err
		}))
		if len(got) != len(want) {
			t.Fatalf("change %d: %d of %d things were kept", k, len(got), len(want))
		}
		if err == nil {
			t.Logf("%d changes", calls)
			return
		}
	}
}

// TestRepairHugeTable: what is kept of a key table is not held in memory, and is as sparse.
func TestRepairHugeTable(t *testing.T) {
	const size = 300 << 20
	s := newSample(t)
	table, slot := s.record("middle")
	s.flip(table, slot*512+100)
	s.must(os.Truncate(table, size))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	moved := s.repair(time.Now())
	runtime.ReadMemStats(&after)
	if grown := after.Sys - before.Sys; grown > size/2 {
		t.Errorf("it took %d MiB", grown>>20)
	}
	i := slices.IndexFunc(moved, func(m check.Moved) bool { return m.Kind == check.Record })
	if i < 0 {
		t.Fatalf("moved %+v", moved)
	}
	var st unix.Stat_t
	s.must(unix.Stat(filepath.Join(s.dir, moved[i].To), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks are kept", st.Size, st.Blocks)
	}
}

// TestRepairHeader: a key table that has lost its header alone stays, and with it all files that it has the keys of.
func TestRepairHeader(t *testing.T) {
	s := newSample(t)
	table, _ := s.record("middle")
	whole := s.read(table)
	s.flip(table, 9)
	r := s.check(true)
	top := s.top()
	defer top.Close()
	v := s.open(vault.ReadOnly)
	defer s.close(v)
	moved, err := check.Repair(ctx, top, v.Config().Volume, r.Findings, time.Now())
	if !errors.Is(err, check.ErrMendable) || len(moved) > 0 {
		t.Errorf("moved %+v, %v", moved, err)
	}
	s.write(table, whole)
	if r := s.check(true); len(r.Findings) > 0 {
		t.Errorf("after it: %+v", r.Findings)
	}
}
