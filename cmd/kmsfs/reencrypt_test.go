package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// reencrypted runs reencrypt, which must succeed, and returns its summary.
func (b *bench) reencrypted(line string) (s reencryptSummary) {
	b.t.Helper()
	lines := strings.Split(b.ok("reencrypt "+line), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Event != "summary" {
		b.t.Fatalf("reencrypt %s: %q: %v", line, lines, err)
	}
	return s
}

// TestReencrypt: files get new data keys, by path, age and CMK; what they hold stays.
func TestReencrypt(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("key create --key-store keys --alias alias/one")
	b.ok("key create --key-store keys --alias alias/two")
	b.ok("init --key-store keys --key alias/one v")
	b.mkdir("p")
	b.ok("mount v p")
	b.mkdir("p/dir")
	text := strings.Repeat("some text ", 10000)
	b.write("p/dir/large", text)
	b.write("p/small", "few")
	if err := os.Link(b.dir+"/p/small", b.dir+"/p/dir/link"); err != nil {
		t.Fatal(err)
	}
	var small, large fileInfo
	info := func() {
		b.json("info --json p/small", &small)
		b.json("info --json p/dir/large", &large)
	}
	info()
	first := [2]string{small.WrappedKey, large.WrappedKey}
	remount := func() { b.ok("mount v p"); info(); b.ok("umount p") }
	b.ok("umount p")
	if s := b.reencrypted("--dry-run v"); !s.DryRun || s.Done != 3 || s.Files != 3 {
		t.Errorf("dry run: %+v", s)
	}
	if s := b.reencrypted("--older-than 1h v"); s.Done != 0 {
		t.Errorf("older than an hour: %+v", s)
	}
	if s := b.reencrypted("--from alias/two v"); s.Done != 0 {
		t.Errorf("from another CMK: %+v", s)
	}
	remount()
	if first != [2]string{small.WrappedKey, large.WrappedKey} {
		t.Error("keys have changed")
	}
	if s := b.reencrypted("--only dir/large v"); s.Done != 1 || s.Bytes != int64(len(text)) {
		t.Errorf("one file: %+v", s)
	}
	remount()
	if first[0] != small.WrappedKey || first[1] == large.WrappedKey {
		t.Error("not the key of that file alone has changed")
	}
	s := b.reencrypted("--from alias/one v")
	if s.Done != 2 || s.Files != 3 {
		t.Errorf("all: %+v", s)
	}
	if again := b.reencrypted("--created-before " + s.Before + " v"); again.Done != 0 {
		t.Errorf("again: %+v", again)
	}
	remount()
	b.ok("mount v p")
	for name, want := range map[string]string{"p/dir/large": text, "p/small": "few", "p/dir/link": "few"} {
		if got, err := os.ReadFile(b.dir + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if first[0] == small.WrappedKey {
		t.Error("the small file has its old key")
	}
	b.ok("umount p")
	b.fails(2, "not a time", "--created-before 2026", "reencrypt --created-before yesterday v")
	b.fails(2, "give one", "--help", "reencrypt --created-before 2026-01-02T03:04:05Z --older-than 1h v")
	b.fails(22, "--only none", "from the root", "reencrypt --only none v")
}

// TestReencryptMounted has the daemon reencrypt while files are written and read: all is right, also what was synced before the
// daemon is killed in the middle. The next run goes on.
func TestReencryptMounted(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("mount --init --key-store keys v p")
	b.mkdir("p/dir")
	want := map[string][]byte{}
	for i := range 60 {
		name := fmt.Sprintf("p/dir/file%d", i)
		data := make([]byte, i*i*1000)
		rand.Read(data)
		want[name] = data
		if err := os.WriteFile(b.dir+"/"+name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)
	if err := os.Chtimes(b.dir+"/p/dir/file7", old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(b.dir+"/p/dir/file7", b.dir+"/p/link"); err != nil {
		t.Fatal(err)
	}
	var before, after fileInfo
	b.json("info --json p/dir/file50", &before)
	var stop atomic.Bool
	var logs []*atomic.Int64 // how many lines of each log are durable
	var load sync.WaitGroup
	appendLines := func(synced *atomic.Int64, name string) error { // until stop, or until the mount is gone
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		for i := int64(0); !stop.Load(); i++ {
			if _, err := fmt.Fprintf(f, "line %d\n", i); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			synced.Store(i + 1)
		}
		return nil
	}
	newLog := func() func() error {
		logs = append(logs, &atomic.Int64{})
		synced, name := logs[len(logs)-1], fmt.Sprint(b.dir, "/p/log", len(logs)-1)
		return func() error { return appendLines(synced, name) }
	}
	first := newLog()
	load.Go(func() {
		if err := first(); err != nil {
			t.Errorf("append: %v", err)
		}
	})
	load.Go(func() {
		for !stop.Load() {
			got, err := os.ReadFile(b.dir + "/p/dir/file50")
			if err != nil || !bytes.Equal(got, want["p/dir/file50"]) {
				t.Errorf("read meanwhile: %d bytes, %v", len(got), err)
				return
			}
		}
	})
	compare := func() {
		t.Helper()
		for name, data := range want {
			if got, err := os.ReadFile(b.dir + "/" + name); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
			}
		}
		for k, synced := range logs {
			log, err := os.ReadFile(fmt.Sprint(b.dir, "/p/log", k))
			lines := strings.Split(string(log), "\n")
			if int64(len(lines)) <= synced.Load() {
				t.Errorf("log %d: %d lines of %d, %v", k, len(lines)-1, synced.Load(), err)
			}
			for i := range min(int64(len(lines)), synced.Load()) {
				if lines[i] != fmt.Sprint("line ", i) {
					t.Errorf("log %d: line %d of %d is %q", k, i, synced.Load(), lines[i])
					break
				}
			}
		}
	}
	if s := b.reencrypted("--dry-run v"); s.Done < 59 || s.Failed != 0 || s.Bytes < 60_000_000 {
		t.Errorf("dry run: %+v", s)
	}
	s := b.reencrypted("--json p")
	if s.Done < 59 || s.Failed != 0 || s.Bytes < 60_000_000 {
		t.Errorf("while mounted: %+v", s)
	}
	b.json("info --json p/dir/file50", &after)
	if after.WrappedKey == before.WrappedKey || after.FileID != before.FileID || after.Created <= before.Created {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if again := b.reencrypted("--created-before " + s.Before + " v"); again.Done != 0 {
		t.Errorf("once more: %+v", again)
	}
	stop.Store(true)
	load.Wait()
	compare()
	st, err := os.Stat(b.dir + "/p/dir/file7")
	if err != nil || !st.ModTime().Equal(old) || st.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("times and links: %v, %v", st, err)
	}
	// Killed in the middle.
	for i := range 3 {
		stop.Store(false)
		next := newLog()
		load.Go(func() {
			if err := next(); err == nil {
				t.Error("the mount was not killed")
			}
		})
		cmd := b.command("reencrypt", "--json", "v")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(40+60*i) * time.Millisecond)
		sendSignal(t, b.pid(b.dir+"/p"), syscall.SIGKILL)
		if err := cmd.Wait(); err == nil {
			t.Error("reencrypt succeeded without a daemon")
		}
		load.Wait()
		if out, err := exec.Command("umount", "-l", b.dir+"/p").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b.ok("mount v p")
		compare()
	}
	last := b.reencrypted("p")
	if last.Failed != 0 {
		t.Errorf("after kills: %+v", last)
	}
	compare()
	// Interrupted by the caller.
	cmd := b.command("reencrypt", "v")
	cmd.Stdout = nil
	lines, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lines.Read(make([]byte, 1)); err != nil { // it is at work
		t.Fatal(err)
	}
	sendSignal(t, cmd.Process.Pid, syscall.SIGINT)
	io.Copy(io.Discard, lines)
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 130) {
		t.Errorf("interrupted: %v", err)
	}
	b.ok("umount p")
	if s := b.reencrypted("--only dir v"); s.Failed != 0 || s.Done != 59 {
		t.Errorf("not mounted any more: %+v", s)
	}
	b.ok("mount --shared v p")
	compare()
	b.fails(2, "--shared", "umount", "reencrypt "+filepath.Base("v"))
	b.ok("umount p")
}

// TestReencryptChanging reencrypts while files are overwritten, directories and files come and go, and a data base commits. What
// was deleted meanwhile is no failure; contents, holes and the data base are right, also after a remount.
func TestReencryptChanging(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("mount --init --key-store keys v p")
	const block, blocks = 10000, 400
	model := make([]byte, block*blocks)
	rand.Read(model)
	b.write("p/model", string(model))
	hole, err := os.Create(b.dir + "/p/hole")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	if _, err := hole.WriteAt([]byte("end"), 100<<20); err != nil {
		t.Fatal(err)
	}
	var before, after fileInfo
	b.json("info --json p/hole", &before)
	used := func() int64 {
		var st syscall.Stat_t
		if err := syscall.Stat(b.dir+"/p/hole", &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	var stop atomic.Bool
	var load sync.WaitGroup
	until := func(what string, f func(i int) error) {
		load.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := f(i); err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	file, err := os.OpenFile(b.dir+"/p/model", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	until("overwrite", func(i int) error {
		at := i * 7919 % (len(model) - block)
		rand.Read(model[at : at+block])
		if _, err := file.WriteAt(model[at:at+block], int64(at)); err != nil {
			return err
		}
		got := make([]byte, block)
		if _, err := file.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, model[at:at+block]) {
			return fmt.Errorf("what was just written at %d reads as something else: %w", at, err)
		}
		return file.Sync()
	})
	for k := range 2 {
		until("come and go", func(i int) error {
			dir := fmt.Sprintf("%s/p/dir%d-%d", b.dir, k, i%10)
			if err := os.RemoveAll(dir + "/moved"); err != nil {
				return err
			}
			if err := os.MkdirAll(dir+"/sub/sub", 0o700); err != nil {
				return err
			}
			for n := range 10 {
				if err := os.WriteFile(fmt.Sprint(dir, "/sub/sub/", n), model[:1000*n], 0o600); err != nil {
					return err
				}
			}
			return os.Rename(dir+"/sub", dir+"/moved")
		})
	}
	sqlite, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Log("without sqlite3")
	} else {
		until("sqlite", func(i int) error {
			sql := fmt.Sprintf("create table if not exists t(n integer); insert into t values (%d); select count(*) from t;", i)
			out, err := exec.Command(sqlite, b.dir+"/p/db", sql).CombinedOutput()
			if err == nil && strings.TrimSpace(string(out)) != fmt.Sprint(i+1) {
				err = errors.New("rows are missing")
			}
			if err != nil {
				return fmt.Errorf("insert %d: %w: %s", i, err, out)
			}
			return nil
		})
	}
	space := used()
	for range 8 {
		if s := b.reencrypted("p"); s.Failed != 0 || s.Done < 2 {
			t.Errorf("while things change: %+v", s)
		}
	}
	stop.Store(true)
	load.Wait()
	b.json("info --json p/hole", &after)
	if after.Created <= before.Created || after.WrappedKey == before.WrappedKey || used() > space+64<<10 {
		t.Errorf("hole: before %+v, after %+v; %d bytes became %d", before, after, space, used())
	}
	hole.Close()
	file.Close()
	b.ok("umount p")
	b.ok("mount v p")
	if got, err := os.ReadFile(b.dir + "/p/model"); err != nil || !bytes.Equal(got, model) {
		t.Errorf("overwritten: %d bytes, %v", len(got), err)
	}
	if sqlite != "" {
		if out, err := exec.Command(sqlite, b.dir+"/p/db", "pragma integrity_check").CombinedOutput(); err != nil || string(out) != "ok\n" {
			t.Errorf("data base: %v: %s", err, out)
		}
	}
	b.ok("umount p")
	b.ok("mount --read-only v p")
	b.fails(22, "read-only", "umount", "reencrypt p")
	b.ok("umount p")
}

// TestReencryptGone: a file and a directory that are deleted after they were found are passed over.
func TestReencryptGone(t *testing.T) {
	b := newBench(t)
	b.ok("init --key-store keys v")
	cfg, err := readConfig(b.dir + "/v")
	if err != nil {
		t.Fatal(err)
	}
	ks, err := openKeysource(t.Context(), mountPlan{Vault: b.dir + "/v"}, cfg.Keysource, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ks.Close()
	open := func() *vault.Vault {
		top, err := backing.OpenDir(b.dir + "/v")
		if err != nil {
			t.Fatal(err)
		}
		v, err := vault.Open(t.Context(), top, ks, vault.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := open()
	who := vault.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if _, _, err := v.Mkdir(v.Root(), "dir", 0o700, who); err != nil {
		t.Fatal(err)
	}
	file, _, err := v.Create(v.Root(), "file", 0o600, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(t.Context(), file, []byte("text"), 0, 0); err != nil {
		t.Fatal(err)
	}
	v.Release(file)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = open() // where neither is open
	defer v.Close()
	dir, _, err := v.Lookup(v.Root(), "dir")
	if err != nil {
		t.Fatal(err)
	}
	if file, _, err = v.Lookup(v.Root(), "file"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Rmdir(v.Root(), "dir"), v.Unlink(v.Root(), "file")); err != nil {
		t.Fatal(err)
	}
	run := &reencryption{v: v, file: func(f vault.Reencrypted) {
		if f.Done || f.Err != nil {
			t.Errorf("a file that is gone: %+v", f)
		}
	}}
	if err := run.walk(t.Context(), dir); err != nil {
		t.Errorf("a directory that is gone: %v", err)
	}
	run.batch = []*vault.Node{file}
	if err := run.all(t.Context(), ""); err != nil {
		t.Errorf("a file that is gone: %v", err)
	}
}

// TestRewrapDuringReencrypt moves wrappings of the records that a reencryption is replacing: both come to their end, and all
// is there.
func TestRewrapDuringReencrypt(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("mount --init --key-store keys v p")
	want := map[string][]byte{}
	for i := range 80 {
		name := fmt.Sprintf("p/file%d", i)
		data := make([]byte, 100+i*9000)
		rand.Read(data)
		want[name] = data
		if err := os.WriteFile(b.dir+"/"+name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		b.ok("key rotate --key-store keys alias/aws/kmsfs")
		var both sync.WaitGroup
		for _, line := range []string{"reencrypt v", "rewrap v", "rewrap --force v"} {
			both.Go(func() {
				if r := b.run(strings.Fields(line)); r.code != 0 {
					t.Errorf("%s: exit code %d: %s", line, r.code, r.stderr)
				}
			})
		}
		both.Wait()
	}
	b.ok("rewrap v")
	b.ok("umount p")
	var s mountStatus
	b.json("status --json v", &s)
	if s.Survey.Missing != 0 || s.Survey.Damaged != 0 || *s.Survey.Behind != 0 || s.Survey.Files != 80 {
		t.Errorf("%+v", s.Survey)
	}
	b.ok("mount v p")
	for name, data := range want {
		if got, err := os.ReadFile(b.dir + "/" + name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
	}
	b.ok("umount p")
}
