package local

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

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

// goldenClock stands still soon after the golden stores were made, before anything in them is due.
type goldenClock struct{ keysource.SystemClock }

func (goldenClock) Now() time.Time { return time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC) }

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
			s := mustOpenDir(t, Config{Dir: golden(t, test.name), Master: test.master, Clock: goldenClock{}})
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
			if got := len(state(t, mustOpenDir(t, Config{Dir: s.cfg.Dir, Master: test.master, Clock: goldenClock{}}))); got != 8 {
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

// TestGoldenAccess opens a store with all that came after the first release: policy, tags, grants, a schedule, material
// that expires, is pending and is missing. It was made once, with KMSFS_MAKE_GOLDEN=1.
func TestGoldenAccess(t *testing.T) {
	if os.Getenv("KMSFS_MAKE_GOLDEN") != "" {
		makeGoldenAccess(t)
	}
	s := mustOpenDir(t, Config{Dir: golden(t, "v1-access"), Clock: goldenClock{}})
	got, err := json.MarshalIndent(goldenAccess(t, s), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if want := mustRead(t, "testdata/v1-access/want.json"); string(got) != string(want) {
		t.Errorf("got %s", got)
	}
	s = mustOpenDir(t, Config{Dir: s.cfg.Dir, Clock: goldenClock{}})
	if err := s.TagResource(t.Context(), "alias/finance", []keysource.Tag{{Key: "new", Value: "tag"}}); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Key(t.Context(), "alias/finance"); err != nil || len(info.Tags) != 3 || info.Policy == "" {
		t.Errorf("after a change: %+v, %v", info, err)
	}
}

// goldenAccess is all that a store tells.
func goldenAccess(t *testing.T, s *Store) []any {
	t.Helper()
	keys, err := s.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []any
	for _, k := range keys {
		list, err := s.ListKeyRotations(t.Context(), keysource.KeyRef(k.ARN))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k, list)
	}
	return all
}

// makeGoldenAccess makes the store of TestGoldenAccess, unless it is there.
func makeGoldenAccess(t *testing.T) {
	const dir = "testdata/v1-access"
	s, err := Create(t.Context(), Config{Dir: dir, Clock: goldenClock{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	md, err := s.CreateKey(ctx, keysource.CreateKeyInput{Description: "finance", Policy: `{"Statement":[]}`,
		Tags: []keysource.Tag{{Key: "team", Value: "red"}, {Key: "größe", Value: ""}}})
	k := keysource.KeyRef(md.ARN)
	_, err2 := s.CreateGrant(ctx, k, keysource.Grant{Name: "n", GranteePrincipal: "arn:aws:iam::000000000000:user/a",
		RetiringPrincipal: "arn:aws:iam::000000000000:user/b", IssuingAccount: "arn:aws:iam::000000000000:root",
		Operations: []string{"Decrypt", "ReEncryptFrom"}, ContextSubset: keysource.Context{"a": "b"}})
	err = errors.Join(err, err2, s.CreateAlias(ctx, "alias/finance", k), s.EnableKeyRotation(ctx, k, 90))
	ext := externalKey(t, s)
	in := imported(ext, 1, "")
	in.ValidTo, in.Description = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), "first"
	_, err2 = s.ImportKeyMaterial(ctx, in)
	_, err3 := s.ImportKeyMaterial(ctx, imported(ext, 2, keysource.ImportNewKeyMaterial))
	err = errors.Join(err, err2, err3)
	gone := externalKey(t, s)
	_, err2 = s.ImportKeyMaterial(ctx, imported(gone, 1, ""))
	_, err3 = s.DeleteImportedKeyMaterial(ctx, gone, "")
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	want, err := json.MarshalIndent(goldenAccess(t, s), "", " ")
	if err := errors.Join(err, s.Close(), os.Remove(filepath.Join(dir, LockName)),
		os.WriteFile(filepath.Join(dir, "want.json"), want, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// wantError checks the kind of an error.
func wantError(t *testing.T, what string, err, kind error) {
	t.Helper()
	if kind == nil || !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}
