package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// TestStatusOfVault counts what is under which CMK through rotation, zones and rewrap, and writes the page.
func TestStatusOfVault(t *testing.T) {
	needFUSE(t)
	b := newBench(t)
	b.mkdir("p")
	b.ok("key create --key-store keys --alias alias/z")
	b.ok("mount --init --key-store keys v p")
	b.mkdir("p/zone")
	b.write("p/a", strings.Repeat("x", 5000))
	b.write("p/zone/before", "12345")
	b.ok("zone set p/zone --key alias/z")
	b.write("p/zone/after", "123")
	var zones []zoneInfo
	b.json("zone list --json p", &zones)
	if len(zones) != 2 || zones[0].Key != "alias/aws/kmsfs" || zones[1].Key != "alias/z" || zones[1].Path != b.dir+"/p/zone" {
		t.Errorf("zones: %+v", zones)
	}
	b.fails(2, "has no CMK alias/none", "kmsfs key list", "zone set p --key alias/none")
	b.fails(2, "is the root", "zone set", "zone unset p")
	b.mkdir("p/none")
	b.fails(2, "is no encryption zone", "zone list", "zone unset p/none")
	b.ok("umount p")
	look := func(flags string) *surveyInfo {
		t.Helper()
		var s mountStatus
		b.json("status --json "+flags+" v", &s)
		if s.Survey == nil {
			t.Fatalf("no survey: %+v", s)
		}
		return s.Survey
	}
	s := look("")
	if s.Files != 3 || s.Bytes != 5008 || s.Records != 3 || *s.Behind != 1 || *s.OutOfZone != 1 || *s.Spare != 0 || len(s.Zones) != 2 || len(s.Unknown) != 0 {
		t.Errorf("%+v", s)
	}
	b.ok("key rotate --key-store keys alias/aws/kmsfs")
	if s = look(""); *s.Behind != 2 || s.VolumeKey[0].State != "behind" {
		t.Errorf("after a rotation: %+v", s)
	}
	if s = look("--offline"); s.Behind != nil || s.Keys[0].State != "" || s.Files != 3 {
		t.Errorf("offline: %+v", s)
	}
	if s = look("--tables-only"); s.Records != 3 || s.Spare != nil || s.Files != 0 || s.Behind != nil {
		t.Errorf("tables alone: %+v", s)
	}
	if err := os.Rename(b.dir+"/keys", b.dir+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	if s = look(""); s.Behind != nil || len(s.Unknown) != 1 {
		t.Errorf("without the key store: %+v", s)
	}
	if s = look("--key-store elsewhere"); *s.Behind != 2 {
		t.Errorf("with the key store that moved: %+v", s)
	}
	if err := os.Rename(b.dir+"/elsewhere", b.dir+"/keys"); err != nil {
		t.Fatal(err)
	}
	if text := b.ok("status --html page.html v"); !strings.Contains(text, "behind") {
		t.Error(text)
	}
	page, err := os.ReadFile(b.dir + "/page.html")
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(strings.TrimPrefix(string(page), "<!DOCTYPE html>")))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
	}
	if !strings.Contains(string(page), "<rect") || strings.Contains(string(page), "http") || strings.Contains(string(page), "ZgotmplZ") {
		t.Errorf("the page: %s", page)
	}
	b.ok("rewrap v")
	if s = look(""); *s.Behind != 0 || *s.OutOfZone != 0 || s.VolumeKey[0].State != "current" || s.Zones[1].Files != 2 {
		t.Errorf("after rewrap: %+v", s)
	}
}

// TestKeyUnused proves that a CMK and a key material are not needed any more, and says by what they are.
func TestKeyUnused(t *testing.T) {
	needFUSE(t)
	b := newBench(t)
	b.mkdir("p")
	b.mkdir("many")
	old := strings.TrimSpace(b.ok("key create --key-store keys --alias alias/old"))
	next := strings.TrimSpace(b.ok("key create --key-store keys --alias alias/new"))
	b.ok("mount --init --key alias/old --key-store keys many/v p")
	b.write("p/file", "content")
	b.mkdir("p/zone")
	b.ok("umount p")
	material := b.describe(old).CurrentKeyMaterialID
	for _, key := range []string{old, "alias/old", "arn:aws:kms:local:000000000000:key/" + old, material} {
		text := b.check2(27, "verify --key-unused "+key+" many")
		if !strings.Contains(text, "records: 1, such as file id") || !strings.Contains(text, "volume key: 1") || !strings.Contains(text, "CMK of new files: 1") {
			t.Errorf("%s: %s", key, text)
		}
	}
	b.fails(27, "volume key: 1", "kmsfs rewrap", "key schedule-deletion --key-store keys "+old)
	b.ok("verify --key-unused " + next + " many/v")
	b.ok("rewrap --to alias/new many/v")
	for _, key := range []string{old, "alias/old", material} {
		b.ok("verify --key-unused " + key + " many")
	}
	b.fails(27, "is needed", "kmsfs rewrap", "verify --key-unused alias/new many")
	// An encryption zone needs it, though there is nothing in it.
	b.ok("mount many/v p")
	b.ok("zone set p/zone --key alias/old")
	b.ok("umount p")
	if text := b.check2(27, "verify --key-unused "+old+" many"); !strings.Contains(text, "encryption zone: 1") {
		t.Error(text)
	}
	b.ok("mount many/v p")
	b.ok("zone unset p/zone")
	b.ok("umount p")
	b.ok("verify --key-unused " + old + " many")
	// What is damaged proves nothing.
	b.write("many/v/.kmsfs/keys/00000000000000aa", strings.Repeat("junk", 300))
	b.check2(28, "verify --key-unused "+old+" many")
	b.fails(28, "it cannot be told", "--force", "key schedule-deletion --key-store keys "+old)
	if err := os.Remove(b.dir + "/many/v/.kmsfs/keys/00000000000000aa"); err != nil {
		t.Fatal(err)
	}
	// Neither does a left-over that holds half a record, or a backup without a config.
	b.write("many/v/.kmsfs/keys/00000000000000aa.new", "KMR1"+strings.Repeat("junk", 300))
	b.check2(28, "verify --key-unused "+old+" many")
	if err := os.Remove(b.dir + "/many/v/.kmsfs/keys/00000000000000aa.new"); err != nil {
		t.Fatal(err)
	}
	b.mkdir("many/backup")
	b.mkdir("many/backup/.kmsfs")
	b.mkdir("many/backup/.kmsfs/keys")
	if text := b.check2(28, "verify --json --key-unused "+old+" many"); !strings.Contains(text, "many/v") || !strings.Contains(text, "many/backup") {
		t.Error(text)
	}
	b.ok("verify --key-unused " + old + " many/v")
	if err := os.RemoveAll(b.dir + "/many/backup"); err != nil {
		t.Fatal(err)
	}
	// Each record is in one of the shards.
	needed := 0
	for _, shard := range []string{"1/3", "2/3", "3/3"} {
		if r := b.run(strings.Fields("verify --shard " + shard + " --key-unused " + next + " many")); r.code == 27 {
			needed++
		} else if r.code != 0 {
			t.Errorf("shard %s: %d %s", shard, r.code, r.stderr)
		}
	}
	if needed < 1 || needed > 2 { // the first has the volume key
		t.Errorf("%d shards need it", needed)
	}
	// A known vault that is away may need it.
	if err := os.Rename(b.dir+"/many", b.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	b.fails(28, "many/v", "--force", "key schedule-deletion --key-store keys "+old)
	if err := os.Rename(b.dir+"/away", b.dir+"/many"); err != nil {
		t.Fatal(err)
	}
	b.ok("key schedule-deletion --key-store keys " + old)
	b.fails(27, "records: 1", "--force", "key schedule-deletion --key-store keys "+next)
	b.ok("key schedule-deletion --force --key-store keys " + next)
}

// check2 runs a line that fails with a code, and returns what it printed.
func (b *bench) check2(code int, line string) string {
	b.t.Helper()
	r := b.run(strings.Fields(line))
	if r.code != code {
		b.t.Errorf("%s: exit code %d, want %d: %s%s", line, r.code, code, r.stdout, r.stderr)
	}
	return r.stdout
}
