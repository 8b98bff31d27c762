package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFreeze: a command runs while changes wait, with its streams and its exit code, and the mount thaws when it ends.
func TestFreeze(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/before", "kept")
	b.fails(2, "VAULT|MOUNTPOINT is missing", "kmsfs freeze", "freeze")
	b.fails(2, "-- COMMAND is missing", "-- COMMAND", "freeze v true")
	b.fails(2, "-- COMMAND is missing", "-- COMMAND", "freeze v --")
	b.fails(2, "at most 1h", "--timeout 60s", "freeze --timeout 2h v -- true")
	b.fails(127, "no-such-command", "PATH", "freeze v -- no-such-command")
	b.fails(22, "does not exist", "kmsfs init", "freeze nothing -- true")
	b.fails(9, "is not a vault", "vault", "freeze keys -- true")

	changed := make(chan error, 1)
	cmd := b.command("freeze", "v", "--", "sh", "-c", "cp -r v copy; echo copied; read line; echo \"$line\" >&2; exit 7")
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(b.dir + "/copy/.kmsfs/vault.json"); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal("the command does not run")
		}
	}
	go func() { changed <- writeSynced(b.dir+"/p/after", "late") }()
	select {
	case err := <-changed:
		t.Errorf("something was changed on a frozen mount: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if got, err := os.ReadFile(b.dir + "/p/before"); err != nil || string(got) != "kept" {
		t.Errorf("read on a frozen mount: %q, %v", got, err)
	}
	b.fails(24, "is frozen", "kmsfs ctl thaw", "freeze p -- true")
	if _, err := feed.WriteString("passed on\n"); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 || out.String() != "copied\n" || errs.String() != "passed on\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, &out, &errs)
	}
	if err := <-changed; err != nil {
		t.Errorf("a change that was held: %v", err)
	}
	b.fails(33, "is not frozen", "--timeout", "ctl thaw p")
	if os.Geteuid() == 0 { // another name of the same mount
		b.mkdir("bind")
		if err := unix.Mount(b.dir+"/p", b.dir+"/bind", "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		b.ok("freeze v -- true")
		if err := unix.Unmount(b.dir+"/bind", 0); err != nil {
			t.Fatal(err)
		}
	}
	b.ok("umount p")
	b.ok("mount copy p")
	if got, err := os.ReadFile(b.dir + "/p/before"); err != nil || string(got) != "kept" {
		t.Errorf("in the copy: %q, %v", got, err)
	}
	if _, err := os.Stat(b.dir + "/p/after"); err == nil {
		t.Error("the copy has what came later")
	}
}

// TestFreezeTimeUp: when the time is up before the command ends, writers go on and the exit code says so, whatever the command's
// is; also where somebody froze it anew meanwhile, who is not disturbed.
func TestFreezeTimeUp(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	for _, line := range []string{"sleep 1.5", "sleep 1.5; exit 5"} {
		r := b.run([]string{"freeze", "--timeout", "1s", "v", "--", "sh", "-c", line})
		b.check(r, 33, "may not be of one moment", "--timeout", line)
	}
	done := make(chan result, 1)
	go func() { done <- b.run([]string{"freeze", "--timeout", "1s", "v", "--", "sh", "-c", "sleep 2"}) }()
	time.Sleep(1500 * time.Millisecond)
	b.ok("ctl freeze --timeout 1m p")
	b.check(<-done, 33, "may not be of one moment", "--timeout", "frozen anew")
	b.ok("ctl thaw p")

	// A command that writes to the mount that it holds.
	began := time.Now()
	r := b.run([]string{"freeze", "--timeout", "1s", "v", "--", "sh", "-c", "echo text >p/file"})
	b.check(r, 33, "may not be of one moment", "--timeout", "writes itself")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestFreezeSignals: a signal goes to the command, which is waited for, and the mount thaws; where kmsfs is killed it thaws when
// the time is up.
func TestFreezeSignals(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	start := func(timeout, script string) (wait func() int, signal func(syscall.Signal)) {
		t.Helper()
		_ = os.Remove(b.dir + "/ready")
		cmd := b.command("freeze", "--timeout", timeout, "v", "--", "sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(b.dir + "/ready"); err == nil {
				break
			} else if time.Now().After(end) {
				t.Fatal("the command does not run")
			}
		}
		return func() int { _ = cmd.Wait(); return cmd.ProcessState.ExitCode() }, func(s syscall.Signal) { sendSignal(t, cmd.Process.Pid, s) }
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		wait, signal := start("1m", "trap 'sleep 0.3; touch cleaned; exit 9' INT TERM HUP; touch ready; while :; do sleep 0.05; done")
		signal(s)
		signal(s)
		if code := wait(); code != 9 {
			t.Errorf("%v: exit code %d, want the command's", s, code)
		}
		if os.Remove(b.dir+"/cleaned") != nil {
			t.Errorf("%v: the command was not waited for", s)
		}
		b.fails(33, "is not frozen", "--timeout", "ctl thaw p")
	}
	wait, signal := start("1m", "touch ready; exec sleep 60")
	signal(syscall.SIGTERM)
	if code := wait(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("the command ended by a signal: exit code %d", code)
	}
	wait, signal = start("3s", "touch ready; exec sleep 5")
	signal(syscall.SIGKILL)
	wait()
	began := time.Now()
	if err := writeSynced(b.dir+"/p/file", "text"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < time.Second || took > 20*time.Second {
		t.Errorf("held for %v after kmsfs was killed, want up to 3 s", took)
	}
}

// TestFreezeUnmounted: a vault that is not mounted cannot be mounted for writing while the command runs, and one that somebody
// has locked is refused.
func TestFreezeUnmounted(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	r := b.run([]string{"freeze", "v", "--", b.command().Path, "mount", "v", "p"})
	b.check(r, 5, "is in use by another mount", "unmount it", "mount while it is frozen")
	held, err := lockVault(b.dir + "/v")
	if err != nil {
		t.Fatal(err)
	}
	b.fails(5, "is mounted elsewhere", "kmsfs freeze there", "freeze v -- touch ran")
	held.Close()
	if _, err := os.Stat(b.dir + "/ran"); err == nil {
		t.Error("the command ran without the lock")
	}
	b.ok("freeze v -- touch ran")
	if _, err := os.Stat(b.dir + "/ran"); err != nil {
		t.Error(err)
	}
	b.ok("mount --read-only v p") // writes nothing: as not mounted
	b.ok("freeze p -- true")
	b.ok("umount p")
	b.ok("mount v p")
	b.ok("freeze v -- true")
}

// TestFreezeAlone: a reencryption, which writes to the vault and not through the mount, and a freeze keep each other out.
func TestFreezeAlone(t *testing.T) {
	m := &mounted{}
	m.alone.Store(reencrypting)
	f := &freezer{m: m, p: mountPlan{Vault: "/v", Mountpoint: "/p"}}
	if err := f.hold(context.Background(), &frozen{}, time.Minute); !errors.Is(err, errBusy) || m.alone.Load() != reencrypting {
		t.Errorf("frozen during a reencryption: %v", err)
	}
	m.alone.Store(freezing)
	if err := m.reencrypt(f.p)(context.Background(), []byte("{}"), nil); !errors.Is(err, errBusy) || m.alone.Load() != freezing {
		t.Errorf("reencrypted while frozen: %v", err)
	}
}
