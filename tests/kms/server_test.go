// Package kms_test holds kmsfs kms serve against clients that nobody here wrote (the AWS CLI, the AWS SDKs for Go and
// JavaScript, the AWS Encryption SDK), and kills it, fills its disk and looks at what it may still do.
package kms_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kmsfs/keysource/kms/audit"
	"kmsfs/tests/internal/lab"
)

// bench is a key store with users, and a server of it.
type bench struct {
	t       *testing.T
	program string
	dir     string // the key store is dir/keys
	server  *exec.Cmd
	urls    []string
	log     *tail
	env     []string // of the server, besides
	flags   []string // of the server, besides
	files   []*os.File
}

// accessKey is one, as kmsfs prints it.
type accessKey struct {
	ID     string `json:"access_key_id"`
	Secret string `json:"secret_access_key"`
}

// tail is what a server says on stderr. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newBench makes a key store.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, program: lab.Binary(t, "cmd/kmsfs"), dir: lab.Dir(t)}
	b.ok("key", "create", "--alias", "alias/first")
	return b
}

// store is the directory of the key store.
func (b *bench) store() string { return filepath.Join(b.dir, "keys") }

// trail is the audit log.
func (b *bench) trail() string { return filepath.Join(b.store(), "audit.log") }

// command is kmsfs with args, on the key store.
func (b *bench) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.program, args...)
	cmd.Dir = b.dir
	if args[0] == "key" || args[0] == "kms" && args[1] != "audit" && args[1] != "unit" {
		cmd.Args = append(cmd.Args, "--key-store", b.store())
	}
	return cmd
}

// ok runs kmsfs, which must succeed.
func (b *bench) ok(args ...string) string {
	b.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := b.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("kmsfs %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// user makes a user with ready-made policies and an access key.
func (b *bench) user(name string, policies ...string) accessKey {
	b.t.Helper()
	args := []string{"kms", "user", "create", name}
	for _, p := range policies {
		args = append(args, "--policy", p)
	}
	b.ok(args...)
	var k accessKey
	if err := json.Unmarshal([]byte(b.ok("kms", "user", "key", "create", name, "--json")), &k); err != nil {
		b.t.Fatal(err)
	}
	return k
}

// start starts the server and waits until it is listening.
func (b *bench) start() {
	b.t.Helper()
	if err := b.tryStart(); err != nil {
		b.t.Fatalf("%v\n%s", err, b.log)
	}
}

// tryStart is start where the server may fail.
func (b *bench) tryStart() error {
	b.t.Helper()
	args := append([]string{"kms", "serve"}, b.flags...)
	if len(b.files) == 0 && !strings.Contains(strings.Join(b.flags, " "), "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	cmd := b.command(args...)
	cmd.Env = append(os.Environ(), b.env...)
	cmd.ExtraFiles = b.files
	b.log = &tail{}
	cmd.Stderr = b.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.server, b.urls = cmd, nil
	b.t.Cleanup(func() { b.end(cmd, syscall.SIGKILL) })
	want := max(1, strings.Count(strings.Join(b.flags, " "), "--listen"))
	lines := bufio.NewScanner(out)
	for len(b.urls) < want && lines.Scan() {
		b.urls = append(b.urls, lines.Text())
	}
	if len(b.urls) < want {
		return fmt.Errorf("the server did not start: %w", cmd.Wait())
	}
	return nil
}

// end sends a signal and waits for the end of the server.
func (b *bench) end(cmd *exec.Cmd, s syscall.Signal) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Signal(s)
		_ = cmd.Wait()
	}
}

// stop ends the server gracefully, which must succeed.
func (b *bench) stop() {
	b.t.Helper()
	b.end(b.server, syscall.SIGTERM)
	if code := b.server.ProcessState.ExitCode(); code != 0 {
		b.t.Errorf("the server ended with %d\n%s", code, b.log)
	}
	if text := b.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic") {
		b.t.Error(text)
	}
}

// kill ends the server as kill -9 does.
func (b *bench) kill() { b.end(b.server, syscall.SIGKILL) }

// status is the status code of a page of the server.
func (b *bench) status(page string) int {
	b.t.Helper()
	r, err := http.Get(b.urls[0] + page)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// environment is what the AWS clients take the access key from; nothing of the machine's own settings.
func (b *bench) environment(k accessKey, more ...string) []string {
	env := []string{"AWS_ACCESS_KEY_ID=" + k.ID, "AWS_SECRET_ACCESS_KEY=" + k.Secret, "AWS_REGION=local", "AWS_DEFAULT_REGION=local",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "LANG=C.UTF-8", "KMS_ENDPOINT=" + b.urls[0], "AWS_MAX_ATTEMPTS=1"}
	return append(env, more...)
}

// verified checks the audit log and returns its text.
func (b *bench) verified() string {
	b.t.Helper()
	text, err := os.ReadFile(b.trail())
	if err != nil {
		b.t.Fatal(err)
	}
	if s, err := audit.Verify(bytes.NewReader(text), audit.Head{}, nil); err != nil || s.Lines == 0 {
		b.t.Errorf("audit log: %+v, %v", s, err)
	}
	return string(text)
}

// eventually waits for something to become true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// notShort leaves a test of clients that take long to the runs without -short.
func notShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long with the AWS CLI: run without -short")
	}
}
