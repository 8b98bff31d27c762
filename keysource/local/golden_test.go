package local

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"kmsfs/keysource"
)

// vector is a wrapped key of a golden store: one that opens, or one that is refused. The files are written once for
// each version of the format and never again.
type vector struct {
	Name      string            `json:"name"`
	Blob      string            `json:"blob"`
	Context   keysource.Context `json:"context"`
	Key       string            `json:"key"`
	Plaintext string            `json:"plaintext"`
	Material  string            `json:"material"`
	Refused   string            `json:"refused"`
}

// golden copies a golden store, since a checkout does not keep the mode of the key file.
func golden(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{StoreName, KeyFileName} {
		b, err := os.ReadFile(filepath.Join("testdata", name, file))
		if os.IsNotExist(err) && file == KeyFileName {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestGoldenStores(t *testing.T) {
	kinds := map[string]error{"invalid ciphertext": keysource.ErrInvalidCiphertext, "key is disabled": keysource.ErrDisabled}
	for _, test := range []struct {
		name   string
		master Master
	}{
		{"v1-keyfile", Master{}},
		{"v1-passphrase", Master{Passphrase: says("correct horse battery staple")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := mustOpenDir(t, Config{Dir: golden(t, test.name), Master: test.master})
			var vectors []vector
			if err := json.Unmarshal(mustRead(t, filepath.Join("testdata", test.name, "blobs.json")), &vectors); err != nil {
				t.Fatal(err)
			}
			opened, refused := 0, 0
			for _, v := range vectors {
				blob, err := hex.DecodeString(v.Blob)
				if err != nil {
					t.Fatal(err)
				}
				r, err := s.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: blob, EncryptionContext: v.Context})
				if v.Refused != "" {
					refused++
					wantError(t, v.Name, err, kinds[v.Refused])
					continue
				}
				opened++
				if err != nil || hex.EncodeToString(r.Plaintext.Bytes()) != v.Plaintext || r.KeyID != v.Key || r.KeyMaterialID != v.Material {
					t.Errorf("%s: got %s %s, %v", v.Name, r.KeyID, r.KeyMaterialID, err)
				}
			}
			if opened < 5 || refused < 25 {
				t.Errorf("only %d vectors to open and %d to refuse", opened, refused)
			}
			checkGoldenKeys(t, s)
			// The golden store can be changed and opened again.
			mustCreateKey(t, s)
			if got := len(state(t, mustOpenDir(t, Config{Dir: s.cfg.Dir, Master: test.master}))); got != 8 {
				t.Errorf("got %d key materials after a change, want 8", got)
			}
		})
	}
}

// checkGoldenKeys checks the metadata in a golden store.
func checkGoldenKeys(t *testing.T, s *Store) {
	t.Helper()
	keys, err := s.ListKeys(t.Context())
	if err != nil || len(keys) != 5 {
		t.Fatalf("got %d keys, %v", len(keys), err)
	}
	for i, want := range []struct {
		description string
		state       keysource.KeyState
		origin      keysource.KeyOrigin
		manager     keysource.KeyManager
		materials   int
		aliases     int
	}{
		{"Default key of kmsfs, made on the user's behalf", keysource.KeyStateEnabled, keysource.OriginAWSKMS, keysource.ManagerAWS, 1, 1},
		{"finance, schlüssel", keysource.KeyStateEnabled, keysource.OriginAWSKMS, keysource.ManagerCustomer, 2, 2},
		{"", keysource.KeyStateEnabled, keysource.OriginExternal, keysource.ManagerCustomer, 2, 0},
		{"", keysource.KeyStateDisabled, keysource.OriginAWSKMS, keysource.ManagerCustomer, 1, 0},
		{"scheduled for deletion, then cancelled", keysource.KeyStateDisabled, keysource.OriginAWSKMS, keysource.ManagerCustomer, 1, 0},
	} {
		ref := keysource.KeyRef(keys[i].ARN)
		md, err1 := s.DescribeKey(t.Context(), ref)
		rotations, err2 := s.ListKeyRotations(t.Context(), ref)
		aliases, err3 := s.ListAliases(t.Context(), ref)
		if err1 != nil || err2 != nil || err3 != nil || md.Description != want.description || md.KeyState != want.state ||
			md.Origin != want.origin || md.KeyManager != want.manager || len(rotations) != want.materials || len(aliases) != want.aliases {
			t.Errorf("key %d: got %+v, %d key materials, %d aliases", i, md, len(rotations), len(aliases))
		}
	}
}

// wantError checks the kind of an error.
func wantError(t *testing.T, what string, err, kind error) {
	t.Helper()
	if kind == nil || !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}
