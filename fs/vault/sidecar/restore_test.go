package sidecar_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/sidecar"
)

// TestRestore puts records into a table that is there, cut short, missing, or whose header is damaged. What else is in it stays.
func TestRestore(t *testing.T) {
	for name, damage := range map[string]func(f backing.File) error{
		"whole":         func(backing.File) error { return nil },
		"cut short":     func(f backing.File) error { return f.Truncate(3*512 + 100) },
		"bad header":    func(f backing.File) error { _, err := f.WriteAt([]byte{1}, 9); return err },
		"never written": func(f backing.File) error { return f.Truncate(0) },
	} {
		fs := place(t, memfs.Config{})
		s := open(t, fs)
		w := s.NewWriter(time.Now)
		var batch []*envelope.Record
		for i := range 9 {
			batch = append(batch, record(i, "old", 1))
		}
		locs, err := w.Append(batch)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := s.Zero(locs[1:2], func(uint64) bool { return true }); err != nil {
			t.Fatal(err)
		}
		keys, err := fs.Root().OpenDir("keys")
		if err != nil {
			t.Fatal(err)
		}
		id := locs[0].Table
		f, err := keys.Open(envelope.TableName(id), syscall.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		s = open(t, fs)
		h := envelope.TableHeader{SlotSize: 1024, ID: id, Volume: volume}
		// 0 is there, 1 was erased and needs a larger slot, 20 is behind the end.
		found := []sidecar.Found{{Slot: locs[0].Slot, Record: record(0, "new", 1)}, {Slot: locs[1].Slot, Record: record(1, "new", 8)},
			{Slot: 3000, Record: record(20, "new", 1)}}
		left, err := s.Restore(h, found)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := []string{"old 0", "new 1", "old 2", "old 3", "old 4", "old 5", "old 6", "old 7", "old 8"}
		kept := 0
		switch name {
		case "whole":
			if len(left) != 1 || left[0] != locs[0].Slot {
				t.Errorf("%s: left %v", name, left)
			}
		case "cut short":
			want = want[:2]
		case "never written":
			want = []string{"new 0", "new 1"}
		case "bad header":
			kept = 1
		}
		for i, w := range want {
			if got := version(s, locs[i], i); got != w {
				t.Errorf("%s: record %d is %q, not %q", name, i, got, w)
			}
		}
		if got := version(s, envelope.Locator{Table: id, Slot: 3000}, 20); got != "new 20" {
			t.Errorf("%s: behind the end: %q", name, got)
		}
		names := 0
		if err := keys.ReadDir(func(e backing.Entry) bool {
			if strings.Contains(e.Name, ".damaged-") {
				names++
			}
			return true
		}); err != nil || names != kept {
			t.Errorf("%s: %d damaged tables were kept, %v", name, names, err)
		}
	}
	s := open(t, place(t, memfs.Config{}))
	if _, err := s.Restore(envelope.TableHeader{SlotSize: 512, ID: 1}, []sidecar.Found{{Slot: 1, Record: record(0, "new", 1)}}); !errors.Is(err, envelope.ErrCorrupt) {
		t.Errorf("a table of another volume: %v", err)
	}
}
