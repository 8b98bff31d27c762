package kms_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// TestJavaScript is the AWS SDK for JavaScript.
func TestJavaScript(t *testing.T) { runNode(t, "client.mjs") }

// TestEncryptionSDK is the AWS Encryption SDK for JavaScript, with the server as its KMS.
func TestEncryptionSDK(t *testing.T) { runNode(t, "esdk.mjs") }

// runNode runs a script of the directory node against a server.
func runNode(t *testing.T, script string) {
	t.Parallel()
	dir := nodeModules(t)
	b := newBench(t)
	k := b.user("js", "administrator", "user")
	grantee := b.ok("kms", "user", "create", "grantee")
	b.grants("js")
	b.start()
	cmd := exec.Command("node", filepath.Join(dir, script))
	cmd.Dir = dir
	cmd.Env = b.environment(k, "GRANTEE="+grantee)
	var stderr strings.Builder // Node.js warns there of its own age
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%v\n%s%s\n%s", err, out, stderr.String(), b.log)
	}
	b.stop()
	b.verified()
}

// grants lets a user make grants, which no ready-made policy does.
func (b *bench) grants(name string) {
	b.t.Helper()
	path := filepath.Join(b.dir, "grants.json")
	text := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:CreateGrant","kms:ListGrants","kms:RevokeGrant"],"Resource":"*"}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.ok("kms", "user", "attach", name, "--policy-file", path)
}

// nodeModules installs the packages of node/package-lock.json, once for all runs with the same, and returns the directory
// with them and the scripts.
func nodeModules(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing: Node.js 20 or later with npm is needed, from nodejs.org or NodeSource", program)
		}
	}
	if v, err := exec.Command("node", "--version").Output(); err != nil || len(v) < 4 || string(v) < "v20" || v[3] != '.' {
		t.Skipf("Node.js 20 or later is needed, from nodejs.org or NodeSource; this is %s", strings.TrimSpace(string(v)))
	}
	names := []string{"package.json", "package-lock.json", "client.mjs", "esdk.mjs"}
	sum := sha256.New()
	for _, name := range names {
		text, err := os.ReadFile("node/" + name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%d:%s", len(text), text)
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("kmsfs-node-%d-%s", os.Geteuid(), hex.EncodeToString(sum.Sum(nil))[:16]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(dir); err != nil || !st.IsDir() || st.Mode().Perm() != 0o700 {
		t.Fatalf("%s is not a directory of this user alone; remove it", dir)
	}
	lock, err := os.OpenFile(dir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/installed"); err == nil {
		return dir
	}
	for _, name := range names {
		lab.Copy(t, "node/"+name, filepath.Join(dir, name))
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("npm ci: %v (the npm registry must be reachable)\n%s", err, out)
	}
	if err := os.WriteFile(dir+"/installed", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
