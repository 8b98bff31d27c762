package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kmsfs/keysource"
)

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
		{"wrong key file", rewrite(KeyFileName, func(b []byte) []byte { b[30] = "10"[b[30]&1]; return b }), ErrMasterKey, true},
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
