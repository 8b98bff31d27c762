package kmsmount

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/tests/internal/lab"
)

// faultyMount is a mount with a KMS behind a proxy, quick to give up and to forget keys.
type faultyMount struct {
	*lab.Mount
	kms   *kms
	proxy *awskmstest.Proxy
}

func newFaultyMount(t *testing.T, intercept func(op string, w http.ResponseWriter, r *http.Request) bool) *faultyMount {
	t.Helper()
	if !lab.IsKMSFS() {
		t.Skip("is about the keysource of kmsfs: unset KMSFS_TEST_FS")
	}
	if testing.Short() {
		t.Skip("waits for time-outs: run without -short")
	}
	k := newKMS(t, 0)
	k.Intercept = intercept
	p := awskmstest.NewProxy(t, k.http.Listener.Addr().String())
	m := lab.MountNew(t, lab.Options{Keysource: keysourceURL("http://"+p.Addr, ""), Env: environment(),
		Flags: []string{"--key-timeout", "2s", "--key-cache-max-age", "1s", "--key-cache-grace", "1h"}})
	return &faultyMount{m, k, p}
}

// write makes a file.
func (m *faultyMount) write(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read reads a file past the kernel's cache and says how long that took.
func (m *faultyMount) read(name string) (string, time.Duration, error) {
	start := time.Now()
	b, err := os.ReadFile(filepath.Join(m.Dir, name))
	return string(b), time.Since(start), err
}

// TestErrnos: each refusal of the KMS arrives as its errno, with one line in the log that has the request id and no
// plaintext name.
func TestErrnos(t *testing.T) {
	var refuse atomic.Pointer[string]
	m := newFaultyMount(t, func(op string, w http.ResponseWriter, _ *http.Request) bool {
		code := refuse.Load()
		if code == nil || op != "Decrypt" {
			return false
		}
		w.Header().Set("X-Amzn-Requestid", "request-of-"+*code)
		status := http.StatusBadRequest
		if *code == "KMSInternalException" {
			status = http.StatusInternalServerError
		}
		awskmstest.Fail(w, status, *code, "as the KMS says")
		return true
	})
	for _, c := range []struct {
		code string
		want syscall.Errno
	}{
		{"AccessDeniedException", syscall.EACCES},
		{"DisabledException", syscall.EKEYREVOKED},
		{"KMSInvalidStateException", syscall.EKEYREVOKED},
		{"NotFoundException", syscall.ENOKEY},
		{"ThrottlingException", syscall.ETIMEDOUT},
		{"KMSInternalException", syscall.ETIMEDOUT},
		{"InvalidCiphertextException", syscall.EIO},
	} {
		name := "plain-" + c.code
		refuse.Store(nil)
		m.write(t, name)
		if err := m.Remount(); err != nil { // which forgets keys
			t.Fatal(err)
		}
		refuse.Store(&c.code)
		if _, _, err := m.read(name); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.code, err, c.want)
		}
		refuse.Store(nil)
		var got string
		var err error
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if got, _, err = m.read(name); err == nil {
				break
			}
		}
		if err != nil || got != name {
			t.Errorf("%s: afterwards %q, %v", c.code, got, err)
		}
		log := m.Log()
		if n := strings.Count(log, "request-of-"+c.code); n == 0 {
			t.Errorf("%s: the log does not have the request id:\n%s", c.code, log)
		}
		if strings.Contains(log, name) {
			t.Errorf("%s: the log has the plaintext name:\n%s", c.code, log)
		}
	}
}

// TestOutages: whatever happens to the KMS, files whose keys are at hand are read within normal time, those whose keys are
// not fail in time, a write that can get no key fails and changes nothing, and all is well when the KMS is back.
func TestOutages(t *testing.T) {
	m := newFaultyMount(t, nil)
	for _, c := range []struct {
		name string
		mode awskmstest.Mode
	}{
		{"cut", awskmstest.Cut}, {"hang", awskmstest.Hang}, {"truncate", awskmstest.Truncate}, {"garbage", awskmstest.Garbage},
	} {
		t.Run(c.name, func(t *testing.T) {
			warm, cold := "warm-"+c.name, "cold-"+c.name
			m.proxy.Set(awskmstest.Pass)
			m.write(t, warm)
			m.write(t, cold)
			if err := m.Remount(); err != nil {
				t.Fatal(err)
			}
			if got, _, err := m.read(warm); err != nil || got != warm {
				t.Fatalf("%q, %v", got, err)
			}
			m.proxy.Set(c.mode)
			time.Sleep(1200 * time.Millisecond) // the key is past its age
			done := make(chan error, 1)
			start := time.Now()
			go func() { // a file whose key is not at hand waits
				_, _, err := m.read(cold)
				done <- err
			}()
			worst := time.Duration(0)
			for range 20 {
				got, took, err := m.read(warm)
				if err != nil || got != warm {
					t.Errorf("%q, %v", got, err)
				}
				worst = max(worst, took)
				time.Sleep(50 * time.Millisecond)
			}
			t.Logf("a file whose key is at hand took at most %v", worst)
			if err := <-done; !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("a file without a key: got %v, want ETIMEDOUT", err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it failed after %v", took)
			}
			m.proxy.Set(awskmstest.Pass)
			var got string
			var err error
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if got, _, err = m.read(cold); err == nil {
					break
				}
			}
			if err != nil || got != cold {
				t.Errorf("afterwards: %q, %v", got, err)
			}
		})
	}
}

// TestRevoked: a CMK that is disabled stops new files and files whose keys are not at hand, and enabling it mends all.
func TestRevoked(t *testing.T) {
	m := newFaultyMount(t, nil)
	m.write(t, "before")
	if err := m.Remount(); err != nil {
		t.Fatal(err)
	}
	key := keysource.KeyRef(m.kms.key.KeyID)
	if err := m.kms.store.DisableKey(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.read("before"); !errors.Is(err, syscall.EKEYREVOKED) {
		t.Errorf("read: %v", err)
	}
	f, err := os.Create(filepath.Join(m.Dir, "during"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("during")
	err = errors.Join(err, f.Sync(), f.Close())
	if !errors.Is(err, syscall.EKEYREVOKED) {
		t.Errorf("write and sync: %v", err)
	}
	if err := m.kms.store.EnableKey(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second) // refusals are remembered for three
	if got, _, err := m.read("before"); err != nil || got != "before" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	m.write(t, "after")
}

// TestRevokedOpen: a file that stays open is refused once its key is past the age, also what the kernel had cached of it, and
// works on when the CMK is enabled again; what was written before is whole.
func TestRevokedOpen(t *testing.T) {
	s := serveKeys(t, "user")
	if testing.Short() {
		t.Skip("waits for keys to age: run without -short")
	}
	m := lab.MountNew(t, lab.Options{Keysource: s.url, Env: s.env, Flags: []string{"--key-cache-max-age", "2s"}})
	const size, page = 8 << 20, 4096
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i/page) ^ byte(i>>20)
	}
	name := filepath.Join(m.Dir, "open")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Remount(); err != nil { // nothing is in the kernel's cache
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := func(off int64) error {
		b := make([]byte, page)
		_, err := f.ReadAt(b, off)
		if err == nil && string(b) != string(content[off:off+page]) {
			t.Errorf("other data at %d", off)
		}
		return err
	}
	if err := at(0); err != nil {
		t.Fatal(err)
	}
	copy(content, "written before")
	if _, err := f.WriteAt(content[:page], 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	s.kmsfs("key", "disable", "alias/files", "--key-store", s.store)
	time.Sleep(2500 * time.Millisecond)
	if err := at(size / 2); !errors.Is(err, syscall.EKEYREVOKED) { // not cached: it is past the read-ahead
		t.Errorf("read: %v", err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) { // cached: it is dropped in the background
		if err = at(0); err != nil || time.Now().After(end) {
			break
		}
	}
	if !errors.Is(err, syscall.EKEYREVOKED) {
		t.Errorf("read of what was cached: %v", err)
	}
	_, err = f.WriteAt(content[:page], size/2)
	if err = errors.Join(err, f.Sync()); !errors.Is(err, syscall.EKEYREVOKED) {
		t.Errorf("write and sync: %v", err)
	}
	if err := f.Truncate(page); !errors.Is(err, syscall.EKEYREVOKED) {
		t.Errorf("truncate: %v", err)
	}
	s.kmsfs("key", "enable", "alias/files", "--key-store", s.store)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) { // refusals are remembered
		if err = at(0); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += page {
		if err := at(off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(content[:page], 0); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
}
