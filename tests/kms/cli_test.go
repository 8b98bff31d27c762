package kms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kmsfs/tests/internal/lab"
)

// cli is the AWS CLI with an access key.
type cli struct {
	b   *bench
	env []string
}

// program is Debian's AWS CLI, or another that is found.
func (c cli) program() string {
	if _, err := os.Stat("/usr/bin/aws"); err == nil {
		return "/usr/bin/aws"
	}
	return "aws"
}

// run runs aws kms and returns what it says.
func (c cli) run(args ...string) (stdout, stderr []byte, err error) {
	cmd := exec.Command(c.program(), append([]string{"--endpoint-url", c.b.urls[0], "kms"}, args...)...)
	cmd.Dir, cmd.Env = c.b.dir, c.env
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.Bytes(), said.Bytes(), err
}

// ok runs aws kms, which must succeed, and reads its answer into a value; nil where nothing is answered.
func (c cli) ok(into any, args ...string) {
	c.b.t.Helper()
	out, said, err := c.run(args...)
	if err != nil {
		c.b.t.Fatalf("aws kms %s: %v\n%s\n%s", strings.Join(args, " "), err, said, c.b.log)
	}
	switch {
	case into == nil && len(bytes.TrimSpace(out)) > 0:
		c.b.t.Errorf("aws kms %s answers %s", strings.Join(args, " "), out)
	case into != nil:
		if err := json.Unmarshal(out, into); err != nil {
			c.b.t.Fatalf("aws kms %s: %v in %s", strings.Join(args, " "), err, out)
		}
	}
}

// fails runs aws kms, which must end with an exception.
func (c cli) fails(exception string, args ...string) {
	c.b.t.Helper()
	if out, said, err := c.run(args...); err == nil || !strings.Contains(string(said), "("+exception+")") {
		c.b.t.Errorf("aws kms %s: %v, %s%s, want %s", strings.Join(args, " "), err, out, said, exception)
	}
}

// blob writes a base64 answer into a file, as the user of the CLI does, and returns how to name it.
func (c cli) blob(name, base string) string {
	c.b.t.Helper()
	raw, err := base64.StdEncoding.DecodeString(base)
	if err != nil || len(raw) == 0 {
		c.b.t.Fatalf("%s: %v", name, err)
	}
	if err := os.WriteFile(filepath.Join(c.b.dir, name), raw, 0o600); err != nil {
		c.b.t.Fatal(err)
	}
	return "fileb://" + name
}

// sealed is what most calls answer.
type sealed struct {
	KeyID          string `json:"KeyId"`
	CiphertextBlob string
	Plaintext      string
}

// metadata is what DescribeKey and CreateKey answer.
type metadata struct {
	KeyMetadata struct {
		KeyID    string `json:"KeyId"`
		Arn      string
		KeyState string
		Enabled  bool
	}
}

// newCLI starts a server and returns the CLI of an administrator who is a user too.
func newCLI(t *testing.T) cli {
	t.Helper()
	lab.Need(t, "aws")
	t.Parallel()
	b := newBench(t)
	k := b.user("admin", "administrator", "user")
	b.grants("admin")
	b.start()
	return cli{b, b.environment(k)}
}

// TestCLICrypto is the use of a CMK: a file, data keys, another CMK.
func TestCLICrypto(t *testing.T) {
	c := newCLI(t)
	var key, other metadata
	c.ok(&key, "create-key", "--description", "finance", "--tags", "TagKey=team,TagValue=ledger")
	c.ok(nil, "create-alias", "--alias-name", "alias/finance", "--target-key-id", key.KeyMetadata.KeyID)
	c.fails("AlreadyExistsException", "create-alias", "--alias-name", "alias/finance", "--target-key-id", key.KeyMetadata.KeyID)

	text := make([]byte, 4096)
	_, _ = rand.Read(text)
	if err := os.WriteFile(filepath.Join(c.b.dir, "file"), append(text, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	c.fails("ValidationException", "encrypt", "--key-id", "alias/finance", "--plaintext", "fileb://file")
	if err := os.WriteFile(filepath.Join(c.b.dir, "file"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	var box, opened, dataKey, moved sealed
	c.ok(&box, "encrypt", "--key-id", "alias/finance", "--plaintext", "fileb://file", "--encryption-context", "year=2026,of=a b")
	blob := c.blob("box", box.CiphertextBlob)
	c.ok(&opened, "decrypt", "--ciphertext-blob", blob, "--encryption-context", "of=a b,year=2026")
	if raw, err := base64.StdEncoding.DecodeString(opened.Plaintext); err != nil || !bytes.Equal(raw, text) || opened.KeyID != key.KeyMetadata.Arn {
		t.Errorf("decrypted %d bytes by %s, %v", len(raw), opened.KeyID, err)
	}
	c.fails("InvalidCiphertextException", "decrypt", "--ciphertext-blob", blob, "--encryption-context", "of=A B,year=2026")
	c.fails("IncorrectKeyException", "decrypt", "--ciphertext-blob", blob, "--encryption-context", "of=a b,year=2026", "--key-id", "alias/first")

	c.ok(&dataKey, "generate-data-key", "--key-id", "alias/finance", "--key-spec", "AES_256")
	c.ok(&other, "describe-key", "--key-id", "alias/first")
	c.ok(&moved, "re-encrypt", "--ciphertext-blob", c.blob("key", dataKey.CiphertextBlob), "--destination-key-id", "alias/first",
		"--destination-encryption-context", "new=context")
	if moved.KeyID != other.KeyMetadata.Arn {
		t.Errorf("re-encrypted by %s", moved.KeyID)
	}
	c.ok(&opened, "decrypt", "--ciphertext-blob", c.blob("moved", moved.CiphertextBlob), "--encryption-context", "new=context")
	if opened.Plaintext != dataKey.Plaintext || dataKey.Plaintext == "" {
		t.Error("another data key came out")
	}
	c.b.stop()
	trail := c.b.verified()
	for _, secret := range []string{dataKey.Plaintext, dataKey.CiphertextBlob, box.CiphertextBlob} {
		if strings.Contains(trail, secret) {
			t.Error("the audit log has a secret")
		}
	}
}

// TestCLIAdministration is the life of a CMK: policy, rotation, states, tags, aliases.
func TestCLIAdministration(t *testing.T) {
	notShort(t)
	c := newCLI(t)
	reader := cli{c.b, c.b.environment(c.b.user("reader"))}
	policy := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/admin"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/reader"},"Action":"kms:Decrypt","Resource":"*",
		 "Condition":{"StringEquals":{"kms:EncryptionContext:for":"reader"}}}]}`
	if err := os.WriteFile(filepath.Join(c.b.dir, "policy.json"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	var key metadata
	var box, opened sealed
	c.ok(&key, "create-key", "--policy", "file://policy.json")
	id := key.KeyMetadata.KeyID
	c.ok(&box, "encrypt", "--key-id", id, "--plaintext", "aGVsbG8=", "--encryption-context", "for=reader")
	blob := c.blob("box", box.CiphertextBlob)
	reader.ok(&opened, "decrypt", "--ciphertext-blob", blob, "--encryption-context", "for=reader")
	if opened.Plaintext != "aGVsbG8=" {
		t.Errorf("the reader reads %s", opened.Plaintext)
	}
	reader.fails("AccessDeniedException", "encrypt", "--key-id", id, "--plaintext", "aGVsbG8=", "--encryption-context", "for=reader")
	reader.fails("AccessDeniedException", "disable-key", "--key-id", id)
	c.fails("MalformedPolicyDocumentException", "put-key-policy", "--key-id", id, "--policy-name", "default", "--policy",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/reader"},"Action":"kms:Decrypt","Resource":"*"}]}`)
	var got struct{ Policy string }
	c.ok(&got, "get-key-policy", "--key-id", id, "--policy-name", "default")
	if !strings.Contains(got.Policy, "kms:EncryptionContext:for") {
		t.Errorf("the policy is %s", got.Policy)
	}

	c.ok(nil, "enable-key-rotation", "--key-id", id)
	var rotation struct{ KeyRotationEnabled bool }
	if c.ok(&rotation, "get-key-rotation-status", "--key-id", id); !rotation.KeyRotationEnabled {
		t.Error("the CMK is not rotated")
	}
	c.ok(nil, "tag-resource", "--key-id", id, "--tags", "TagKey=team,TagValue=ledger", "TagKey=x,TagValue=")
	c.ok(nil, "untag-resource", "--key-id", id, "--tag-keys", "x")
	var tags struct{ Tags []map[string]string }
	if c.ok(&tags, "list-resource-tags", "--key-id", id); len(tags.Tags) != 1 || tags.Tags[0]["TagValue"] != "ledger" {
		t.Errorf("tags: %v", tags)
	}

	c.ok(nil, "disable-key", "--key-id", id)
	c.fails("DisabledException", "encrypt", "--key-id", id, "--plaintext", "aGVsbG8=")
	reader.fails("DisabledException", "decrypt", "--ciphertext-blob", blob, "--encryption-context", "for=reader")
	c.ok(nil, "enable-key", "--key-id", id)
	var deletion struct{ KeyState, DeletionDate string }
	c.ok(&deletion, "schedule-key-deletion", "--key-id", id, "--pending-window-in-days", "7")
	if deletion.KeyState != "PendingDeletion" || deletion.DeletionDate == "" {
		t.Errorf("scheduled: %+v", deletion)
	}
	c.fails("KMSInvalidStateException", "encrypt", "--key-id", id, "--plaintext", "aGVsbG8=")
	var cancelled sealed
	c.ok(&cancelled, "cancel-key-deletion", "--key-id", id)
	if c.ok(&key, "describe-key", "--key-id", id); key.KeyMetadata.KeyState != "Disabled" || key.KeyMetadata.Enabled {
		t.Errorf("after cancel-key-deletion: %+v", key)
	}
	c.b.stop()
	c.b.verified()
}

// TestCLIGrants: a grant lets somebody use a CMK, until it is revoked.
func TestCLIGrants(t *testing.T) {
	notShort(t)
	c := newCLI(t)
	worker := cli{c.b, c.b.environment(c.b.user("worker"))}
	var key metadata
	c.ok(&key, "create-key")
	id := key.KeyMetadata.KeyID
	worker.fails("AccessDeniedException", "generate-data-key", "--key-id", id, "--key-spec", "AES_256")
	var grant struct {
		GrantToken string
		GrantID    string `json:"GrantId"`
	}
	c.ok(&grant, "create-grant", "--key-id", id, "--grantee-principal", "arn:aws:iam::000000000000:user/worker", "--operations",
		"GenerateDataKey", "Decrypt", "--constraints", "EncryptionContextSubset={job=nightly}")
	var dataKey sealed
	worker.ok(&dataKey, "generate-data-key", "--key-id", key.KeyMetadata.Arn, "--key-spec", "AES_256", "--encryption-context", "job=nightly,n=1",
		"--grant-tokens", grant.GrantToken)
	worker.fails("AccessDeniedException", "generate-data-key", "--key-id", key.KeyMetadata.Arn, "--key-spec", "AES_256", "--encryption-context", "job=other")
	var grants struct{ Grants []json.RawMessage }
	if c.ok(&grants, "list-grants", "--key-id", id); len(grants.Grants) != 1 {
		t.Errorf("grants: %s", grants)
	}
	c.ok(nil, "revoke-grant", "--key-id", id, "--grant-id", grant.GrantID)
	worker.fails("AccessDeniedException", "generate-data-key", "--key-id", key.KeyMetadata.Arn, "--key-spec", "AES_256", "--encryption-context", "job=nightly")
	c.b.stop()
	if trail := c.b.verified(); !strings.Contains(trail, grant.GrantID) || strings.Contains(trail, grant.GrantToken) {
		t.Error("the audit log does not name the grant, or has its token")
	}
}

// TestCLIImport: key material of the customer's own, wrapped by RSA-OAEP as AWS wants it.
func TestCLIImport(t *testing.T) {
	notShort(t)
	c := newCLI(t)
	var key metadata
	if c.ok(&key, "create-key", "--origin", "EXTERNAL"); key.KeyMetadata.KeyState != "PendingImport" {
		t.Errorf("made: %+v", key)
	}
	id := key.KeyMetadata.KeyID
	c.fails("KMSInvalidStateException", "encrypt", "--key-id", id, "--plaintext", "aGVsbG8=")
	var p struct{ PublicKey, ImportToken string }
	c.ok(&p, "get-parameters-for-import", "--key-id", id, "--wrapping-algorithm", "RSAES_OAEP_SHA_256", "--wrapping-key-spec", "RSA_2048")
	der, err := base64.StdEncoding.DecodeString(p.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	material := make([]byte, 32)
	_, _ = rand.Read(material)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, parsed.(*rsa.PublicKey), material, nil)
	if err != nil {
		t.Fatal(err)
	}
	token := c.blob("token", p.ImportToken)
	sealedMaterial := c.blob("material", base64.StdEncoding.EncodeToString(wrapped))
	// Its answer has a key id and a material id in the newest protocol; Debian's CLI is older and shows none.
	if _, said, err := c.run("import-key-material", "--key-id", id, "--encrypted-key-material", sealedMaterial, "--import-token", token,
		"--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE"); err != nil {
		t.Fatalf("import-key-material: %v %s", err, said)
	}
	var box, opened sealed
	c.ok(&box, "encrypt", "--key-id", id, "--plaintext", "aGVsbG8=")
	if _, said, err := c.run("delete-imported-key-material", "--key-id", id); err != nil {
		t.Fatalf("delete-imported-key-material: %v %s", err, said)
	}
	blob := c.blob("box", box.CiphertextBlob)
	c.fails("KMSInvalidStateException", "decrypt", "--ciphertext-blob", blob)
	if _, said, err := c.run("import-key-material", "--key-id", id, "--encrypted-key-material", sealedMaterial, "--import-token", token,
		"--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE"); err != nil {
		t.Fatalf("import-key-material again: %v %s", err, said)
	}
	if c.ok(&opened, "decrypt", "--ciphertext-blob", blob); opened.Plaintext != "aGVsbG8=" {
		t.Errorf("after the material came back: %+v", opened)
	}
	c.b.stop()
	if trail := c.b.verified(); strings.Contains(trail, p.ImportToken) || strings.Contains(trail, base64.StdEncoding.EncodeToString(wrapped)) {
		t.Error("the audit log has key material or its token")
	}
}
