package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kmsfs/keysource/kms/audit"
)

// TestKMSUsers goes through the life of users and roles.
func TestKMSUsers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("key create --key-store keys")
	b.write("own.json", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}]}`)
	b.write("reader.json", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`)
	b.write("bad.json", `{"Version":"2012-10-17","Statement":[{"Effect":"Maybe"}]}`)
	if got := b.ok("kms user create alice --key-store keys --policy reader,writer --policy-file own.json"); got != "arn:aws:iam::000000000000:user/alice" {
		t.Errorf("created %s", got)
	}
	if got := b.ok("kms role create backup --key-store keys --policy writer"); got != "arn:aws:iam::000000000000:role/backup" {
		t.Errorf("created %s", got)
	}
	var key struct {
		ID     string `json:"access_key_id"`
		Secret string `json:"secret_access_key"`
	}
	b.json("kms user key create alice --json --key-store keys", &key)
	profile := b.ok("kms user key create alice --key-store keys")
	if !strings.HasPrefix(profile, "[alice]\naws_access_key_id = AKIA") || strings.Count(profile, "\n") != 2 || len(key.Secret) != 40 {
		t.Errorf("access keys: %q, %+v", profile, key)
	}
	b.ok("kms user key disable alice " + key.ID + " --key-store keys")
	b.ok("kms user detach alice writer --key-store keys")
	b.ok("kms user attach alice --policy auditor --key-store keys")
	var users []principalInfo
	b.json("kms user list --json --key-store keys", &users)
	if len(users) != 1 || len(users[0].AccessKeys) != 2 || users[0].AccessKeys[0].Status != "Inactive" || users[0].AccessKeys[1].Status != "Active" ||
		strings.Join(users[0].Policies, " ") != "reader own auditor" {
		t.Errorf("users: %+v", users)
	}
	if text := b.ok("kms user list --key-store keys"); strings.Contains(text, key.Secret) {
		t.Error("the secret is shown twice")
	}
	b.ok("kms user key enable alice " + key.ID + " --key-store keys")
	b.ok("kms user key delete alice " + key.ID + " --key-store keys")
	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{2, "NAME is missing", "kmsfs kms user create NAME", "kms user create"},
		{2, "no ready-made policy", "--policy reader", "kms user create bob --policy king"},
		{2, "is not a name of a user", "--help", "kms user create a/b"},
		{2, "ready-made policy", "another name", "kms user create bob --policy-file reader.json"},
		{2, "MalformedPolicyDocument", "Version", "kms user create bob --policy-file bad.json"},
		{22, "no such file", "", "kms user create bob --policy-file none.json"},
		{2, "there is no --policy", "--policy reader", "kms user attach alice"},
		{25, "exists", "kmsfs kms user list --key-store", "kms user create alice"},
		{25, "is attached already", "kmsfs kms user list", "kms user attach alice --policy reader"},
		{17, "has no policy", "kmsfs kms user list", "kms user detach alice writer"},
		{17, "no user bob", "kmsfs kms user list", "kms user delete bob"},
		{17, "no role alice", "kmsfs kms role list", "kms role key create alice"},
		{17, "has no access key", "kmsfs kms user list", "kms user key delete alice " + key.ID},
		{2, "needs a verb", "kmsfs kms user key --help", "kms user key"},
		{2, "no unit", "kmsfs kms unit service", "kms unit timer"},
	} {
		line := c.cmd
		if strings.HasPrefix(line, "kms user") || strings.HasPrefix(line, "kms role") {
			line += " --key-store keys"
		}
		r := b.run(strings.Fields(line))
		if c.hint != "" {
			b.check(r, c.code, c.words, c.hint, line)
		} else if r.code != c.code || !strings.Contains(r.stderr, c.words) {
			t.Errorf("kmsfs %s: %d %s", line, r.code, r.stderr)
		}
	}
	b.fails(11, "no key store", "kmsfs key create", "kms user list --key-store none")
	b.ok("kms user delete alice --key-store keys")
	if got := b.ok("kms user list --json --key-store keys"); got != "[]" {
		t.Errorf("after delete: %s", got)
	}
}

// TestKMSAudit verifies logs, whole and changed, one and several.
func TestKMSAudit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	path := filepath.Join(b.dir, "log")
	l, err := audit.Open(audit.Config{Path: path, MaxSize: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		r, err := l.Reserve(1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Append(&audit.Record{EventName: "Decrypt"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(path + ".*")
	if err != nil || len(names) == 0 {
		t.Fatalf("%q, %v", names, err)
	}
	all := strings.Join(append(names, path), " ")
	var i auditInfo
	b.json("kms audit verify --json "+all, &i)
	if i.Lines != 8 || i.First != 1 || i.Last != 8 || i.Head != l.Head().String() {
		t.Errorf("verified: %+v", i)
	}
	if text := b.ok("kms audit verify " + all); !strings.Contains(text, "8:"+i.Head) {
		t.Errorf("verified: %s", text)
	}
	b.ok("kms audit verify --head 8:" + i.Head + " " + all)
	b.fails(26, "is not there", "copy", "kms audit verify --head 7:"+i.Head+" "+all)
	b.fails(2, "SEQUENCE:HASH", "--head", "kms audit verify --head x "+all)
	b.fails(2, "FILE is missing", "kmsfs kms audit verify", "kms audit verify")
	if len(names) > 1 {
		b.fails(26, "line 1", "copy", "kms audit verify "+names[0]+" "+path)
	}
	b.edit("log."+filepath.Base(names[0])[4:], "Decrypt", "Encrypt")
	b.fails(26, "line 2: it does not follow line 1", "as they were written", "kms audit verify "+all)
}

// TestKMSUnits: the units are the two files of their names, and run what there is.
func TestKMSUnits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	service, socket, both := b.ok("kms unit service"), b.ok("kms unit socket"), b.ok("kms unit")
	if !strings.Contains(both, service) || !strings.Contains(both, socket) {
		t.Error("kms unit does not print both")
	}
	for _, want := range []string{"Type=notify", "LimitMEMLOCK=infinity", "LimitCORE=0", "NoNewPrivileges=yes", "CapabilityBoundingSet=\n", "ProtectSystem=strict"} {
		if !strings.Contains(service, want) {
			t.Errorf("the service has no %s", want)
		}
	}
	if !strings.Contains(socket, "ListenStream=127.0.0.1:4599") {
		t.Error("the socket listens elsewhere than the server by itself")
	}
	for line := range strings.SplitSeq(service, "\n") {
		command, ok := strings.CutPrefix(line, "ExecStart=/usr/local/bin/kmsfs ")
		if !ok {
			continue
		}
		cmd, _, err := (&app{}).rootCommand().Find(strings.Fields(command))
		if err != nil || cmd.CommandPath() != "kmsfs kms serve" {
			t.Errorf("ExecStart runs %v, %v", cmd, err)
		}
		flags := strings.Fields(command)[2:]
		if err := cmd.ParseFlags(flags); err != nil {
			t.Error(err)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing: apt-get install systemd")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The program is not installed here, and neither are its pages.
	edit := strings.NewReplacer("/usr/local/bin/kmsfs ", program+" ", "Documentation=man:kmsfs-kms-serve(1)\n", "")
	b.write("kmsfs-kms.service", edit.Replace(service)+"\n")
	b.write("kmsfs-kms.socket", edit.Replace(socket)+"\n")
	out, err := exec.Command("systemd-analyze", "verify", filepath.Join(b.dir, "kmsfs-kms.service"), filepath.Join(b.dir, "kmsfs-kms.socket")).CombinedOutput()
	if err != nil || strings.Contains(string(out), "kmsfs") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
