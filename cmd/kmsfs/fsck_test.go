package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFsck: a clean vault is clean; what is misplaced is found, and is in lost+found after --repair.
func TestFsck(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	var info fsckInfo
	b.json("fsck --json v", &info)
	if len(info.Findings) != 0 || info.Unclean || info.Files != 5 || info.Directories != 3 {
		t.Errorf("got %+v", info)
	}
	before := b.stored("v")
	if text := b.ok("fsck v"); !strings.Contains(text, "0 findings") || !strings.Contains(text, "clean") {
		t.Errorf("got %s", text)
	}
	if after := b.stored("v"); strings.Join(before, "") != strings.Join(after, "") {
		t.Error("looking has changed it")
	}
	var large string
	filepath.WalkDir(b.dir+"/v", func(path string, e os.DirEntry, _ error) error {
		if st, err := e.Info(); err == nil && st.Size() > 1_000_000 {
			large = path
		}
		return nil
	})
	if err := os.Rename(large, b.dir+"/v/"+filepath.Base(large)); err != nil {
		t.Fatal(err)
	}
	b.fails(3, "kinds of damage", "fsck --repair", "fsck v")
	if text := b.ok("fsck --repair v"); !strings.Contains(text, "moved to lost+found/file\n") {
		t.Errorf("got %s", text)
	}
	name := b.ok("find v lost+found --type f")
	if got := b.ok("cat --range 0-9 v " + name); got != "0123456789" {
		t.Errorf("%s: %q", name, got)
	}
	b.ok("verify v")
	b.ok("fsck v")
}

// TestFsckMounted: a mounted vault is not looked at.
func TestFsckMounted(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("mount --init --key-store keys v p")
	b.fails(5, "is mounted on", "kmsfs verify", "fsck v")
}

// TestFsckHeader: with its header a key table has all of its records again, and nothing is damaged any more.
func TestFsckHeader(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	tables, err := filepath.Glob(b.dir + "/v/.kmsfs/keys/*")
	if err != nil || len(tables) != 1 {
		t.Fatalf("%q, %v", tables, err)
	}
	f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("damage"), 20)
	f.Close()
	b.fails(3, "kinds of damage", "fsck --repair", "fsck v")
	if text := b.ok("fsck --repair v"); !strings.Contains(text, "key-table-header: ") || strings.Contains(text, "no-record") {
		t.Errorf("got %s", text)
	}
	b.ok("verify v")
}
