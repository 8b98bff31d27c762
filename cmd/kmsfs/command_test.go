package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestRefusals runs the program into every error that needs no mount. Each has its exit code, its words and its hint.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("init --key-store keys v")
	b.ok("init --key-store other w")
	b.mkdir("empty")
	b.mkdir("full")
	b.write("full/file", "x")
	for _, name := range []string{"edited", "newer", "broken"} {
		if err := os.CopyFS(b.dir+"/"+name, os.DirFS(b.dir+"/v")); err != nil {
			t.Fatal(err)
		}
	}
	b.edit("edited/.kmsfs/vault.json", `"chunk_size": 4096`, `"chunk_size": 16384`)
	b.edit("newer/.kmsfs/vault.json", `"format": 1`, `"format": 2`)
	b.write("broken/.kmsfs/vault.json", "{")
	b.mkdir("badstore")
	b.write("badstore/keystore", "")

	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{2, "needs a verb", "kmsfs --help", ""},
		{2, `no verb "mont"`, "kmsfs mount", "mont"},
		{2, `no verb "crate"`, "kmsfs key create", "key crate"},
		{2, "VAULT is missing", "kmsfs init VAULT", "init"},
		{2, "one argument too many", "kmsfs umount", "umount a b"},
		{2, "unknown flag: --bla", "kmsfs mount --help", "mount --bla v empty"},
		{2, "chunk-size", "4096", "init --chunk-size 5 new"},
		{2, "--key", "alias/NAME", "init --key no/such/form new"},
		{2, "say the same thing twice", "leave one", "init --key-store k --keysource local:k new"},
		{2, "unknown key source scheme", "local:PATH", "init --keysource ftp:x new"},
		{2, "passphrase-from", "never stands on the command line", "init --passphrase-from secret new"},
		{2, "not an alias", "alias/NAME", "key create --key-store keys --alias x"},
		{2, "reserved", "alias/NAME", "key alias create --key-store keys alias/aws/x alias/aws/kmsfs"},
		{2, "--from is missing", "--from FILE", "key import --key-store keys alias/x"},
		{2, "chosen when a vault is made", "kmsfs init", "mount --key alias/x v empty"},
		{4, "is a vault already", "kmsfs mount", "init --key-store keys v"},
		{4, "is not empty", "empty directory", "init --key-store keys full"},
		{11, "no key store in", "kmsfs key create --key-store none", "key list --key-store none"},
		{12, "key store is damaged", "backup", "key list --key-store badstore"},
		{2, "endpoint is neither", "kmsfs init --help", "init --keysource awskms:///alias/x?endpoint=ftp://x new"},
		{2, "only for this machine", "https", "init --keysource awskms:///alias/x?endpoint=http://10.0.0.1 new"},
		{2, "local key store is none", "leave it out", "init --key-store keys --branch-keys new"},
		{2, "--also-wrap", "alias/NAME", "init --key-store keys --also-wrap no/such/form new"},
		{2, "named twice", "kmsfs init --help", "init --key-store keys --also-wrap alias/aws/kmsfs new"},
		{17, "is not found", "kmsfs key list", "init --key-store keys --also-wrap alias/none new"},
		{2, "not an age and a count", "1h,10000", "init --keysource awskms:///alias/x --branch-keys=1h new"},
		{2, "key-cache-max-age", "kmsfs mount --help", "mount --key-cache-max-age 0 v empty"},
		{16, "AWS managed key", "kmsfs key create", "key disable --key-store keys alias/aws/kmsfs"},
		{17, "is not found", "kmsfs key list --key-store keys", "key describe --key-store keys alias/none"},
		{17, "is not found", "kmsfs key list", "init --key-store keys --key alias/none new"},
		{3, "JSON", "backup", "info broken"},
		{10, "format 2", "version of kmsfs", "info newer"},
		{9, "neither a vault nor", "kmsfs status", "info full"},
		{22, "no such file", "name a vault", "info nothing"},
		{2, "PATH is missing", "kmsfs verify PATH", "verify"},
		{2, "--manifest is missing", "--manifest FILE", "verify --signer 00 v"},
		{2, "needs the keys", "--no-keys", "verify --repair --no-keys v"},
		{2, "--shard is for", "--key-unused", "verify --shard 1/2 v"},
		{2, "search of its own", "leave out", "verify --repair --key-unused alias/aws/kmsfs v"},
		{22, "no such file", "kmsfs manifest", "verify --manifest none v"},
		{3, "malformed", "get it again", "verify --manifest keys/keystore v"},
		{3, "there is damage in 1 of 1 vaults", "--repair", "verify broken"},
		{3, "there is damage in 1 of 1 vaults", "--repair", "verify edited"},
		{10, "format 2", "version of kmsfs", "verify newer"},
		{9, "there is no vault", "kmsfs init", "verify full"},
		{2, "PATH is missing", "PATH...", "verify --key-unused alias/aws/kmsfs"},
		{9, "there is no vault", "kmsfs init", "verify --key-unused alias/aws/kmsfs full"},
		{2, "--shard", "1/4", "verify --key-unused alias/aws/kmsfs --shard 0/4 v"},
		{27, "is needed by 1 of 1 vaults", "kmsfs rewrap", "verify --key-unused alias/aws/kmsfs v"},
		{2, "--key is missing", "alias/NAME", "zone set empty"},
		{9, "is not on a mount", "kmsfs mount", "zone set empty --key alias/x"},
		{23, "is not a mount", "kmsfs status", "umount empty"},
	} {
		b.fails(c.code, c.words, c.hint, c.cmd)
	}
	if _, err := os.Stat(b.dir + "/none"); err == nil {
		t.Error("key list made a key store")
	}
}

// TestKeys goes through the life of a CMK.
func TestKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.ok("key create --key-store keys --alias alias/one --description ledger")
	first := b.describe("alias/one")
	if first.KeyID != id || first.State != "Enabled" || first.Description != "ledger" || len(first.KeyMaterial) != 1 {
		t.Errorf("a new CMK is described as %+v", first)
	}
	material := b.ok("key rotate --key-store keys alias/one")
	if got := b.describe(id); got.CurrentKeyMaterialID != material || len(got.KeyMaterial) != 2 ||
		material == first.CurrentKeyMaterialID {
		t.Errorf("after a rotation to %s: %+v", material, got)
	}
	b.ok("key disable --key-store keys " + id)
	if got := b.describe(id).State; got != "Disabled" {
		t.Errorf("state after disable: %s", got)
	}
	b.fails(15, "is disabled", "kmsfs key enable --key-store "+b.dir+"/keys", "init --keysource local:keys --key alias/one new")
	b.ok("key enable --key-store keys " + id)
	b.ok("key schedule-deletion --key-store keys --days 7 " + id)
	if got := b.describe(id); got.State != "PendingDeletion" || got.DeletionDate == "" {
		t.Errorf("after schedule-deletion: %+v", got)
	}
	b.ok("key cancel-deletion --key-store keys " + id)
	b.ok("key alias create --key-store keys alias/two " + id)
	other := b.ok("key create --key-store keys")
	b.ok("key alias update --key-store keys alias/two " + other)
	b.ok("key alias delete --key-store keys alias/one")
	var aliases []aliasInfo
	b.json("key alias list --json --key-store keys", &aliases)
	if len(aliases) != 2 || aliases[1].Alias != "alias/two" || aliases[1].KeyID != other {
		t.Errorf("aliases: %+v", aliases)
	}
	b.ok("key create --key-store keys --external --alias alias/ext")
	b.write("material", strings.Repeat("m", 32))
	b.ok("key import --key-store keys --from material alias/ext")
	if got := b.describe("alias/ext"); got.State != "Enabled" || got.Origin != "EXTERNAL" {
		t.Errorf("after an import: %+v", got)
	}
	var list []keyInfo
	b.json("key list --json --key-store keys", &list)
	if len(list) != 4 {
		t.Errorf("%d CMKs, want 4", len(list))
	}
}

// describe is key describe --json.
func (b *bench) describe(key string) (i keyInfo) {
	b.t.Helper()
	b.json("key describe --json --key-store keys "+key, &i)
	return i
}

// json runs a command that prints JSON.
func (b *bench) json(line string, v any) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.ok(line)), v); err != nil {
		b.t.Fatalf("kmsfs %s: %v", line, err)
	}
}

// TestInfoVault compares what info says of a vault with what it was made with.
func TestInfoVault(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.ok("key create --key-store keys --alias alias/one")
	b.ok("init --key-store keys --key alias/one --chunk-size 65536 v")
	var v vaultInfo
	b.json("info --json v", &v)
	if v.ChunkSize != 65536 || v.Key != "alias/one" || v.Keysource != "local:"+b.dir+"/keys" || len(v.Wrappings) != 1 ||
		!strings.HasSuffix(v.Wrappings[0].CMK, "key/"+id) {
		t.Errorf("info --json: %+v", v)
	}
	if text := b.ok("info v"); !strings.Contains(text, v.VolumeID) || !strings.Contains(text, v.Wrappings[0].CMK) {
		t.Errorf("info: %s", text)
	}
}

// TestDefaultStore: without --key-store the key store is in the user's data directory. Root's is /var/lib, which a test
// leaves alone.
func TestDefaultStore(t *testing.T) {
	for _, c := range []struct {
		uid        int
		home, data string
		want       string
	}{
		{0, "/root", "", "/var/lib/kmsfs"},
		{1000, "/home/u", "", "/home/u/.local/share/kmsfs"},
		{1000, "/home/u", "/data", "/data/kmsfs"},
		{1000, "/home/u", "relative", "/home/u/.local/share/kmsfs"},
		{1000, "", "", ""},
	} {
		a := &app{uid: c.uid, env: func(name string) string {
			return map[string]string{"HOME": c.home, "XDG_DATA_HOME": c.data}[name]
		}}
		got, err := a.defaultStore()
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("default key store of %+v: %q, %v", c, got, err)
		}
	}
}
