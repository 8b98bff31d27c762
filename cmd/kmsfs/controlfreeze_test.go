package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// TestCtlFreeze: while a mount is frozen reads go on and changes wait, and a copy of the vault is of that moment; at the timeout
// it thaws by itself, and says so.
func TestCtlFreeze(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/before", "kept")
	b.fails(33, "is not frozen", "--timeout", "ctl thaw p")
	b.fails(2, "at most 1h", "--timeout 60s", "ctl freeze --timeout 0s p")
	b.ok("ctl freeze --timeout 30s v")
	changed := make(chan error, 2)
	go func() { changed <- writeSynced(b.dir+"/p/after", "late") }()
	go func() { changed <- os.Mkdir(b.dir+"/p/dir", 0o700) }()
	select {
	case err := <-changed:
		t.Fatalf("something was changed on a frozen mount: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if got, err := os.ReadFile(b.dir + "/p/before"); err != nil || string(got) != "kept" {
		t.Errorf("read on a frozen mount: %q, %v", got, err)
	}
	b.fails(24, "is frozen", "kmsfs ctl thaw", "ctl freeze p")
	if err := os.CopyFS(b.dir+"/copy", os.DirFS(b.dir+"/v")); err != nil {
		t.Fatal(err)
	}
	var thawed thawedInfo
	b.json("ctl thaw --json p", &thawed)
	if thawed.Seconds < 0.3 {
		t.Errorf("frozen for %v s", thawed.Seconds)
	}
	for range 2 {
		if err := <-changed; err != nil {
			t.Errorf("a change that was held: %v", err)
		}
	}
	b.ok("ctl freeze --timeout 1s p")
	began := time.Now()
	if err := os.Remove(b.dir + "/p/dir"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 500*time.Millisecond || took > 10*time.Second {
		t.Errorf("held for %v, want 1 s", took)
	}
	b.fails(33, "no longer", "--timeout", "ctl thaw p")
	if got, err := os.ReadFile(b.dir + "/p/after"); err != nil || string(got) != "late" {
		t.Errorf("what was held: %q, %v", got, err)
	}
	b.ok("umount p")
	b.ok("mount copy p")
	if got, err := os.ReadFile(b.dir + "/p/before"); err != nil || string(got) != "kept" {
		t.Errorf("in the copy: %q, %v", got, err)
	}
	for _, name := range []string{"after", "dir"} {
		if _, err := os.Stat(b.dir + "/p/" + name); err == nil {
			t.Errorf("the copy has %s, which came later", name)
		}
	}
}

// TestCtlFreezeEnds: a frozen mount that is told to end lets go of who is held and ends, with nothing lost.
func TestCtlFreezeEnds(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	pid := b.pid("p")
	b.ok("ctl freeze --timeout 5m p")
	wrote := make(chan error, 1)
	go func() { wrote <- writeSynced(b.dir+"/p/held", "text") }()
	time.Sleep(200 * time.Millisecond)
	sendSignal(t, pid, syscall.SIGTERM)
	waitGone(t, pid)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	b.ok("mount v p")
	if got, err := os.ReadFile(b.dir + "/p/held"); err != nil || string(got) != "text" {
		t.Errorf("what was held reads %q, %v", got, err)
	}
}
