package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/vault/check"
)

// largest is the stored file of most bytes in a vault.
func (b *bench) largest(vault string) string {
	b.t.Helper()
	var path string
	most := int64(-1)
	if err := filepath.WalkDir(filepath.Join(b.dir, vault), func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !strings.Contains(p, ".kmsfs") {
			if fi, err := e.Info(); err == nil && fi.Size() > most {
				path, most = p, fi.Size()
			}
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// flip changes a byte of a file.
func (b *bench) flip(path string, at int64) {
	b.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	var c [1]byte
	if _, err := f.ReadAt(c[:], at); err != nil {
		b.t.Fatal(err)
	}
	c[0] ^= 0x40
	if _, err := f.WriteAt(c[:], at); err != nil {
		b.t.Fatal(err)
	}
}

// verify runs kmsfs verify --json, which must end with the code, and returns what it says of the one vault.
func (b *bench) verify(code int, line string) verifyInfo {
	b.t.Helper()
	r := b.run(strings.Fields("verify --json " + line))
	if r.code != code {
		b.t.Fatalf("kmsfs verify %s: exit code %d, want %d\n%s%s", line, r.code, code, r.stdout, r.stderr)
	}
	var all []verifyInfo
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil || len(all) != 1 {
		b.t.Fatalf("kmsfs verify %s: %v: %s", line, err, r.stdout)
	}
	return all[0]
}

// TestVerify finds damage, moves it aside, and finds none.
func TestVerify(t *testing.T) {
	t.Parallel()
	b := mountBench(t, "p")
	b.mkdir("many")
	b.ok("mount --init --key-store keys many/v p")
	b.write("p/big", strings.Repeat("0123456789", 100000))
	b.mkdir("p/dir")
	b.write("p/dir/small", "small")
	b.fails(5, "is mounted on", "kmsfs umount", "verify --repair p")
	if got := b.verify(0, "p"); !got.Keys || got.Files != 2 || got.Bytes != 1000005 || got.Vault != b.dir+"/many/v" {
		t.Errorf("%+v", got)
	}
	b.ok("umount p")
	if text := b.ok("verify many"); text[strings.Index(text, " in "):] == "" || !strings.Contains(text, "2 files and 2 directories, 1000005 bytes, opened in") || !strings.HasSuffix(text, ": no damage") {
		t.Error(text)
	}
	if got := b.verify(0, "--no-keys many/v"); got.Keys || got.Files != 2 || len(got.Findings) != 0 {
		t.Errorf("without keys: %+v", got)
	}
	if err := os.CopyFS(b.dir+"/many/w", os.DirFS(b.dir+"/many/v")); err != nil {
		t.Fatal(err)
	}
	path := b.largest("many/v")
	b.flip(path, 4096+10*4096)
	text := b.check2(3, "verify many")
	want := fmt.Sprintf("%s/many/v: chunks: big [%s]: 4096 of 1000000 bytes do not open: 40960-45055\n", b.dir, filepath.Base(path))
	if !strings.Contains(text, want) || !strings.Contains(text, "damage: 1 findings") || !strings.Contains(text, "many/w: 2 files") {
		t.Errorf("got %s, want %s", text, want)
	}
	if got := b.verify(0, "--no-keys many/v"); len(got.Findings) != 0 {
		t.Errorf("without keys: %+v", got)
	}
	got := b.verify(3, "--repair many/v")
	if len(got.Moved) != 1 || !strings.HasPrefix(got.Moved[0].To, ".kmsfs/damaged/") || got.Findings[0].Opens != 1000000-4096 {
		t.Errorf("repaired: %+v", got)
	}
	if _, err := os.Stat(b.dir + "/many/v/" + got.Moved[0].To); err != nil {
		t.Error(err)
	}
	b.ok("verify many")
	b.ok("mount many/v p")
	if text, err := os.ReadFile(b.dir + "/p/dir/small"); err != nil || string(text) != "small" {
		t.Errorf("%q, %v", text, err)
	}
	b.ok("umount p")
}

// TestVerifyDenied: a key that is refused is told, and does not keep the rest from being looked at.
func TestVerifyDenied(t *testing.T) {
	t.Parallel()
	b := mountBench(t, "p")
	b.ok("key create --key-store keys --alias alias/z")
	b.ok("mount --init --key-store keys v p")
	b.mkdir("p/zone")
	b.ok("zone set p/zone --key alias/z")
	b.write("p/zone/secret", "secret")
	b.write("p/big", strings.Repeat("x", 100000))
	b.ok("umount p")
	b.ok("key disable --key-store keys alias/z")
	got := b.verify(15, "v")
	if len(got.Findings) != 1 || got.Findings[0].Kind != check.Key || got.Findings[0].Path != "zone/secret" || got.Files != 2 {
		t.Errorf("%+v", got)
	}
	b.flip(b.largest("v"), 5000)
	if got = b.verify(3, "v"); len(got.Findings) != 2 {
		t.Errorf("with damage: %+v", got)
	}
	if got = b.verify(3, "--repair v"); len(got.Moved) != 1 || strings.Contains(got.Moved[0].Stored, "/") {
		t.Errorf("only the damage is moved: %+v", got)
	}
	b.ok("key enable --key-store keys alias/z")
	b.ok("verify v")
	if err := os.Rename(b.dir+"/keys", b.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	b.fails(11, "no key store", "--no-keys", "verify v")
	b.ok("verify --no-keys v")
	b.ok("verify --key-store away v")
}

// TestRepairNoKeys moves nothing where the keys are what is missing.
func TestRepairNoKeys(t *testing.T) {
	t.Parallel()
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/one", "1")
	b.write("p/two", strings.Repeat("2", 10000))
	b.ok("umount p")
	tables, err := filepath.Glob(b.dir + "/v/.kmsfs/keys/*")
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		if err := os.Rename(table, b.dir+"/"+filepath.Base(table)); err != nil {
			t.Fatal(err)
		}
	}
	b.check2(3, "verify --no-keys v")
	if r := b.run(strings.Fields("verify --repair v")); r.code != 3 || !strings.Contains(r.stderr, "nothing was moved") || !strings.Contains(r.stderr, "restore "+b.dir+"/v/.kmsfs/keys") {
		t.Errorf("%+v", r)
	}
	for _, table := range tables {
		if err := os.Rename(b.dir+"/"+filepath.Base(table), table); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.verify(0, "v"); got.Files != 2 {
		t.Errorf("%+v", got)
	}
}

// TestRepairTable mends the header of a key table, and leaves the files of its keys alone.
func TestRepairTable(t *testing.T) {
	t.Parallel()
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/one", "1")
	b.ok("umount p")
	tables, err := filepath.Glob(b.dir + "/v/.kmsfs/keys/*")
	if err != nil || len(tables) != 1 {
		t.Fatal(tables, err)
	}
	b.flip(tables[0], 20)
	if got := b.verify(3, "--repair v"); len(got.Mended) != 1 || len(got.Moved) != 0 || len(got.Findings) != 0 {
		t.Errorf("%+v", got)
	}
	b.ok("verify v")
}

// TestManifest: who has no keys finds what was changed, put back, exchanged, added and removed.
func TestManifest(t *testing.T) {
	t.Parallel()
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/one", strings.Repeat("1", 9000))
	b.write("p/two", strings.Repeat("2", 10000))
	b.ok("umount p")
	if err := os.CopyFS(b.dir+"/old", os.DirFS(b.dir+"/v")); err != nil {
		t.Fatal(err)
	}
	b.ok("mount v p")
	b.write("p/one", strings.Repeat("3", 9000))
	b.ok("umount p")
	b.age("v")
	r := b.run(strings.Fields("manifest --output m v"))
	signer, _, _ := strings.Cut(strings.TrimPrefix(r.stderr, "signer: "), "\n")
	if r.code != 0 || len(signer) != 64 {
		t.Fatalf("%+v", r)
	}
	if left, _ := filepath.Glob(b.dir + "/.m.*"); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	for _, line := range []string{"--manifest m v", "--manifest m --signer " + signer + " v", "--manifest m --newer-than 2020-01-01 v"} {
		if got := b.verify(0, line); !got.Manifest.Trusted || len(got.Manifest.Differences) != 0 || got.Keys == strings.Contains(line, "signer") {
			t.Errorf("%s: %+v", line, got)
		}
	}
	if r := b.run(strings.Fields("verify --no-keys --manifest m v")); r.code != 0 || !strings.Contains(r.stderr, "warning: who signed the manifest is not known") {
		t.Errorf("%+v", r)
	}
	b.fails(3, "not by 00", "get it again", "verify --manifest m --signer "+strings.Repeat("0", 64)+" v")
	b.fails(3, "which is before", "newest", "verify --manifest m --newer-than 2100-01-01 v")
	b.fails(2, "not a public key", "kmsfs manifest", "verify --manifest m --signer 12 v")
	if err := os.Rename(b.dir+"/keys", b.dir+"/away"); err != nil { // a server without keys
		t.Fatal(err)
	}
	keyless := "--manifest m --signer " + signer + " "
	changes := func(of string) (out []string) {
		t.Helper()
		for _, d := range b.verify(3, keyless+of).Manifest.Differences {
			out = append(out, string(d.Change))
		}
		return out
	}
	if got := changes("old"); !slices.Contains(got, "changed") && !slices.Contains(got, "older") {
		t.Errorf("the vault of before: %q", got)
	}
	b.fails(3, "old is not as the manifest of", "restore the rest", "verify "+keyless+"old")
	b.ok("verify --no-keys old") // nothing else tells
	path := b.largest("v")
	if err := os.Rename(path, path+"x"); err != nil {
		t.Fatal(err)
	}
	other := b.largest("v") // the same, and then the second largest
	if other == path+"x" {
		if err := os.Rename(path+"x", b.dir+"/aside"); err != nil {
			t.Fatal(err)
		}
		other = b.largest("v")
	}
	if err := errors.Join(os.Rename(other, path), os.Rename(b.dir+"/aside", other)); err != nil {
		t.Fatal(err)
	}
	b.ok("verify --no-keys --key-store away v")
	b.ok("verify --key-store away v")
	if got := changes("v"); !slices.Equal(got, []string{"older", "older"}) {
		t.Errorf("two files exchanged: %q", got)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if got := changes("v"); !slices.Contains(got, "missing") {
		t.Errorf("a file removed: %q", got)
	}
	b.edit("m", `"files":`, `"Files":`)
	b.fails(3, "malformed", "get it again", "verify "+keyless+"v")
}

// age makes all files of a directory an hour older.
func (b *bench) age(dir string) {
	b.t.Helper()
	if err := filepath.WalkDir(filepath.Join(b.dir, dir), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			old := time.Now().Add(-time.Hour)
			err = os.Chtimes(path, old, old)
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
}

// TestVerifyReadOnly verifies a vault on media that cannot be written to, and changes nothing.
func TestVerifyReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts file systems: run it as root")
	}
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/big", strings.Repeat("x", 1000000))
	b.ok("ctl flush p")
	f, err := os.OpenFile(b.dir+"/p/big", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(strings.Repeat("y", 50000)), 300000)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil { // which is in the journal now
		t.Fatal(err)
	}
	if err := os.CopyFS(b.dir+"/copy", os.DirFS(b.dir+"/v")); err != nil {
		t.Fatal(err)
	}
	b.ok("umount p")
	if _, err := os.Stat(b.dir + "/copy/.kmsfs/journal"); err != nil {
		t.Error(err)
	}
	b.mkdir("ro")
	if err := errors.Join(syscall.Mount(b.dir+"/copy", b.dir+"/ro", "", syscall.MS_BIND, ""),
		syscall.Mount("", b.dir+"/ro", "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(b.dir+"/ro", 0)
	before := times(t, b.dir+"/copy")
	b.ok("verify ro")
	b.ok("verify --no-keys ro")
	b.ok("manifest --output m ro")
	b.ok("verify --manifest m ro")
	if after := times(t, b.dir+"/copy"); !slices.Equal(before, after) {
		t.Errorf("it was changed: %q, and before %q", after, before)
	}
	if r := b.run(strings.Fields("verify --repair ro")); r.code != 22 || !strings.Contains(r.stderr, "read-only") {
		t.Errorf("repair on read-only media: %+v", r)
	}
}

// times are the paths, sizes and times of all that is in dir.
func times(t *testing.T, dir string) (out []string) {
	t.Helper()
	if err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil {
			st := fi.Sys().(*syscall.Stat_t)
			out = append(out, fmt.Sprint(path, fi.Size(), fi.Mode(), st.Mtim, st.Ctim))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// load changes files on a mount until the context ends: some are written over, appended to, cut, renamed, removed.
func load(ctx context.Context, dir string, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	for ctx.Err() == nil {
		path := fmt.Sprintf("%s/f%d", dir, r.IntN(40))
		err := error(nil)
		switch r.IntN(6) {
		case 0:
			err = os.Remove(path)
		case 1:
			err = os.Rename(path, fmt.Sprintf("%s/f%d", dir, r.IntN(40)))
		case 2:
			err = os.Truncate(path, int64(r.IntN(400000)))
		default:
			var f *os.File
			if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
				b := make([]byte, 1+r.IntN(100000))
				_, err = f.WriteAt(b, int64(r.IntN(300000)))
				if r.IntN(2) == 0 {
					err = errors.Join(err, f.Sync())
				}
				err = errors.Join(err, f.Close())
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// TestVerifyLive: beside a load nothing is found, and damage is.
func TestVerifyLive(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.mkdir("p/busy")
	b.write("p/still", strings.Repeat("s", 2000000))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { errs[i] = load(ctx, b.dir+"/p/busy", uint64(i)) })
	}
	defer wg.Wait()
	defer cancel()
	looked, gone := 0, int64(0)
	for began := time.Now(); time.Since(began) < 4*time.Second; {
		for _, flags := range []string{"", "--no-keys "} {
			got := b.verify(0, flags+"v")
			for _, f := range got.Findings {
				if f.Damage() {
					t.Fatalf("verify %s: %+v", flags, got)
				}
			}
			looked++
			gone += got.Gone
		}
	}
	t.Logf("%d times, of which %d findings were changes under way", looked, gone)
	b.ok("ctl flush p")
	path := b.largest("v")
	b.flip(path, 4096+30*4096)
	got := b.verify(3, "v")
	if !slices.ContainsFunc(got.Findings, func(f check.Finding) bool { return f.Kind == check.Chunks && f.Path == "still" }) || got.Unconfirmed != "" {
		t.Errorf("damage beside a load: %+v", got)
	}
	b.fails(33, "is not frozen", "--timeout", "ctl thaw p")
	b.flip(path, 4096+30*4096) // as it was, for the unmount
	cancel()
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
