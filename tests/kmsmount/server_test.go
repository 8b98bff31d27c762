package kmsmount

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/keysource/kms/audit"
	"kmsfs/tests/internal/lab"
)

// served is a key store behind kmsfs kms serve, a process of its own, on a unix socket.
type served struct {
	t       *testing.T
	program string
	store   string
	url     string
	env     []string // of clients
}

// serveKeys starts the server, with a user who has one of the ready-made policies.
func serveKeys(t *testing.T, policy string) *served {
	t.Helper()
	if !lab.IsKMSFS() {
		t.Skip("is about the keysource of kmsfs: unset KMSFS_TEST_FS")
	}
	s := &served{t: t, program: lab.Binary(t, "cmd/kmsfs"), store: filepath.Join(lab.Dir(t), "keys")}
	s.kmsfs("key", "create", "--alias", "alias/files", "--key-store", s.store)
	s.kmsfs("kms", "user", "create", "mounter", "--policy", policy, "--key-store", s.store)
	var key struct {
		ID     string `json:"access_key_id"`
		Secret string `json:"secret_access_key"`
	}
	if err := json.Unmarshal([]byte(s.kmsfs("kms", "user", "key", "create", "mounter", "--json", "--key-store", s.store)), &key); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(filepath.Dir(s.store), "kms.socket")
	cmd := exec.Command(s.program, "kms", "serve", "--key-store", s.store, "--listen", "unix:"+socket)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v\n%s", err, log.String())
		}
	})
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("the server does not listen")
	}
	s.url = keysourceURL("unix:"+socket, "")
	s.env = append(environment(), "AWS_ACCESS_KEY_ID="+key.ID, "AWS_SECRET_ACCESS_KEY="+key.Secret)
	return s
}

// kmsfs runs the program with a client's environment.
func (s *served) kmsfs(args ...string) string {
	s.t.Helper()
	out, stderr, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("kmsfs %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return out
}

// try is kmsfs where that may fail.
func (s *served) try(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(s.program, args...)
	cmd.Env = append(os.Environ(), s.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return strings.TrimSpace(out.String()), errs.String(), err
}

// TestServer mounts a vault whose CMK is behind kmsfs kms serve: files are written, read again after a remount, and the
// server's audit log is whole, has the mount's calls with the contexts of the files, and no plaintext name.
func TestServer(t *testing.T) {
	for _, options := range []string{"", "&branch=default"} {
		t.Run(options, func(t *testing.T) {
			s := serveKeys(t, "user")
			if out := s.kmsfs("doctor", s.url); !strings.Contains(out, "Enabled") || strings.Contains(out, "failed") {
				t.Errorf("doctor: %s", out)
			}
			m := lab.MountNew(t, lab.Options{Keysource: s.url + options, Env: s.env})
			const files = 100
			name := func(i int) string { return filepath.Join(m.Dir, fmt.Sprintf("plain-%d", i)) }
			for i := range files {
				if err := os.WriteFile(name(i), fmt.Append(nil, i), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Remount(); err != nil {
				t.Fatal(err)
			}
			for i := range files {
				if b, err := os.ReadFile(name(i)); err != nil || string(b) != fmt.Sprint(i) {
					t.Fatalf("file %d: %q, %v", i, b, err)
				}
			}
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			trail, err := os.ReadFile(filepath.Join(s.store, "audit.log"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := audit.Verify(bytes.NewReader(trail), audit.Head{}, nil); err != nil {
				t.Error(err)
			}
			calls := strings.Count(string(trail), `"eventName":"Decrypt"`)
			if want := "kmsfs:file"; options == "" && (!strings.Contains(string(trail), want) || calls < files) {
				t.Errorf("%d calls of Decrypt", calls)
			}
			if want := "kmsfs:branch"; options != "" && (!strings.Contains(string(trail), want) || calls > 10) {
				t.Errorf("%d calls of Decrypt with branch keys", calls)
			}
			if strings.Contains(string(trail), "plain-") {
				t.Error("the audit log has a plaintext name")
			}
		})
	}
}

// TestServerReader: who may only decrypt can read, and not write.
func TestServerReader(t *testing.T) {
	s := serveKeys(t, "reader")
	_, stderr, err := s.try("doctor", s.url)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 16 || !strings.Contains(stderr, "kms:GenerateDataKey") {
		t.Errorf("doctor: %v\n%s", err, stderr)
	}
	vault := filepath.Join(lab.Dir(t), "vault")
	// The administrator makes the vault, through the key store itself; the reader mounts it through the server.
	s.kmsfs("init", "--key-store", s.store, "--key", "alias/files", vault)
	dir := lab.Subdir(t, lab.Dir(t), "mount", 0o755)
	cmd := exec.Command(s.program, "mount", "--foreground", "--keysource", s.url, "--key-timeout", "5s", vault, dir)
	cmd.Env = append(os.Environ(), s.env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _, _ = s.try("umount", dir)
		_ = cmd.Wait()
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if out, _, err := s.try("status", dir); err == nil && strings.Contains(out, dir) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the mount does not come up")
		}
	}
	f, err := os.Create(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("x")
	if err = errors.Join(err, f.Sync(), f.Close()); !errors.Is(err, syscall.EACCES) {
		t.Errorf("a reader writes: %v", err)
	}
}
