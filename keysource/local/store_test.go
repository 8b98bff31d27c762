package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

func TestCreateThenOpen(t *testing.T) {
	for _, test := range []struct {
		name   string
		master Master
	}{
		{"key file", Master{}},
		{"passphrase", Master{Passphrase: says("p"), Argon2: cheapArgon2()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(t.TempDir(), "a", "b"), Master: test.master, AccountID: "111122223333", Region: "eu-west-1"}
			s := create(t, cfg)
			md, err := s.DescribeKey(t.Context(), DefaultAlias)
			if err != nil {
				t.Fatal(err)
			}
			if md.KeyManager != keysource.ManagerAWS || !strings.HasPrefix(md.ARN, "arn:aws:kms:eu-west-1:111122223333:key/") {
				t.Errorf("got %+v", md)
			}
			k, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: DefaultAlias})
			if err != nil {
				t.Fatal(err)
			}
			again, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			r, err := again.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob})
			if err != nil || !r.Plaintext.Equal(k.Plaintext) {
				t.Errorf("Decrypt after reopening: %v", err)
			}
			for _, name := range []string{StoreName, KeyFileName} {
				info, err := os.Stat(filepath.Join(cfg.Dir, name))
				if test.master.Passphrase != nil && name == KeyFileName {
					if !errors.Is(err, fs.ErrNotExist) {
						t.Error("there is a key file beside a passphrase")
					}
					continue
				}
				if err != nil || info.Mode() != 0o600 {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
		})
	}
}

func TestWrongPassphrase(t *testing.T) {
	dir := t.TempDir()
	create(t, Config{Dir: dir, Master: Master{Passphrase: says("right"), Argon2: cheapArgon2()}})
	failing := func(context.Context, passphrase.Purpose) ([]byte, error) { return nil, passphrase.ErrNoTerminal }
	for _, test := range []struct {
		name   string
		source passphrase.Source
		want   error
	}{
		{"wrong", says("secret-wrong"), ErrMasterKey},
		{"empty", says(""), ErrMasterKey},
		{"none", nil, ErrMasterKey},
		{"failing", failing, passphrase.ErrNoTerminal},
	} {
		_, err := Open(t.Context(), Config{Dir: dir, Master: Master{Passphrase: test.source}})
		if !errors.Is(err, test.want) || strings.Contains(fmt.Sprint(err), "secret-wrong") {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

func TestChangeMasterKey(t *testing.T) {
	dir := t.TempDir()
	s := create(t, Config{Dir: dir})
	other := mustOpenDir(t, Config{Dir: dir, CheckInterval: -1})
	pass := Master{Passphrase: says("one"), Argon2: cheapArgon2()}
	if err := s.ChangeMasterKey(t.Context(), pass); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrMasterKey) {
		t.Errorf("the old key file: got %v", err)
	}
	mustOpenDir(t, Config{Dir: dir, Master: pass})
	// A process that has the store open goes on, and sees what comes after.
	if err := s.CreateAlias(t.Context(), "alias/x", mustCreateKey(t, s)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.DescribeKey(t.Context(), "alias/x"); err != nil {
		t.Errorf("other process: %v", err)
	}
	file := Master{KeyFile: filepath.Join(t.TempDir(), "k")}
	if err := other.ChangeMasterKey(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir, Master: pass}); !errors.Is(err, ErrMasterKey) {
		t.Errorf("the old passphrase: got %v", err)
	}
	mustOpenDir(t, Config{Dir: dir, Master: file})
}

// TestNoLostUpdates has several stores on one directory make changes at once.
func TestNoLostUpdates(t *testing.T) {
	const stores, changes = 4, 15
	dir := t.TempDir()
	create(t, Config{Dir: dir})
	var wg sync.WaitGroup
	for range stores {
		s := mustOpenDir(t, Config{Dir: dir})
		wg.Go(func() {
			for range changes {
				if _, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := mustOpenDir(t, Config{Dir: dir})
	keys, err := s.ListKeys(t.Context())
	if err != nil || len(keys) != stores*changes+1 {
		t.Errorf("got %d keys, %v, want %d", len(keys), err, stores*changes+1)
	}
	if s.snap.header.generation != stores*changes+1 {
		t.Errorf("got generation %d", s.snap.header.generation)
	}
}

func TestLockedByOther(t *testing.T) {
	s := create(t, Config{})
	lock, err := (osFS{}).TryLock(filepath.Join(s.cfg.Dir, LockName))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := s.CreateKey(ctx, keysource.CreateKeyInput{}); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	// Data keys need no lock.
	if _, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: DefaultAlias}); err != nil {
		t.Error(err)
	}
	_ = lock.Close()
	mustCreateKey(t, s)
}

func TestKeepsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a file to another user")
	}
	s := create(t, Config{})
	if err := os.Chown(s.path, 4242, 4243); err != nil {
		t.Fatal(err)
	}
	mustCreateKey(t, s)
	f, err := (osFS{}).Open(s.path, refuseLinks)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.uid != 4242 || info.gid != 4243 {
		t.Errorf("got %+v, %v", info, err)
	}
}

// TestUsageKeepsOwner has root use a user's key store: the files that this makes are the user's.
func TestUsageKeepsOwner(t *testing.T) {
	m, clock := newMemFS(), new(testClock)
	cfg := Config{Dir: "/v/keys", Clock: clock, fsys: m}
	s := create(t, cfg)
	m.names[s.path].uid, m.names[s.path].gid = 4242, 4243
	for range 2 { // the second time there is a file; whoever has it, it is the user's again
		use(t, s, DefaultAlias)
		clock.advance(usageInterval + time.Second)
		use(t, s, DefaultAlias)
		for _, path := range []string{s.usagePath(), s.usagePath() + ".lock"} {
			if n := m.names[path]; n == nil || n.uid != 4242 || n.gid != 4243 {
				t.Errorf("%s: %+v", path, n)
			}
		}
		m.names[s.usagePath()].uid = 0
	}
}

func TestStoreNeverShows(t *testing.T) {
	s := create(t, Config{})
	type wrapper struct{ s *Store }
	secrets := [][]byte{s.storeKey[:], s.snap.materials()[0].secret[:]}
	for _, v := range []any{s, wrapper{s}, &wrapper{s}, *s.snap, s.snap} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			got := fmt.Sprintf(verb, v)
			for _, secret := range secrets {
				for _, form := range []string{fmt.Sprintf("%x", secret), strings.Trim(fmt.Sprint(secret), "[]"), string(secret)} {
					if strings.Contains(strings.ToLower(got), form) {
						t.Errorf("%s of %T shows a secret", verb, v)
					}
				}
			}
		}
	}
}

func TestCloseWipes(t *testing.T) {
	s := create(t, Config{})
	m, key := s.snap.materials()[0], s.storeKey
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if m.secret != [secretSize]byte{} || *key != [secretSize]byte{} {
		t.Error("Close left secrets in memory")
	}
	if _, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{}); !errors.Is(err, keysource.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if err := s.ChangeMasterKey(t.Context(), Master{}); !errors.Is(err, keysource.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// mustOpenDir opens a store.
func mustOpenDir(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// mustCreateKey makes a CMK and returns its ARN.
func mustCreateKey(t *testing.T, s *Store) keysource.KeyRef {
	t.Helper()
	md, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return keysource.KeyRef(md.ARN)
}
