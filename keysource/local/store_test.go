package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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

func TestCreateNeverOverwrites(t *testing.T) {
	for _, content := range []string{"", "garbage", "store"} {
		dir := t.TempDir()
		path := filepath.Join(dir, StoreName)
		want := []byte(content)
		if content == "store" {
			create(t, Config{Dir: dir})
			want, _ = os.ReadFile(path)
		} else if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(t.Context(), Config{Dir: dir}); !errors.Is(err, keysource.ErrAlreadyExists) {
			t.Errorf("%s: got %v, want ErrAlreadyExists", content, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: Create changed the file", content)
		}
		if _, err := Open(t.Context(), Config{Dir: dir}); content != "store" && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Open: got %v, want ErrDamaged", content, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	chmod := func(mode fs.FileMode) func(string) error {
		return func(dir string) error { return os.Chmod(filepath.Join(dir, KeyFileName), mode) }
	}
	rewrite := func(name string, f func([]byte) []byte) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), f(b), 0o600)
		}
	}
	for _, test := range []struct {
		name string
		do   func(dir string) error
		want error
		hint bool
	}{
		{"no store", func(dir string) error { return os.Remove(filepath.Join(dir, StoreName)) }, fs.ErrNotExist, true},
		{"no key file", func(dir string) error { return os.Remove(filepath.Join(dir, KeyFileName)) }, ErrMasterKey, true},
		{"group readable", chmod(0o640), ErrInsecure, true},
		{"world readable", chmod(0o604), ErrInsecure, true},
		{"group writable", chmod(0o620), ErrInsecure, true},
		{"other owner", func(dir string) error { return os.Chown(filepath.Join(dir, KeyFileName), 4242, 0) }, ErrInsecure, true},
		{"key file is a directory", func(dir string) error {
			p := filepath.Join(dir, KeyFileName)
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		}, ErrInsecure, false},
		{"key file empty", rewrite(KeyFileName, func([]byte) []byte { return nil }), ErrMasterKey, false},
		{"key file short", rewrite(KeyFileName, func(b []byte) []byte { return b[:40] }), ErrMasterKey, false},
		{"key file long", rewrite(KeyFileName, func(b []byte) []byte { return append(b, "more"...) }), ErrMasterKey, false},
		{"key file not hexadecimal", rewrite(KeyFileName, func(b []byte) []byte { b[30] = 'x'; return b }), ErrMasterKey, false},
		{"wrong key file", rewrite(KeyFileName, func(b []byte) []byte { b[30] ^= 1; return b }), ErrMasterKey, true},
		{"store is a link", func(dir string) error {
			p := filepath.Join(dir, StoreName)
			return errors.Join(os.Rename(p, p+"x"), os.Symlink(p+"x", p))
		}, nil, false},
		{"store is a directory", func(dir string) error {
			p := filepath.Join(dir, StoreName)
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		}, nil, false},
		{"empty", rewrite(StoreName, func([]byte) []byte { return nil }), ErrDamaged, true},
		{"one byte more", rewrite(StoreName, func(b []byte) []byte { return append(b, 0) }), ErrDamaged, true},
		{"zeros", rewrite(StoreName, func(b []byte) []byte { return make([]byte, len(b)) }), ErrDamaged, true},
		{"version 2", rewrite(StoreName, func(b []byte) []byte { b[offVersion+1] = 2; return b }), keysource.ErrUnsupported, true},
		{"unknown feature", rewrite(StoreName, func(b []byte) []byte { b[offFeatures] = 1; return b }), keysource.ErrUnsupported, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			create(t, Config{Dir: dir})
			if err := test.do(dir); err != nil {
				t.Skip(err) // needs root
			}
			s, err := Open(t.Context(), Config{Dir: dir})
			if err == nil {
				_ = s.Close()
				t.Fatal("the store opened")
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if test.hint && keysource.Hint(err) == "" {
				t.Errorf("%v has no hint", err)
			}
		})
	}
}

// TestDamagedFile flips bits of, and cuts, a store file everywhere.
func TestDamagedFile(t *testing.T) {
	for _, m := range []Master{{}, {Passphrase: says("p"), Argon2: cheapArgon2()}} {
		dir := t.TempDir()
		create(t, Config{Dir: dir, Master: m})
		path := filepath.Join(dir, StoreName)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		refuse := func(what string, b []byte) {
			t.Helper()
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), Config{Dir: dir, Master: m})
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrMasterKey) {
				t.Errorf("%s: got %v", what, err)
			}
		}
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1 << (i % 8)
			if i >= offArgon2 && i < offMasterSalt && m.Passphrase != nil {
				continue // would be slow: TestArgon2Bounds has it
			}
			refuse(fmt.Sprintf("bit of byte %d", i), b)
		}
		for n := 0; n < len(good); n += 7 {
			refuse("cut", good[:n])
		}
	}
}

func TestArgon2Bounds(t *testing.T) {
	for _, a := range []Argon2{{}, {8, 0, 1}, {7, 1, 1}, {1 << 30, 1, 1}, {64, 1 << 20, 1}, {1 << 20, 64, 1}, {64, 1, 0}, {64, 1, 255}} {
		if a.validate() == nil {
			t.Errorf("%+v is accepted", a)
		}
		h := header{lock: masterLock{kind: masterPassphrase, argon2: a}, bodySize: 100}
		if _, err := parseHeader(h.marshal()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%+v in a header: %v", a, err)
		}
	}
	if err := DefaultArgon2().validate(); err != nil {
		t.Error(err)
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

// TestFileGoesBad damages, replaces and rolls back the file under a store that is in use: it must go on with what it
// has, say so, refuse changes, and never write.
func TestFileGoesBad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, StoreName)
	s := create(t, Config{Dir: dir, CheckInterval: -1})
	var log bytes.Buffer
	s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	oldFile := mustRead(t, path)
	k, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: mustCreateKey(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	good := mustRead(t, path)
	otherDir := t.TempDir()
	create(t, Config{Dir: otherDir})
	for _, test := range []struct {
		name    string
		content []byte
	}{
		{"empty", []byte{}},
		{"cut", good[:headerSize/2]},
		{"flipped", append(append(bytes.Clone(good[:offBodySalt]), good[offBodySalt]^1), good[offBodySalt+1:]...)},
		{"older generation", oldFile},
		{"other store", mustRead(t, filepath.Join(otherDir, StoreName))},
		{"missing", nil},
	} {
		log.Reset()
		if test.content == nil {
			_ = os.Remove(path)
		} else if err := os.WriteFile(path, test.content, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob})
		if err != nil || !r.Plaintext.Equal(k.Plaintext) {
			t.Errorf("%s: Decrypt: %v", test.name, err)
		}
		if log.Len() == 0 {
			t.Errorf("%s: nothing in the log", test.name)
		}
		if _, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{}); err == nil {
			t.Errorf("%s: a change was made", test.name)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, test.content) {
			t.Errorf("%s: the file was written", test.name)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	mustCreateKey(t, s)
}

// TestChangeMendsBody damages the body of the very generation that a store has in memory: the next change writes the
// whole store anew, and nothing is lost.
func TestChangeMendsBody(t *testing.T) {
	s := create(t, Config{})
	b := mustRead(t, s.path)
	if err := os.WriteFile(s.path, b[:len(b)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	mustCreateKey(t, s)
	if got, want := state(t, mustOpenDir(t, Config{Dir: s.cfg.Dir})), state(t, s); !slices.Equal(got, want) || len(got) != 2 {
		t.Errorf("got %v, want %v", got, want)
	}
}

// mustRead reads a file.
func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
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
