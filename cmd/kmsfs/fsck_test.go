package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
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

// TestFsckForeign: what other programs have put into a vault is told of, is no damage, and stays; files of the vault in it are moved to
// lost+found.
func TestFsckForeign(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	sub := filepath.Dir(filepath.Dir(b.largest("v")))
	foreign := []string{"README", ".DS_Store", ".stfolder/x", ".git/objects/ab", "lost+found/x", strings.TrimPrefix(sub, b.dir+"/v/") + "/Thumbs.db"}
	for _, name := range foreign {
		if err := os.MkdirAll(filepath.Dir(b.dir+"/v/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		b.write("v/"+name, "do not touch")
	}
	text := b.ok("fsck v")
	if strings.Count(text, "foreign: ") != 5 || !strings.Contains(text, "put here by something else than kmsfs") { // not that of the file system
		t.Errorf("got %s", text)
	}
	large := b.largest("v")
	if err := os.Rename(large, b.dir+"/v/lost+found/#12"); err != nil {
		t.Fatal(err)
	}
	if text := b.ok("fsck --repair v"); !strings.Contains(text, "moved to lost+found/file-") {
		t.Errorf("got %s", text)
	}
	for _, name := range foreign {
		if got, err := os.ReadFile(b.dir + "/v/" + name); string(got) != "do not touch" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if text := b.ok("fsck --repair v"); !strings.Contains(text, " 0 mended") {
		t.Errorf("got %s", text)
	}
}

// TestFsckRefused: fsck does not write where somebody else does, or without the keys, or to what it does not know.
func TestFsckRefused(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	top, err := backing.OpenDir(b.dir + "/v")
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	lock, err := vault.Lock(top) // as a mount in a container has it
	if err != nil {
		t.Fatal(err)
	}
	b.fails(5, "in use by another mount", "", "fsck --repair v")
	b.ok("fsck v")
	lock.Close()

	for name, harm := range map[string]func(){
		"another version": func() { b.edit("v/.kmsfs/vault.json", `"format": 1`, `"format": 2`) },
		"edited":          func() { b.edit("v/.kmsfs/vault.json", `"chunk_size": 4096`, `"chunk_size": 16384`) },
		"no keys":         func() { os.Rename(b.dir+"/keys", b.dir+"/gone") },
		"no vault":        func() { os.Rename(b.dir+"/v/.kmsfs/vault.json", b.dir+"/vault.json") },
	} {
		config, err := os.ReadFile(b.dir + "/v/.kmsfs/vault.json")
		if err != nil {
			t.Fatal(err)
		}
		harm()
		before := b.stored("v")
		if r := b.run([]string{"fsck", "--repair", "v"}); r.code == 0 || r.code == 3 && name == "no keys" || !strings.Contains(r.stderr, "error: ") {
			t.Errorf("%s: %+v", name, r)
		}
		if after := b.stored("v"); name != "edited" && strings.Join(before, "") != strings.Join(after, "") {
			t.Errorf("%s: something was changed:\n%s\n%s", name, strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		os.Rename(b.dir+"/gone", b.dir+"/keys")
		if err := os.WriteFile(b.dir+"/v/.kmsfs/vault.json", config, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.ok("fsck v")
}

// TestFsckReadOnly: on a read-only file system it is looked at, and not mended.
func TestFsckReadOnly(t *testing.T) {
	b := offlineBench(t)
	b.mkdir("ro")
	if err := syscall.Mount(b.dir+"/v", b.dir+"/ro", "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("bind mounts are for root with CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(b.dir+"/ro", syscall.MNT_DETACH) })
	if err := syscall.Mount("", b.dir+"/ro", "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if text := b.ok("fsck ro"); !strings.Contains(text, " 0 findings") {
		t.Errorf("got %s", text)
	}
	b.fails(22, "read-only file system", "copy it", "fsck --repair ro")
}

// TestFsckCopy: a vault that is a copy is one no more after a repair that finds no two files of one key.
func TestFsckCopy(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	b.tool("", "cp", "-a", "v", "copy")
	b.tool("", "cp", "-r", "--no-preserve=links", "v", "torn")
	for name, one := range map[string]bool{"copy": false, "torn": true} {
		before, _ := os.ReadFile(b.dir + "/" + name + "/.kmsfs/lock")
		text := b.ok("fsck --repair " + name)
		after, _ := os.ReadFile(b.dir + "/" + name + "/.kmsfs/lock")
		if strings.Contains(text, "one-key: ") != one || (string(before) != string(after)) == one {
			t.Errorf("%s: got %s; the mark was %q and is %q", name, text, before, after)
		}
	}
}
