package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// foreground starts a mount of v on p in the foreground and waits until it answers.
func (b *bench) foreground(cmd *exec.Cmd) {
	b.t.Helper()
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	var st unix.Statfs_t
	for stop := time.Now().Add(20 * time.Second); st.Type != unix.FUSE_SUPER_MAGIC; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(stop) {
			b.t.Fatal("the mount does not come")
		}
		_ = unix.Statfs(b.dir+"/p", &st)
	}
}

// TestLogGone: a mount lives on when nobody reads its log any more, and when the log cannot be written.
func TestLogGone(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	works := func(t *testing.T) {
		t.Helper()
		for _, name := range []string{"one", "two"} { // each is logged several times
			if err := os.WriteFile(b.dir+"/p/"+name, []byte("text"), 0o600); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(b.dir + "/p/" + name); err != nil || string(got) != "text" {
				t.Errorf("%q, %v", got, err)
			}
		}
	}
	t.Run("pipe", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := b.command("mount", "--foreground", "--debug", "v", b.dir+"/p")
		cmd.Stderr = w
		b.foreground(cmd)
		w.Close()
		if line, err := bufio.NewReader(r).ReadString('\n'); err != nil {
			t.Fatalf("the log: %q, %v", line, err)
		}
		r.Close()
		works(t)
		b.ok("umount p")
		if err := cmd.Wait(); err != nil {
			t.Errorf("the end of the mount: %v", err)
		}
	})
	t.Run("full disk", func(t *testing.T) {
		b.ok("mount --log-file /dev/full --debug v p")
		works(t)
		b.ok("umount p")
	})
}

// TestHangup: a mount in the foreground ends cleanly with its terminal, unless that is to be ignored.
func TestHangup(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	cmd := b.command("mount", "--foreground", "v", b.dir+"/p")
	b.foreground(cmd)
	b.write("p/file", "kept")
	sendSignal(t, cmd.Process.Pid, syscall.SIGHUP)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by SIGHUP: %v", err)
	}
	if got, err := os.ReadDir(b.dir + "/p"); err != nil || len(got) > 0 {
		t.Errorf("the mountpoint after that: %v, %v", got, err)
	}
	cmd = b.command("mount", "--foreground", "v", b.dir+"/p")
	nohup, err := exec.LookPath("nohup")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = nohup, append([]string{"nohup", cmd.Path}, cmd.Args[1:]...)
	b.foreground(cmd)
	sendSignal(t, cmd.Process.Pid, syscall.SIGHUP)
	sendSignal(t, cmd.Process.Pid, syscall.SIGCONT) // whatever comes after it finds it done
	if got, err := os.ReadFile(b.dir + "/p/file"); err != nil || string(got) != "kept" {
		t.Errorf("after a remount: %q, %v", got, err)
	}
	b.ok("umount p")
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by umount: %v", err)
	}
}

// TestConcealed: a verb dumps no core, and its memory is not to be read, before it may ask for a passphrase; nor does the program
// that it asks.
func TestConcealed(t *testing.T) {
	b := newBench(t)
	if r := b.run([]string{"init", "--key-store", "keys", "--passphrase-from", "fd:3", "v"}, b.pipe("secret")); r.code != 0 {
		t.Fatal(r.stderr)
	}
	b.mkdir("p")
	b.write("asks", "#!/bin/sh\nulimit -Hc >"+b.dir+"/child\necho $PPID >"+b.dir+"/new\nmv "+b.dir+"/new "+b.dir+"/asked\nexec sleep 60\n")
	if err := os.Chmod(b.dir+"/asks", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"cat v file", "mount v p", "rewrap v", "key list --key-store keys", "kms serve --key-store keys --listen unix:s"} {
		cmd := b.command(append(strings.Fields(verb), "--passphrase-from", "command:"+b.dir+"/asks")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var asked []byte
		for end := time.Now().Add(20 * time.Second); len(asked) == 0; time.Sleep(10 * time.Millisecond) {
			asked, _ = os.ReadFile(b.dir + "/asked")
			if time.Now().After(end) {
				t.Fatalf("%s asks nobody", verb)
			}
		}
		proc := "/proc/" + strings.TrimSpace(string(asked))
		limits, err := os.ReadFile(proc + "/limits")
		if got := strings.Join(strings.Fields(string(limits)), " "); err != nil || !strings.Contains(got, "Max core file size 0 0 ") {
			t.Errorf("%s: limits: %s, %v", verb, got, err)
		}
		if child, err := os.ReadFile(b.dir + "/child"); err != nil || string(child) != "0\n" {
			t.Errorf("%s: the program that is asked may dump %q, %v", verb, child, err)
		}
		if os.Geteuid() != 0 {
			if f, err := os.Open(proc + "/mem"); !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
				f.Close()
				t.Errorf("%s: its memory can be read: %v", verb, err)
			}
		}
		sendSignal(t, cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait() // interrupted
		if err := os.Remove(b.dir + "/asked"); err != nil {
			t.Fatal(err)
		}
	}
}
