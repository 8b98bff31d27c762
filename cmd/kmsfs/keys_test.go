package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource/local"
)

// filled makes the vault v with n files in each of two directories, the second an encryption zone, without a mount. It returns
// what reads them and says how many there are.
func (b *bench) filled(n int) (readable func() int) {
	b.t.Helper()
	b.ok("key create --key-store keys --alias alias/zone")
	b.ok("init --key-store keys v")
	open := func(a vault.Access) (*vault.Vault, func()) {
		b.t.Helper()
		ks, err := local.Open(b.t.Context(), local.Config{Dir: b.dir + "/keys"})
		if err != nil {
			b.t.Fatal(err)
		}
		top, err := backing.OpenDir(b.dir + "/v")
		if err != nil {
			b.t.Fatal(err)
		}
		v, err := vault.Open(b.t.Context(), top, ks, vault.Options{Access: a})
		if err != nil {
			b.t.Fatal(err)
		}
		return v, func() {
			if err := v.Close(); err != nil {
				b.t.Error(err)
			}
			ks.Close()
		}
	}
	v, done := open(vault.ReadWrite)
	for _, dir := range []string{"plain", "zone"} {
		d, _, err := v.Mkdir(v.Root(), dir, 0o755, vault.Caller{})
		if err == nil && dir == "zone" {
			err = v.SetZone(b.t.Context(), d, "alias/zone")
		}
		for i := 0; i < n && err == nil; i++ {
			var f *vault.Node
			if f, _, err = v.Create(d, fmt.Sprint(i), 0o644, vault.Caller{}); err == nil {
				_, err = v.Write(b.t.Context(), f, fmt.Append(nil, dir, i), 0, vault.KeepPrivileges)
				v.Release(f)
				v.Forget(f, 1)
			}
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	done()
	return func() (whole int) {
		v, done := open(vault.ReadOnly)
		defer done()
		for _, dir := range []string{"plain", "zone"} {
			d, _, err := v.Lookup(v.Root(), dir)
			if err != nil {
				b.t.Fatal(err)
			}
			for i := range n {
				f, _, err := v.Lookup(d, fmt.Sprint(i))
				if err != nil {
					b.t.Fatal(err)
				}
				buf := make([]byte, 100)
				if k, err := v.Read(b.t.Context(), f, buf, 0); err == nil && string(buf[:k]) == fmt.Sprint(dir, i) {
					whole++
				}
			}
		}
		return whole
	}
}

// lose removes a file or directory.
func (b *bench) lose(name string) {
	b.t.Helper()
	if err := os.RemoveAll(filepath.Join(b.dir, name)); err != nil {
		b.t.Fatal(err)
	}
}

// tables are the names of the key tables of v.
func (b *bench) tables() (names []string) {
	b.t.Helper()
	all, err := filepath.Glob(b.dir + "/v/.kmsfs/keys/*")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, name := range all {
		if _, ok := envelope.ParseTableName(filepath.Base(name)); ok {
			names = append(names, "v/.kmsfs/keys/"+filepath.Base(name))
		}
	}
	return names
}

// TestKeyFile exports keys, loses them, and puts them back.
func TestKeyFile(t *testing.T) {
	b := newBench(t)
	readable := b.filled(20)
	b.ok("keys export --output k.tar v")
	if st, err := os.Stat(b.dir + "/k.tar"); err != nil || st.Mode() != 0o600 {
		t.Errorf("the key file: %v, %v", st, err)
	}
	var c compareReport
	b.json("keys compare --json v k.tar", &c)
	if !c.Complete || c.Files != 40 || c.Same < 40 || c.OnlyHere+c.OnlyThere+c.Rewrapped+c.Differing != 0 || c.Config != "same" {
		t.Errorf("%+v", c)
	}
	b.lose("v/.kmsfs")
	if r := b.run([]string{"keys", "import", "v"}); r.code != 3 || !strings.Contains(r.stderr, "cut short") { // stdin is empty
		t.Errorf("nothing on stdin: %d %s", r.code, r.stderr)
	}
	var r importReport
	b.json("keys import --json --dry-run v k.tar", &r)
	if _, err := os.Lstat(b.dir + "/v/.kmsfs"); err == nil || r.Records != 40 || r.Config != "put in" {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	r = importReport{}
	b.json("keys import --json v k.tar", &r)
	if r.Records != 40 || len(r.Missing) != 0 || readable() != 40 {
		t.Errorf("%+v, %d readable", r, readable())
	}
	// Without kmsfs.
	b.lose("v/.kmsfs")
	b.tool("", "tar", "-xf", "k.tar", "-C", "v", ".kmsfs")
	if readable() != 40 {
		t.Errorf("tar: %d readable", readable())
	}
	// A zone's files alone, and a damaged config, which stays.
	b.write("v/.kmsfs/vault.json", "{}")
	b.lose(b.tables()[0])
	if text := b.ok("keys import --from k.tar v"); !strings.Contains(text, "put in, old kept") || readable() != 40 {
		t.Errorf("%s, %d readable", text, readable())
	}
	if kept, err := filepath.Glob(b.dir + "/v/.kmsfs/vault.json.damaged-*"); err != nil || len(kept) != 1 {
		t.Errorf("damaged configs: %q, %v", kept, err)
	}
	b.ok("rewrap --to alias/zone v")
	b.json("keys compare --json v k.tar", &c)
	if !c.Complete || c.Rewrapped != 20 || c.Config != "other" {
		t.Errorf("rewrapped: %+v", c)
	}
	b.lose("v/.kmsfs/keys")
	b.ok("keys import v k.tar")
	if readable() != 40 {
		t.Errorf("older wrappings: %d readable", readable())
	}
}

// TestKeyFileRefusals runs into what import, export and compare refuse.
func TestKeyFileRefusals(t *testing.T) {
	b := newBench(t)
	readable := b.filled(5)
	b.ok("init --key-store other w")
	b.ok("keys export --output k.tar v")
	b.ok("keys export --output w.tar w")
	b.mkdir("d")
	b.write("text", "no key file")
	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{2, "needs a verb", "kmsfs keys --help", "keys"},
		{2, "VAULT is missing", "keys export VAULT", "keys export"},
		{9, "is not a vault", "kmsfs init", "keys export d"},
		{22, "--output", "directory", "keys export --output none/k v"},
		{22, "key file", "kmsfs keys export", "keys import v none"},
		{2, "twice", "leave one", "keys import --from k.tar v k.tar"},
		{3, "key file", "kmsfs keys export", "keys import v text"},
		{2, "another vault", "--volume-id", "keys import v w.tar"},
		{2, "another vault", "--volume-id", "keys import d k.tar"},
		{2, "not a volume id", "kmsfs-keys.json", "keys import --volume-id x d k.tar"},
		{2, "FILE|VAULT2 is missing", "keys compare", "keys compare v"},
		{2, "another vault", "--volume-id", "keys compare v w.tar"},
		{2, "another vault", "--volume-id", "keys compare v w"},
		{3, "key file", "kmsfs keys export", "keys compare v text"},
	} {
		b.fails(c.code, c.words, c.hint, c.cmd)
	}
	if entries, err := os.ReadDir(b.dir + "/d"); err != nil || len(entries) > 0 {
		t.Errorf("something was made in a directory that is no vault: %v, %v", entries, err)
	}
	// A damaged table is told, and the key file of before stays.
	before, err := os.ReadFile(b.dir + "/k.tar")
	if err != nil {
		t.Fatal(err)
	}
	table := b.dir + "/" + b.tables()[0]
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	text[600] ^= 1
	if err := os.WriteFile(table, text, 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.run([]string{"keys", "export", "--output", "k.tar", "v"})
	if after, err := os.ReadFile(b.dir + "/k.tar"); r.code != 3 || string(after) != string(before) || err != nil || !strings.Contains(r.stderr, "k.tar.damaged") {
		t.Errorf("a damaged table: %d %s", r.code, r.stderr)
	}
	// What the damaged one lacks is named, with its plaintext, and the older one has it.
	r = b.run([]string{"keys", "import", "v", "k.tar.damaged"})
	if r.code != 3 || strings.Count(r.stdout, "no record: ") != 1 || !strings.Contains(r.stdout, " (") || !strings.Contains(r.stderr, "1 files have no record") {
		t.Errorf("still missing: %d %s%s", r.code, r.stdout, r.stderr)
	}
	r = b.run([]string{"keys", "import", "--no-keys", "--json", "v", "k.tar.damaged"})
	var report importReport
	if err := json.Unmarshal([]byte(r.stdout), &report); r.code != 3 || err != nil || len(report.Missing) != 1 || report.Missing[0].Path != "" {
		t.Errorf("without keys: %d %s%s", r.code, r.stdout, r.stderr)
	}
	if r := b.run([]string{"keys", "compare", "v", "k.tar.damaged"}); r.code != 3 || !strings.Contains(r.stdout, "no record there: ") {
		t.Errorf("compare: %d %s%s", r.code, r.stdout, r.stderr)
	}
	b.ok("keys import v k.tar")
	if readable() != 10 {
		t.Errorf("%d readable", readable())
	}
	// Without the CMK the records are put in all the same, and the error says so.
	b.lose("v/.kmsfs/keys")
	if err := os.Rename(b.dir+"/keys", b.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	b.ok("keys import --no-keys v k.tar")
	if r := b.run([]string{"keys", "import", "v", "k.tar"}); r.code != 11 || !strings.Contains(r.stderr, "the records are put in") {
		t.Errorf("no key store: %d %s", r.code, r.stderr)
	}
}

// TestKeyFileMounted: a mounted vault is exported and compared, and not imported into.
func TestKeyFileMounted(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/file", "text")
	b.ok("keys export --output k.tar p")
	b.ok("keys compare v k.tar")
	b.write("p/new", "text")
	// The mount makes keys ahead, so that the record of the new file may be in the key file already.
	if r := b.run([]string{"keys", "compare", "p", "k.tar"}); r.code != 0 && (r.code != 3 || !strings.Contains(r.stderr, "lacks the records of 1 of 2 files")) {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	b.fails(5, "is mounted on", "kmsfs umount", "keys import v k.tar")
	b.fails(5, "is mounted on", "kmsfs umount", "keys import p k.tar")
	b.ok("keys import --dry-run v k.tar")
	b.ok("umount p")
	b.ok("keys import v k.tar")
}

// TestKeyFileKilled kills an import with SIGKILL again and again, and lets the last one end.
func TestKeyFileKilled(t *testing.T) {
	b := newBench(t)
	readable := b.filled(600)
	b.ok("keys export --output k.tar v")
	b.lose("v/.kmsfs")
	killed := 0
	for i := range 12 {
		cmd := b.command("keys", "import", "--no-keys", "v", "k.tar")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+3*i) * time.Millisecond)
		if cmd.Process.Kill() == nil && cmd.Wait() != nil {
			killed++
		}
	}
	b.ok("keys import v k.tar")
	if readable() != 1200 {
		t.Errorf("%d readable", readable())
	}
	t.Logf("%d killed", killed)
}

// TestKeyFileOwner: what root puts into the vault of a user is the user's.
func TestKeyFileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can work in another user's vault: run the test as root")
	}
	b := newBench(t)
	b.filled(3)
	b.ok("keys export --output k.tar v")
	const user = 4711
	if err := filepath.WalkDir(b.dir+"/v", func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, user, user)
	}); err != nil {
		t.Fatal(err)
	}
	b.lose("v/.kmsfs")
	b.ok("keys import v k.tar")
	n := 0
	if err := filepath.WalkDir(b.dir+"/v/.kmsfs", func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Lstat(path)
		if err == nil && (st.Sys().(*syscall.Stat_t).Uid != user || st.Mode().Perm()&0o077 != 0) {
			t.Errorf("%s is not the user's alone", path)
		}
		n++
		return err
	}); err != nil || n < 7 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestLostKeysOffline: where data keys are lost, the verbs without a mount do the rest, say which files lack theirs, and end as where
// there is damage, with the verb that puts keys back.
func TestLostKeysOffline(t *testing.T) {
	b := newBench(t)
	readable := b.filled(3)
	b.ok("keys export --output k.tar v")
	b.lose(b.tables()[0])
	left := readable()
	if left == 0 || left == 6 {
		t.Fatalf("%d of 6 readable", left)
	}
	b.mkdir("copy")
	for _, line := range []string{"sync v out", "export --output v.tar v", "cp v: copy"} {
		r := b.run(strings.Fields(line))
		if r.code != 3 || !strings.Contains(r.stderr, "hint: kmsfs keys import") || strings.Count(r.stderr, "no data key") != 6-left {
			t.Errorf("kmsfs %s: exit code %d: %s", line, r.code, r.stderr)
		}
	}
	for _, pattern := range []string{"out/*/*", "copy/*/*"} {
		if files, err := filepath.Glob(filepath.Join(b.dir, pattern)); err != nil || len(files) != left {
			t.Errorf("%s: %q, %v", pattern, files, err)
		}
	}
	lost := 0
	for _, path := range []string{"plain/0", "zone/0"} {
		if r := b.run([]string{"cat", "v", path}); r.code != 0 {
			lost++
			if r.code != 3 || !strings.Contains(r.stderr, "hint: kmsfs keys import") {
				t.Errorf("cat: exit code %d: %s", r.code, r.stderr)
			}
		}
	}
	if lost != 1 {
		t.Errorf("%d of 2 are lost", lost)
	}
	b.ok("keys import v k.tar")
	b.ok("sync v out")
}
