package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needFUSE skips where this user cannot mount.
func needFUSE(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("%v: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN", err)
	}
	f.Close()
	if _, err := exec.LookPath("fusermount3"); err != nil && os.Geteuid() != 0 {
		t.Skip("fusermount3 is missing: apt-get install fuse3")
	}
}

// mountBench is a bench with the vault v, where name is unmounted at the end of the test.
func mountBench(t *testing.T, name string) *bench {
	needFUSE(t)
	b := newBench(t)
	t.Cleanup(func() {
		if r := b.run([]string{"umount", name}); r.code != 0 && r.code != 23 {
			t.Errorf("umount %s: %s", name, r.stderr)
			_ = b.run([]string{"umount", "--lazy", name})
		}
	})
	return b
}

// TestMount: one command makes all that is missing and mounts; what is written is there after a remount.
func TestMount(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	var s mountStatus
	b.json("status --json v", &s)
	if !s.Mounted || s.Mountpoint != b.dir+"/p" || s.Vault != b.dir+"/v" || s.PID == 0 || s.State != stateMounted {
		t.Fatalf("status: %+v", s)
	}
	b.write("p/file", "hello")
	var f fileInfo
	b.json("info --json p/file", &f)
	if len(f.FileID) != 32 || !strings.Contains(f.CMK, ":key/") || len(f.KeyMaterialID) != 64 || f.WrappedKey == "" || f.Created == "" {
		t.Errorf("info of a file: %+v", f)
	}
	if text := b.ok("status"); !strings.Contains(text, b.dir+"/p") {
		t.Errorf("status: %s", text)
	}
	b.mkdir("q")
	b.fails(5, "already the mount", "kmsfs umount", "mount v p")
	b.fails(5, "is mounted on", "kmsfs umount "+b.dir+"/p", "mount v q")
	b.fails(23, "not a mount", "it is the vault; kmsfs umount", "umount v")
	open, err := os.Open(b.dir + "/p/file")
	if err != nil {
		t.Fatal(err)
	}
	b.fails(24, "is busy", "--lazy", "umount p")
	open.Close()
	b.ok("umount p")
	if running(s.PID) {
		t.Error("the daemon lives on after umount")
	}
	b.ok("mount --read-only v p")
	if got, err := os.ReadFile(b.dir + "/p/file"); err != nil || string(got) != "hello" {
		t.Errorf("after a remount: %q, %v", got, err)
	}
	if err := os.WriteFile(b.dir+"/p/new", nil, 0o600); !isErrno(err, syscall.EROFS) {
		t.Errorf("write to a read-only mount: %v", err)
	}
}

func isErrno(err error, want syscall.Errno) bool {
	e, ok := err.(*os.PathError)
	return ok && e.Err == want
}

// TestMountRefusals: each way not to mount has its code and hint, and leaves nothing mounted.
func TestMountRefusals(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.ok("init --key-store other w")
	b.mkdir("p")
	b.mkdir("empty")
	b.mkdir("full")
	b.write("full/file", "x")
	if err := os.CopyFS(b.dir+"/edited", os.DirFS(b.dir+"/v")); err != nil {
		t.Fatal(err)
	}
	b.edit("edited/.kmsfs/vault.json", `"chunk_size": 4096`, `"chunk_size": 16384`)
	if err := os.Symlink("v", b.dir+"/link"); err != nil {
		t.Fatal(err)
	}
	id := b.ok("key create --key-store keys --alias alias/one")
	b.ok("init --key-store keys --key alias/one disabled")
	b.ok("key disable --key-store keys alias/one")
	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{9, "it is empty", "kmsfs init", "mount empty p"},
		{9, "has no .kmsfs/vault.json", "name the directory of a vault", "mount keys p"},
		{22, "does not exist", "kmsfs init", "mount nothing p"},
		{6, "is missing", "mkdir -p", "mount v nothing"},
		{6, "not empty", "empty directory", "mount v full"},
		{6, "not a directory", "empty directory", "mount v full/file"},
		{7, "the same directory", "outside the vault", "mount v v"},
		{7, "the same directory", "outside the vault", "mount v link"},
		{7, "inside the vault", "outside the vault", "mount --init v v/p"},
		{7, "inside the mountpoint", "outside the vault", "mount v ."},
		{8, "lacks the CMK", "--key-store DIR", "mount --key-store other v p"},
		{3, "edited", "backup", "mount edited p"},
		{11, "no key store", "--key-store DIR", "mount --key-store nothing v p"},
		{15, "is disabled", "kmsfs key enable --key-store " + b.dir + "/keys arn:aws:kms:local:000000000000:key/" + id, "mount disabled p"},
		{2, "mount option bla", "--help", "mount -o ro,bla v p"},
		{2, "cannot be made read-only", "kmsfs init", "mount --init --read-only empty p"},
	} {
		b.fails(c.code, c.words, c.hint, c.cmd)
	}
	if _, err := os.Stat(b.dir + "/nothing"); err == nil {
		t.Error("a refused mount made a directory")
	}
	if err := os.Chmod(b.dir+"/keys/master.key", 0o644); err != nil {
		t.Fatal(err)
	}
	b.fails(14, "others can read", "chmod 600", "mount v p")
	if err := os.Remove(b.dir + "/keys/master.key"); err != nil {
		t.Fatal(err)
	}
	b.fails(13, "master.key", "master key file", "mount v p")
	if text := b.ok("status"); strings.Contains(text, b.dir) {
		t.Errorf("something is mounted: %s", text)
	}
}

// TestPassphrase: a passphrase opens the key store, and stands in no command line and no environment.
func TestPassphrase(t *testing.T) {
	b := mountBench(t, "p")
	const secret = "correct horse battery"
	r := b.run([]string{"mount", "--init", "--key-store", "keys", "--passphrase-from", "fd:3", "v", "p"}, b.pipe(secret+"\n"))
	if r.code != 0 {
		t.Fatalf("mount --init: %s", r.stderr)
	}
	var s mountStatus
	b.json("status --json p", &s)
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.PID), file))
		if err == nil && strings.Contains(string(text), secret) {
			t.Errorf("the passphrase stands in the %s of the daemon", file)
		}
		if file == "cmdline" && string(text) != "kmsfs\x00daemon\x00"+b.dir+"/v\x00"+b.dir+"/p\x00" {
			t.Errorf("command line of the daemon: %q", text)
		}
	}
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.PID), "limits"))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("limits of the daemon: %v\n%s", err, limits)
	}
	b.ok("umount p")
	b.check(b.run([]string{"mount", "--passphrase-from", "fd:3", "v", "p"}, b.pipe("wrong\n")), 13, "passphrase is wrong", "try again", "mount")
	b.fails(13, "no terminal", "--passphrase-from", "mount v p")
	b.write("secret", secret+"\n")
	if r := b.run([]string{"mount", "--passphrase-from", "command:cat " + b.dir + "/secret", "v", "p"}); r.code != 0 {
		t.Fatalf("mount with a command: %s", r.stderr)
	}
	b.ok("umount p")
	r = b.run([]string{"key", "passphrase", "--key-store", "keys", "--passphrase-from", "fd:3", "--key-file"}, b.pipe(secret))
	if r.code != 0 {
		t.Fatalf("key passphrase: %s", r.stderr)
	}
	b.ok("mount v p")
}

// TestSignals: SIGTERM unmounts, a busy mount is detached after a while, and kill -9 leaves a mount that says so.
func TestSignals(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys --log-file log v p")
	pid := b.pid("p")
	sendSignal(t, pid, syscall.SIGHUP)
	sendSignal(t, pid, syscall.SIGTERM)
	waitGone(t, pid)
	if text := b.ok("status"); strings.Contains(text, b.dir) {
		t.Errorf("after SIGTERM: %s", text)
	}
	b.ok("mount --log-file log v p")
	pid = b.pid("p")
	b.write("p/file", "kept")
	f, err := os.Open(b.dir + "/p/file")
	if err != nil {
		t.Fatal(err)
	}
	sendSignal(t, pid, syscall.SIGTERM)
	time.Sleep(busyGrace + 500*time.Millisecond)
	got := make([]byte, 4)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "kept" {
		t.Errorf("a file that is open on a detached mount reads %q, %v", got, err)
	}
	f.Close()
	waitGone(t, pid)
	if log, err := os.ReadFile(b.dir + "/log"); err != nil || !strings.Contains(string(log), "busy") {
		t.Errorf("log of a busy mount: %v\n%s", err, log)
	}
	b.ok("mount v p")
	pid = b.pid("p")
	sendSignal(t, pid, syscall.SIGKILL)
	waitGone(t, pid)
	var s mountStatus
	b.json("status --json p", &s)
	if s.State != stateGone {
		t.Errorf("status after kill -9: %+v", s)
	}
	b.fails(6, "daemon is gone", "kmsfs umount", "mount v p")
	b.ok("umount p")
	b.ok("mount v p")
	if text, err := os.ReadFile(b.dir + "/p/file"); err != nil || string(text) != "kept" {
		t.Errorf("after kill -9: %q, %v", text, err)
	}
}

// pid is that of the daemon.
func (b *bench) pid(mountpoint string) int {
	b.t.Helper()
	var s mountStatus
	b.json("status --json "+mountpoint, &s)
	if s.PID == 0 {
		b.t.Fatalf("no pid in %+v", s)
	}
	return s.PID
}

func sendSignal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// waitGone waits for the end of a process that is no child of ours.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); running(pid); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d lives on", pid)
		}
	}
}

// running tells whether a process has not ended; who its new parent is may not care for zombies.
func running(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestHelper is mount.kmsfs as mount(8) calls it.
func TestHelper(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	b.mkdir("q")
	b.name = "/sbin/mount.kmsfs"
	b.fails(1, "mount option bla", "--help", "v p -o rw,bla")
	b.fails(1, "are needed", "mount.kmsfs VAULT", "v")
	b.fails(1, "unknown flag -x", "mount.kmsfs VAULT", "v p -x")
	b.fails(1, "cannot be remounted", "umount", "v p -o remount,ro")
	b.fails(32, "not a vault", "kmsfs init", "q p -o rw")
	b.ok("v p -f -o rw")
	b.ok("v p -sn -v -t kmsfs -o rw,bla,noexec,user,_netdev,x-systemd.automount")
	b.fails(32, "already the mount", "umount", "v p -o rw")
	b.name = "kmsfs"
	var s mountStatus
	b.json("status --json p", &s)
	if got := strings.Join(s.Options, ","); !strings.HasPrefix(got, "rw,nosuid,nodev,noexec") {
		t.Errorf("options of the mount: %s", got)
	}
}

// TestForeground: mount --foreground ends with the mount, and SIGINT ends it.
func TestForeground(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	for name, end := range map[string]func(pid int){
		"umount": func(int) { b.ok("umount p") },
		"SIGINT": func(pid int) { sendSignal(t, pid, syscall.SIGINT) },
	} {
		cmd := b.command("mount", "--foreground", "v", b.dir+"/p")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		for stop := time.Now().Add(20 * time.Second); st.Type != unix.FUSE_SUPER_MAGIC && time.Now().Before(stop); time.Sleep(5 * time.Millisecond) {
			_ = unix.Statfs(b.dir+"/p", &st)
		}
		end(cmd.Process.Pid)
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended by %s: %v", name, err)
		}
	}
}

// TestInterrupt: SIGINT while the passphrase is awaited ends parent and daemon, with nothing mounted.
func TestInterrupt(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	r := b.run([]string{"init", "--key-store", "keys", "--passphrase-from", "fd:3", "v"}, b.pipe("secret"))
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	b.write("asks", "#!/bin/sh\necho asked >"+b.dir+"/asked\nexec sleep 60\n")
	if err := os.Chmod(b.dir+"/asks", 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := b.command("mount", "--passphrase-from", "command:"+b.dir+"/asks", "v", "p")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(b.dir + "/asked"); err == nil {
			break
		}
	}
	sendSignal(t, cmd.Process.Pid, syscall.SIGINT)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted: %v", cmd.ProcessState)
	}
	if text := b.ok("status --offline v"); !strings.Contains(text, "not mounted") {
		t.Errorf("status: %s", text)
	}
}

// TestClosesDescriptors: a caller that waits for the end of a pipe does not wait for the end of the mount.
func TestClosesDescriptors(t *testing.T) {
	b := mountBench(t, "p")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := b.run([]string{"mount", "--init", "--key-store", "keys", "v", "p"}, w); got.code != 0 {
		t.Fatal(got.stderr)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("read of the pipe: %d, %v", n, err)
	}
}
