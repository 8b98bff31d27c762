package vault

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"kmsfs/fs/backing"
)

// interrupted is a stored file in whose sync something else happens.
type interrupted struct {
	backing.File
	during func() error
	data   [100]byte
	writes []string
}

func (f *interrupted) Seek(off int64, _ int) (int64, error) { return off, nil }
func (f *interrupted) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, f.data[min(off, 100):]), nil
}
func (f *interrupted) WriteAt(p []byte, off int64) (int, error) {
	f.writes = append(f.writes, fmt.Sprintf("%d %s", off, p))
	return copy(f.data[off:], p), nil
}
func (f *interrupted) DataSync() error {
	if f.during == nil {
		return nil
	}
	return f.during()
}

// TestNoting holds that a file is clean only when all that was written before a sync began is durable.
func TestNoting(t *testing.T) {
	f := &interrupted{}
	bf := note(f, created)
	if clean(bf) {
		t.Error("a file that was just opened is clean")
	}
	if bf.DataSync(); !clean(bf) {
		t.Error("a file that was synced is not clean")
	}
	bf.WriteAt([]byte("x"), 0)
	f.during = func() error {
		if clean(bf) {
			t.Error("a file is clean while its sync is under way")
		}
		bf.WriteAt([]byte("y"), 0)
		return nil
	}
	if bf.DataSync(); clean(bf) {
		t.Error("a file is clean that was written to during its sync")
	}
	f.during = func() error { return errors.New("no") }
	if bf.DataSync(); clean(bf) || failures(bf) != 1 {
		t.Error("a file is clean whose sync failed")
	}
	bf.WriteAt([]byte("longer"), 50)
	if bf.DataSync(); !lossy(bf) {
		t.Error("nothing is lost when a sync has failed twice")
	}
	bf.WriteAt([]byte("S"), 52)
	f.during, f.writes = nil, nil
	if bf.DataSync(); !clean(bf) || lossy(bf) {
		t.Error("a file that was synced again is not clean")
	}
	// What was written before each of the failures, as it is now.
	if got := fmt.Sprint(f.writes); got != "[0 y 50 loSger]" {
		t.Errorf("written again: %s", got)
	}
	f.writes = nil
	bf.WriteAt([]byte("z"), 3)
	if bf.DataSync(); fmt.Sprint(f.writes) != "[3 z]" {
		t.Errorf("written without need: %q", f.writes)
	}
}

// TestNoteAgain holds that a handle that takes the place of another knows what that one was told.
func TestNoteAgain(t *testing.T) {
	f := &interrupted{during: func() error { return errors.New("no") }}
	old := note(f, found)
	old.WriteAt([]byte("x"), 7)
	old.DataSync()
	f.during, f.writes = nil, nil
	bf := noteAgain(f, old)
	if !lossy(bf) || failures(bf) != 1 || clean(bf) {
		t.Error("nothing is known of a failure")
	}
	if err := bf.DataSync(); err != nil || len(f.writes) == 0 || lossy(bf) {
		t.Errorf("written again: %q, %v", f.writes, err)
	}
}

// TestSpans holds that what was written stays noted however much there is.
func TestSpans(t *testing.T) {
	var ss spans
	for i := range int64(5000) {
		ss = ss.with(span{i * 7919 % 5000 * 10, i*7919%5000*10 + 3})
	}
	if len(ss) > spansMost {
		t.Fatalf("%d spans", len(ss))
	}
	for i := range int64(5000) {
		if !slices.ContainsFunc(ss, func(s span) bool { return s.from <= i*10 && i*10+3 <= s.to }) {
			t.Fatalf("%d is not noted", i*10)
		}
	}
	if ss = (spans{}).with(span{0, 5}).with(span{5, 9}).with(span{3, 6}); len(ss) != 1 || ss[0] != (span{0, 9}) {
		t.Errorf("sequential writes: %v", ss)
	}
}
