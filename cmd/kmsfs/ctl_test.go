package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCtlPurge: after a CMK is disabled, files whose key is kept stay readable until a purge, and not after.
func TestCtlPurge(t *testing.T) {
	b := mountBench(t, "p")
	id := b.ok("key create --key-store keys --alias alias/one")
	b.ok("init --key-store keys --key alias/one v")
	b.mkdir("p")
	b.ok("mount v p")
	b.write("p/a", "alpha")
	b.ok("key disable --key-store keys " + id)
	if err := writeSynced(b.dir+"/p/b", "beta"); err != nil { // with a key that was made ahead
		t.Error(err)
	}
	const noticed = 1200 * time.Millisecond // the daemon looks at the key store every second
	time.Sleep(noticed)
	var info purgeInfo
	b.json("ctl purge --json p", &info)
	if info.Cached == 0 || info.Ahead == 0 {
		t.Errorf("purged %+v", info)
	}
	_ = writeSynced(b.dir+"/p/first", "x") // calls at the moment when the key store is read again may have what was
	b.ok("ctl purge p")
	if err := writeSynced(b.dir+"/p/c", "gamma"); !isErrno(err, syscall.EKEYREVOKED) {
		t.Errorf("a new file after the purge: %v", err)
	}
	b.ok("key enable --key-store keys " + id)
	time.Sleep(noticed)
	if text := b.ok("ctl purge v"); !strings.HasPrefix(text, "wiped ") {
		t.Errorf("purge by vault: %s", text)
	}
	b.write("p/c", "gamma")
	for name, want := range map[string]string{"a": "alpha", "b": "beta", "c": "gamma"} {
		if got, err := os.ReadFile(b.dir + "/p/" + name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// writeSynced writes a file that did not exist, up to the vault.
func writeSynced(path, text string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Sync()
}

// TestCtlFlush: what was written is in a copy of the vault that is taken after a flush, while the mount goes on.
func TestCtlFlush(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/file", "kept")
	var info flushInfo
	b.json("ctl flush --json v", &info)
	if info.Seconds <= 0 {
		t.Errorf("flushed in %v s", info.Seconds)
	}
	if err := os.CopyFS(b.dir+"/copy", os.DirFS(b.dir+"/v")); err != nil {
		t.Fatal(err)
	}
	b.ok("umount p")
	b.ok("mount copy p")
	if got, err := os.ReadFile(b.dir + "/p/file"); err != nil || string(got) != "kept" {
		t.Errorf("in the copy: %q, %v", got, err)
	}
}

// TestCtlRefusals: each way not to reach a daemon has its code and hint.
func TestCtlRefusals(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	for _, verb := range []string{"purge", "flush"} {
		b.fails(23, "is not mounted here", "kmsfs mount", "ctl "+verb+" v")
		b.fails(23, "neither a mount", "kmsfs status", "ctl "+verb+" p")
		b.fails(2, "MOUNTPOINT|VAULT is missing", "kmsfs ctl "+verb, "ctl "+verb)
	}
	b.fails(2, "needs a verb", "kmsfs ctl --help", "ctl")
	b.ok("mount --log-file log v p")
	pid := b.pid("p")
	socket := controlSocket(controlDir(os.Geteuid(), os.Getenv("XDG_RUNTIME_DIR")), b.dir+"/p")
	if err := os.Rename(socket, socket+".away"); err != nil {
		t.Fatal(err)
	}
	b.fails(29, "no control socket", "kmsfs umount", "ctl flush p")
	if err := os.Rename(socket+".away", socket); err != nil {
		t.Fatal(err)
	}
	b.ok("ctl flush p")
	sendSignal(t, pid, syscall.SIGKILL)
	waitGone(t, pid)
	b.fails(29, "is gone", "kmsfs umount", "ctl purge p")
	b.ok("umount p")
	b.ok("mount v p") // over the socket of the dead daemon
	b.ok("ctl purge p")
	b.ok("umount p")
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := os.Mkdir(socket, 0o700); err != nil { // something that is no socket
		t.Fatal(err)
	}
	defer os.Remove(socket)
	b.ok("mount --log-file log v p")
	if log, err := os.ReadFile(b.dir + "/log"); err != nil || !strings.Contains(string(log), "no control socket") {
		t.Errorf("log: %v\n%s", err, log)
	}
	b.fails(29, "cannot be reached", "kmsfs umount", "ctl purge p")
}
