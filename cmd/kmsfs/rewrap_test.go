package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"kmsfs/keysource"
)

// rewrapped runs rewrap, which must succeed, and returns its summary.
func (b *bench) rewrapped(line string) (s rewrapSummary) {
	b.t.Helper()
	lines := strings.Split(b.ok("rewrap "+line), "\n")
	for _, l := range lines {
		s = rewrapSummary{}
		if err := json.Unmarshal([]byte(l), &s); err != nil {
			b.t.Fatalf("rewrap %s: %q: %v", line, l, err)
		}
	}
	if s.Event != "summary" {
		b.t.Fatalf("rewrap %s: the last line is %+v", line, s)
	}
	return s
}

// TestRewrap goes through the flags on a vault without files: its volume key moves.
func TestRewrap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.ok("key create --key-store keys --alias alias/one")
	two := b.ok("key create --key-store keys --alias alias/two")
	b.ok("init --key-store keys --key alias/one v")
	info := func() (v vaultInfo) { b.json("info --json v", &v); return v }
	material := b.ok("key rotate --key-store keys alias/one")
	if s := b.rewrapped("--dry-run --price-per-10k 10000 v"); !s.DryRun || !s.VolumeKey || s.Calls != 1 || s.Cost != 1 || info().Wrappings[0].KeyMaterialID == material {
		t.Errorf("dry run: %+v", s)
	}
	if s := b.rewrapped("--audit-log audit v"); s.Failed != 0 || info().Wrappings[0].KeyMaterialID != material {
		t.Errorf("%+v", s)
	}
	text, err := os.ReadFile(b.dir + "/audit")
	var l auditLine
	if err != nil || strings.Count(string(text), "\n") != 1 || json.Unmarshal(text, &l) != nil || !l.Volume || l.Result != "rewrapped" ||
		l.NewMaterial != material || !strings.HasSuffix(l.NewCMK, one) {
		t.Errorf("audit log %q: %+v, %v", text, l, err)
	}
	if s := b.rewrapped("v"); s.Calls != 0 || s.Describes != 1 {
		t.Errorf("again: %+v", s)
	}
	b.rewrapped("--add-wrapping alias/two v")
	if v := info(); len(v.Wrappings) != 2 || !strings.HasSuffix(v.Wrappings[1].CMK, two) {
		t.Errorf("with a further wrapping: %+v", v.Wrappings)
	}
	b.fails(2, "cannot be removed", "--help", "rewrap --remove-wrapping alias/one v")
	if s := b.rewrapped("--to alias/two --verify v"); !s.KeyChanged {
		t.Errorf("%+v", s)
	}
	if v := info(); len(v.Wrappings) != 1 || !strings.HasSuffix(v.Wrappings[0].CMK, two) || v.Key != "alias/two" {
		t.Errorf("moved: %+v", v)
	}
	b.ok("key disable --key-store keys alias/two")
	b.fails(15, "Disabled", "kmsfs key", "rewrap v")
	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{2, "is not I/N", "--shard 1/4", "rewrap --shard 3/2 v"},
		{2, "max-errors", "--help", "rewrap --max-errors 0 v"},
		{2, "key id", "--help", "rewrap --to no/such/form v"},
		{9, "not a vault", "", "rewrap keys"},
		{17, "not found", "key list", "rewrap --to alias/none v"},
		{11, "no key store", "--key-store", "rewrap --key-store none v"},
	} {
		b.fails(c.code, c.words, c.hint, c.cmd)
	}
}

// TestRewrapFails: a key whose wrapping opens nowhere stays as it is, and the exit code says so.
func TestRewrapFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("key create --key-store keys --alias alias/one")
	b.ok("key create --key-store keys --alias alias/two")
	b.ok("init --key-store keys --key alias/one v")
	b.ok("key disable --key-store keys alias/one")
	before, err := os.ReadFile(b.dir + "/v/.kmsfs/vault.json")
	if err != nil {
		t.Fatal(err)
	}
	b.fails(15, "disabled", "", "rewrap --to alias/two v")
	b.ok("key enable --key-store keys alias/one")
	b.edit("v/.kmsfs/vault.json", `"ciphertext_blob": "`, `"ciphertext_blob": "AAAA`)
	damaged, err := os.ReadFile(b.dir + "/v/.kmsfs/vault.json")
	if err != nil {
		t.Fatal(err)
	}
	b.ok("key rotate --key-store keys alias/one")
	b.fails(30, "not all keys were rewrapped", "again", "rewrap v")
	if now, err := os.ReadFile(b.dir + "/v/.kmsfs/vault.json"); err != nil || string(now) != string(damaged) || string(before) == string(damaged) {
		t.Errorf("the config has changed: %v\n%s", err, now)
	}
	if e := exitOf(keysource.NewError("", "", keysource.CodeAccessDenied, "")); e.code != 16 {
		t.Errorf("denied: %d", e.code)
	}
}

// TestAutoRewrap: a mount that is told to brings its vault under new key material, and one that is not does nothing.
func TestAutoRewrap(t *testing.T) {
	needFUSE(t)
	b := newBench(t)
	b.mkdir("p")
	b.fails(2, "read-only", "--auto-rewrap", "mount --auto-rewrap --read-only v p")
	b.fails(2, "--auto-rewrap-every", "add --auto-rewrap", "mount --auto-rewrap-every 1m v p")
	b.ok("mount --init --key-store keys v p")
	for i := range 20 {
		b.write(fmt.Sprint("p/file", i), "content")
	}
	behind := func() int64 {
		t.Helper()
		var s mountStatus
		b.json("status --json v", &s)
		if s.Survey == nil || s.Survey.Behind == nil {
			t.Fatalf("status: %+v", s.Survey)
		}
		if s.Survey.VolumeKey[0].State != "current" {
			return *s.Survey.Behind + 1
		}
		return *s.Survey.Behind
	}
	b.ok("key rotate --key-store keys alias/aws/kmsfs")
	time.Sleep(3 * time.Second)
	if n := behind(); n != 21 {
		t.Errorf("without the flag: %d are behind", n)
	}
	b.ok("umount p")
	b.ok("mount -o auto-rewrap,auto-rewrap-every=1s v p")
	wait := func(what string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); behind() > 0; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %d are behind", what, behind())
			}
		}
	}
	wait("after the mount")
	b.ok("key rotate --key-store keys alias/aws/kmsfs")
	wait("after a rotation")
	b.write("p/later", "content")
	if n := behind(); n != 0 {
		t.Errorf("a file that is made later: %d are behind", n)
	}
	b.ok("umount p")
}

// TestAutoRewrapPanics: what panics in an automatic rewrap is told, and it is tried again.
func TestAutoRewrapPanics(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("init --key-store keys v")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tries := 0
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "it will be tried again") {
			if tries++; tries == 2 {
				cancel()
			}
		}
		return len(p), nil
	}), nil))
	(&mounted{}).autoRewrap(ctx, mountPlan{Vault: b.dir + "/v", AutoRewrapEvery: time.Millisecond}, log) // it has no keysource
	if tries != 2 {
		t.Errorf("it was tried %d times", tries)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
