package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFreshness: a vault that was put back, in whole or in part, is not mounted until somebody accepts it; what mounts do is fresh,
// also where one was killed.
func TestFreshness(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("init --key-store keys v")
	b.fails(22, "no such file", "freshness accept", "mount --freshness fresh v p")
	b.ok("freshness accept v fresh")
	mount := func() { t.Helper(); b.ok("mount --freshness fresh v p") }
	copyTo := func(from, to string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", b.dir+"/"+from, b.dir+"/"+to).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
	refused := func(n string) {
		t.Helper()
		b.fails(34, n+" files or directories", "freshness accept", "mount --freshness fresh v p")
		b.fails(34, n+" files or directories", "freshness accept", "freshness check v fresh")
	}
	mount()
	b.write("p/large", strings.Repeat("a", 1_000_000))
	b.write("p/small", "old")
	b.mkdir("p/dir")
	b.ok("umount p")
	copyTo("v", "old")
	mount()
	f, err := os.OpenFile(b.dir+"/p/large", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("b"), 900_000)
	f.Close()
	b.write("p/small", "new")
	b.ok("umount p")
	b.ok("freshness check v fresh")
	mount()
	b.ok("umount p")

	copyTo("v", "kept")
	put := func(dir string) {
		t.Helper()
		if err := os.RemoveAll(b.dir + "/v"); err != nil {
			t.Fatal(err)
		}
		copyTo(dir, "v")
	}
	put("old")
	refused("2")
	put("kept")
	mount()
	b.ok("umount p")
	for _, e := range b.entries("v") { // of one file alone
		if st, err := os.Stat(b.dir + "/old/" + e); err == nil && st.Size() > 1_000_000 {
			copyTo("old/"+e, "v/"+e)
		}
	}
	refused("1")
	if text := b.run([]string{"freshness", "check", "v", "fresh"}).stdout; !strings.Contains(text, "it holds something else") {
		t.Errorf("got %s", text)
	}
	b.ok("freshness accept v fresh")
	mount()

	var s mountStatus
	b.json("status --json v", &s)
	b.write("p/small", "newest")
	b.write("p/more", "more")
	if err := os.Remove(b.dir + "/p/large"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.ok("umount p")
	for running(s.PID) {
		time.Sleep(10 * time.Millisecond)
	}
	mount()
	b.ok("umount p")
	b.ok("freshness check v fresh")
	b.fails(2, "of kmsfs freshness", "freshness check", "verify --manifest fresh v")
	b.ok("manifest --output m v")
	b.fails(3, "manifest of contents", "freshness accept", "freshness check v m")
}

// TestFreshnessRename: a directory that took the place of another before the daemon was killed is the work of the mount.
func TestFreshnessRename(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("init --key-store keys v")
	b.ok("freshness accept v fresh")
	b.ok("mount --freshness fresh v p")
	b.mkdir("p/old")
	b.mkdir("p/new")
	b.write("p/new/file", "x")
	time.Sleep(1100 * time.Millisecond) // the time in the file has whole seconds
	b.ok("umount p")
	b.ok("mount --freshness fresh v p")
	if err := errors.Join(os.Remove(b.dir+"/p/old"), os.Rename(b.dir+"/p/new", b.dir+"/p/old")); err != nil {
		t.Fatal(err)
	}
	var s mountStatus
	b.json("status --json v", &s)
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.ok("umount p")
	for running(s.PID) {
		time.Sleep(10 * time.Millisecond)
	}
	b.ok("mount --freshness fresh v p")
	b.ok("umount p")
	b.ok("freshness check v fresh")
}

// TestFreshnessPlace: who can put back the vault must not be able to put back the file with it, nor is it a file of the vault.
func TestFreshnessPlace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("init --key-store keys v")
	if err := os.Symlink("v/.kmsfs", b.dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"v/fresh", "v/.kmsfs/fresh", "link/fresh"} {
		b.fails(2, "is in the vault", "outside", "freshness accept v "+file)
		b.fails(2, "is in the vault", "outside", "freshness check v "+file)
	}
	needFUSE(t)
	b.mkdir("p")
	b.fails(2, "is in the vault", "outside", "mount --freshness v/fresh v p")
	b.ok("freshness accept v v.fresh")
}

// entries are the names in a directory.
func (b *bench) entries(dir string) (list []string) {
	b.t.Helper()
	es, err := os.ReadDir(b.dir + "/" + dir)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range es {
		if !strings.HasPrefix(e.Name(), ".") {
			list = append(list, e.Name())
		}
	}
	return list
}
