package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReverse goes through the life of a reverse mount in the background: made, looked at, purged, unmounted, mounted again
// as mount(8) would, ended by a signal.
func TestReverse(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("src")
	b.write("src/file", "hello")
	b.ok("mount --reverse --init --key-store keys src p")
	var all []mountStatus
	b.json("status --json", &all)
	i := slices.IndexFunc(all, func(s mountStatus) bool { return s.Mountpoint == b.dir+"/p" })
	if i < 0 {
		t.Fatalf("status: %+v", all)
	}
	s := all[i]
	if s.Vault != b.dir+"/src" || s.State != stateMounted || s.PID == 0 || !slices.Contains(s.Options, "reverse") ||
		!slices.Contains(s.Options, "ro") || s.Config == nil || len(s.Config.VolumeID) != 32 {
		t.Errorf("status: %+v", s)
	}
	if text := b.ok("status p"); !strings.Contains(text, s.Config.VolumeID) {
		t.Errorf("status of the mount: %s", text)
	}
	b.ok("ctl purge p")
	b.fails(23, "not a mount", "shown in reverse; kmsfs umount "+b.dir+"/p", "umount src")
	b.fails(5, "already the mount of "+b.dir+"/src", "kmsfs umount", "mount --reverse src p")
	if got := b.ok("cat p file"); got != "hello" {
		t.Errorf("the view as a vault reads %q", got)
	}
	b.ok("verify p")
	b.write("manifest", b.ok("manifest p")+"\n")
	b.fails(5, "in use by another reverse mount", "kmsfs status", "mount --reverse src q --init")
	if out, err := exec.Command("cp", "-a", b.dir+"/p", b.dir+"/copy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.ok("verify --no-keys --manifest manifest copy")
	b.ok("umount p")
	if running(s.PID) {
		t.Error("the daemon lives on after umount")
	}
	b.ok("mount copy p")
	if got, err := os.ReadFile(b.dir + "/p/file"); err != nil || string(got) != "hello" {
		t.Errorf("the copy reads %q, %v", got, err)
	}
	b.ok("umount p")

	b.ok("mount -o reverse,ro,one_file_system,state=" + b.dir + "/src/.kmsfs.reverse src p")
	pid := b.pid("p")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); running(pid); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the daemon lives on after SIGTERM")
		}
	}
	b.fails(23, "not a mount", "kmsfs status", "umount p")
}

// TestReverseDisabled: where the CMK may not be used, the key tables are not listed as if they were whole, and a new file is not
// read; errno and log say why.
func TestReverseDisabled(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("src")
	b.ok("key create --key-store keys --alias alias/one")
	b.ok("mount --reverse --init --key-store keys --key alias/one --log-file log src p")
	b.ok("key disable --key-store keys alias/one")
	b.write("src/file", "hello")
	time.Sleep(1500 * time.Millisecond) // the key store is looked at once a second
	if _, err := os.ReadDir(b.dir + "/p/.kmsfs/keys"); !errors.Is(err, syscall.EKEYREVOKED) {
		t.Errorf("listing the key tables: %v", err)
	}
	entries, err := os.ReadDir(b.dir + "/p")
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if _, err := os.ReadFile(b.dir + "/p/" + e.Name()); !e.IsDir() && !errors.Is(err, syscall.EKEYREVOKED) {
			t.Errorf("reading: %v", err)
		}
	}
	if log, err := os.ReadFile(b.dir + "/log"); err != nil || !strings.Contains(string(log), "is disabled") || strings.Contains(string(log), "src/file") {
		t.Errorf("the log: %s, %v", log, err)
	}
	b.ok("key enable --key-store keys alias/one")
	time.Sleep(3500 * time.Millisecond) // a refusal is remembered
	if _, err := os.ReadDir(b.dir + "/p/.kmsfs/keys"); err != nil {
		t.Errorf("once it may be used again: %v", err)
	}
}

// TestReverseRefusals: each way not to show a directory in reverse has its code and hint, and leaves nothing behind.
func TestReverseRefusals(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("src")
	b.mkdir("src/in")
	b.mkdir("p")
	b.write("file", "x")
	id := b.ok("key create --key-store keys --alias alias/one")
	b.ok("mount --reverse --init --key-store keys --key alias/one --state state src p")
	b.ok("umount p")
	b.ok("key disable --key-store keys alias/one")
	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{9, "no state of a reverse mount", "kmsfs mount --reverse --init " + b.dir + "/src " + b.dir + "/p", "mount --reverse src p"},
		{9, "elsewhere is missing", "--init --state " + b.dir + "/elsewhere", "mount --reverse --state elsewhere src p"},
		{22, "does not exist", "plain directory", "mount --reverse --state state nothing p"},
		{22, "not a directory", "plain directory", "mount --reverse --state state file p"},
		{7, "one inside the other", "outside of", "mount --reverse --init src src/in"},
		{7, "one inside the other", "outside of", "mount --reverse --init src ."},
		{7, "inside the source /", "mount --bind", "mount --reverse --init --state elsewhere / p"},
		{7, "one inside the other", "outside of", "mount --reverse --init --state p src p"},
		{2, "nothing without --reverse", "add --reverse", "mount --state state src p"},
		{2, "nothing without --reverse", "add --reverse", "mount --one-file-system src p"},
		{2, "--shared", "--state DIR", "mount --reverse --shared src p"},
		{2, "--auto-rewrap", "kmsfs rewrap", "mount --reverse --auto-rewrap src p"},
		{2, "chosen when a vault is made", "--init", "mount --reverse --chunk-size 4096 src p"},
		{15, "is disabled", "kmsfs key enable --key-store " + b.dir + "/keys arn:aws:kms:local:000000000000:key/" + id, "mount --reverse --state state src p"},
		{11, "no key store", "--key-store DIR", "mount --reverse --key-store nothing --state state src p"},
	} {
		b.fails(c.code, c.words, c.hint, c.cmd)
	}
	if _, err := os.Stat(b.dir + "/src/.kmsfs.reverse"); err == nil {
		t.Error("a refused mount made a state")
	}
}
