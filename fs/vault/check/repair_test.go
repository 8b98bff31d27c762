package check_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
