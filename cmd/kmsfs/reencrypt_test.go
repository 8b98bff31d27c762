package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
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
	b.fails(5, "is mounted", "umount", "reencrypt v")
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
