package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/keysource"
)

// testClock is a clock that a test moves.
type testClock struct {
	keysource.SystemClock
	offset atomic.Int64
}

func (c *testClock) Now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *testClock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// imported is an ImportKeyMaterialInput with 32 bytes of fill.
func imported(key keysource.KeyRef, fill byte, how keysource.ImportType) keysource.ImportKeyMaterialInput {
	return keysource.ImportKeyMaterialInput{KeyID: key, ImportType: how,
		Material: bytes.NewReader(bytes.Repeat([]byte{fill}, secretSize))}
}

// TestStateTable is AWS's table of what is allowed in which key state.
func TestStateTable(t *testing.T) {
	calls := map[string]func(ctx context.Context, s *Store, k keysource.KeyRef) error{
		"GenerateDataKey": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: k})
			return err
		},
		"Encrypt": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.Encrypt(ctx, k, []byte("x"), nil)
			return err
		},
		"DescribeKey": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.DescribeKey(ctx, k)
			return err
		},
		"ListAliases": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.ListAliases(ctx, k)
			return err
		},
		"ListKeyRotations": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.ListKeyRotations(ctx, k)
			return err
		},
		"EnableKey":  func(ctx context.Context, s *Store, k keysource.KeyRef) error { return s.EnableKey(ctx, k) },
		"DisableKey": func(ctx context.Context, s *Store, k keysource.KeyRef) error { return s.DisableKey(ctx, k) },
		"UpdateKeyDescription": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			return s.UpdateKeyDescription(ctx, k, "x")
		},
		"CreateAlias": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			return s.CreateAlias(ctx, "alias/new", k)
		},
		"UpdateAlias to": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			return s.UpdateAlias(ctx, "alias/spare", k)
		},
		"UpdateAlias from": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			md, err := s.CreateKey(ctx, keysource.CreateKeyInput{})
			return errors.Join(err, s.UpdateAlias(ctx, "alias/k", keysource.KeyRef(md.ARN)))
		},
		"DeleteAlias": func(ctx context.Context, s *Store, k keysource.KeyRef) error { return s.DeleteAlias(ctx, "alias/k") },
		"ScheduleKeyDeletion": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.ScheduleKeyDeletion(ctx, k, 7)
			return err
		},
		"CancelKeyDeletion": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.CancelKeyDeletion(ctx, k)
			return err
		},
		"RotateKeyOnDemand": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.RotateKeyOnDemand(ctx, k)
			return err
		},
		"ImportKeyMaterial": func(ctx context.Context, s *Store, k keysource.KeyRef) error {
			_, err := s.ImportKeyMaterial(ctx, imported(k, 1, ""))
			return err
		},
	}
	const (
		disabled  = " is disabled. (DisabledException)"
		importing = " is pending import. (KMSInvalidStateException)"
		deleting  = " is pending deletion. (KMSInvalidStateException)"
		notYet    = " is not pending deletion. (KMSInvalidStateException)"
		origin    = " origin is AWS_KMS which is not valid for this operation. (UnsupportedOperationException)"
	)
	for _, row := range []struct{ call, enabled, disabled, pendingImport, pendingDeletion string }{
		{"GenerateDataKey", "", disabled, importing, deleting},
		{"Encrypt", "", disabled, importing, deleting},
		{"DescribeKey", "", "", "", ""},
		{"ListAliases", "", "", "", ""},
		{"ListKeyRotations", "", "", "", ""},
		{"EnableKey", "", "", importing, deleting},
		{"DisableKey", "", "", importing, deleting},
		{"UpdateKeyDescription", "", "", "", deleting},
		{"CreateAlias", "", "", "", deleting},
		{"UpdateAlias to", "", "", "", deleting},
		{"UpdateAlias from", "", "", "", ""},
		{"DeleteAlias", "", "", "", ""},
		{"ScheduleKeyDeletion", "", "", "", deleting},
		{"CancelKeyDeletion", notYet, notYet, notYet, ""},
		{"RotateKeyOnDemand", "", disabled, importing, deleting},
		{"ImportKeyMaterial", origin, origin, "", origin},
	} {
		for state, want := range map[keysource.KeyState]string{keysource.KeyStateEnabled: row.enabled,
			keysource.KeyStateDisabled: row.disabled, keysource.KeyStatePendingImport: row.pendingImport,
			keysource.KeyStatePendingDeletion: row.pendingDeletion} {
			s, ctx := create(t, Config{}), t.Context()
			in := keysource.CreateKeyInput{}
			if state == keysource.KeyStatePendingImport {
				in.Origin = keysource.OriginExternal
			}
			md, err := s.CreateKey(ctx, in)
			k := keysource.KeyRef(md.ARN)
			err = errors.Join(err, s.CreateAlias(ctx, "alias/k", k), s.CreateAlias(ctx, "alias/spare", mustCreateKey(t, s)))
			switch state {
			case keysource.KeyStateDisabled:
				err = errors.Join(err, s.DisableKey(ctx, k))
			case keysource.KeyStatePendingDeletion:
				_, e := s.ScheduleKeyDeletion(ctx, k, 7)
				err = errors.Join(err, e)
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := calls[row.call](ctx, s, k); err != nil {
				got = err.Error()
			}
			if want != "" {
				want = strings.Fields(row.call)[0] + ": " + md.ARN + want
			}
			if got != want {
				t.Errorf("%s of a key that is %s: got %q, want %q", row.call, state, got, want)
			}
		}
	}
}

func TestDeletion(t *testing.T) {
	clock := new(testClock)
	s, ctx := create(t, Config{Clock: clock}), t.Context()
	k := mustCreateKey(t, s)
	for _, days := range []int{-1, 1, 6, 31} {
		if _, err := s.ScheduleKeyDeletion(ctx, k, days); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("%d days: got %v", days, err)
		}
	}
	md, err := s.ScheduleKeyDeletion(ctx, k, 0)
	if err != nil || md.KeyState != keysource.KeyStatePendingDeletion || md.DeletionDate.Sub(clock.Now()).Round(time.Hour) != 30*24*time.Hour {
		t.Errorf("got %+v, %v", md, err)
	}
	md, err = s.CancelKeyDeletion(ctx, k)
	if err != nil || md.KeyState != keysource.KeyStateDisabled || !md.DeletionDate.IsZero() {
		t.Errorf("got %+v, %v", md, err)
	}
	if err := s.EnableKey(ctx, k); err != nil {
		t.Error(err)
	}
	if err := s.CreateAlias(ctx, "alias/k", k); err != nil {
		t.Error(err)
	}
	if _, err := s.ScheduleKeyDeletion(ctx, k, 7); err != nil {
		t.Error(err)
	}
	clock.advance(7*24*time.Hour + time.Minute)
	if _, err := s.CancelKeyDeletion(ctx, k); !errors.Is(err, keysource.ErrNotFound) {
		t.Errorf("cancel too late: got %v", err)
	}
	mustCreateKey(t, s) // any change carries the deletion out
	for _, ref := range []keysource.KeyRef{k, "alias/k"} {
		if _, err := s.DescribeKey(ctx, ref); !errors.Is(err, keysource.ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", ref, err)
		}
	}
}

func TestManagedKey(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	k := keysource.KeyRef(DefaultAlias)
	_, deletion := s.ScheduleKeyDeletion(ctx, k, 7)
	for name, err := range map[string]error{"DisableKey": s.DisableKey(ctx, k), "ScheduleKeyDeletion": deletion,
		"UpdateKeyDescription": s.UpdateKeyDescription(ctx, k, "x"), "CreateAlias": s.CreateAlias(ctx, "alias/x", k)} {
		if !errors.Is(err, keysource.ErrDenied) || keysource.Hint(err) == "" {
			t.Errorf("%s: got %v with hint %q, want ErrDenied", name, err, keysource.Hint(err))
		}
	}
	own := mustCreateKey(t, s)
	for name, err := range map[string]error{"CreateAlias": s.CreateAlias(ctx, "alias/aws/mine", own),
		"UpdateAlias": s.UpdateAlias(ctx, DefaultAlias, own), "DeleteAlias": s.DeleteAlias(ctx, DefaultAlias)} {
		if !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("%s of alias/aws/: got %v", name, err)
		}
	}
	if _, err := s.RotateKeyOnDemand(ctx, k); err != nil {
		t.Errorf("RotateKeyOnDemand: %v", err)
	}
}

func TestAliases(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	a, b := mustCreateKey(t, s), mustCreateKey(t, s)
	for _, name := range []string{"alias/one", "alias/two"} {
		if err := s.CreateAlias(ctx, name, a); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateAlias(ctx, "alias/one", b); !errors.Is(err, keysource.ErrAlreadyExists) {
		t.Errorf("second of a name: got %v", err)
	}
	for _, name := range []string{"", "one", "alias/", "alias/a b", "alias/" + strings.Repeat("x", 251)} {
		if err := s.CreateAlias(ctx, name, a); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("alias %q: got %v", name, err)
		}
	}
	if err := s.UpdateAlias(ctx, "alias/two", b); err != nil {
		t.Error(err)
	}
	if md, err := s.DescribeKey(ctx, "alias/two"); err != nil || md.ARN != string(b) {
		t.Errorf("moved alias is %s, %v", md.ARN, err)
	}
	if list, err := s.ListAliases(ctx, a); err != nil || len(list) != 1 || list[0].AliasName != "alias/one" ||
		list[0].AliasARN != "arn:aws:kms:local:000000000000:alias/one" {
		t.Errorf("aliases of a: %+v, %v", list, err)
	}
	if list, err := s.ListAliases(ctx, ""); err != nil || len(list) != 3 {
		t.Errorf("all aliases: %+v, %v", list, err)
	}
	if err := s.DeleteAlias(ctx, "alias/one"); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{"DeleteAlias": s.DeleteAlias(ctx, "alias/one"), "UpdateAlias": s.UpdateAlias(ctx, "alias/one", a)} {
		if !errors.Is(err, keysource.ErrNotFound) {
			t.Errorf("%s of a missing alias: got %v", name, err)
		}
	}
	for i := 1; ; i++ {
		if err := s.CreateAlias(ctx, fmt.Sprintf("alias/n%d", i), a); err != nil {
			if !errors.Is(err, keysource.ErrLimit) || i != maxAliasesPerKey+1 {
				t.Errorf("alias %d: got %v", i, err)
			}
			break
		}
	}
}

func TestRotations(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	k := mustCreateKey(t, s)
	for i := range maxRotations {
		if _, err := s.RotateKeyOnDemand(ctx, k); err != nil {
			t.Fatalf("rotation %d: %v", i+1, err)
		}
	}
	if _, err := s.RotateKeyOnDemand(ctx, k); !errors.Is(err, keysource.ErrLimit) || keysource.Retryable(err) {
		t.Errorf("one rotation too many: got %v", err)
	}
	list, err := s.ListKeyRotations(ctx, k)
	if err != nil || len(list) != maxRotations+1 {
		t.Fatalf("got %d rotations, %v", len(list), err)
	}
	md, _ := s.DescribeKey(ctx, k)
	for i, r := range list {
		want := keysource.KeyRotation{KeyID: string(k), KeyMaterialID: r.KeyMaterialID, State: keysource.MaterialNonCurrent,
			Origin: keysource.OriginAWSKMS, RotationType: keysource.RotationOnDemand, RotationDate: r.RotationDate}
		if i == 0 {
			want.RotationType = ""
		}
		if i == maxRotations {
			want.State, want.KeyMaterialID = keysource.MaterialCurrent, md.CurrentKeyMaterialID
		}
		if r != want {
			t.Errorf("rotation %d: got %+v, want %+v", i, r, want)
		}
	}
}

func TestImport(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	md, err := s.CreateKey(ctx, keysource.CreateKeyInput{Origin: keysource.OriginExternal})
	if err != nil || md.KeyState != keysource.KeyStatePendingImport || md.CurrentKeyMaterialID != "" {
		t.Fatalf("got %+v, %v", md, err)
	}
	k := keysource.KeyRef(md.ARN)
	for _, n := range []int{0, 31, 33, 1000} {
		in := imported(k, 1, "")
		in.Material = bytes.NewReader(make([]byte, n))
		if _, err := s.ImportKeyMaterial(ctx, in); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("%d bytes: got %v", n, err)
		}
	}
	first, err := s.ImportKeyMaterial(ctx, imported(k, 1, ""))
	if err != nil {
		t.Fatal(err)
	}
	dk, err := s.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: k})
	if err != nil || dk.KeyMaterialID != first {
		t.Errorf("got %s, %v, want %s", dk.KeyMaterialID, err, first)
	}
	if again, err := s.ImportKeyMaterial(ctx, imported(k, 1, "")); err != nil || again != first {
		t.Errorf("the same again: %s, %v", again, err)
	}
	if _, err := s.ImportKeyMaterial(ctx, imported(k, 2, "")); !errors.Is(err, keysource.ErrInvalidArgument) {
		t.Errorf("other material as existing: %v", err)
	}
	if _, err := s.ImportKeyMaterial(ctx, imported(k, 1, keysource.ImportNewKeyMaterial)); !errors.Is(err, keysource.ErrInvalidArgument) {
		t.Errorf("the same as new: %v", err)
	}
	if _, err := s.RotateKeyOnDemand(ctx, k); !errors.Is(err, keysource.ErrInvalidState) {
		t.Errorf("rotation without new material: %v", err)
	}
	second, err := s.ImportKeyMaterial(ctx, imported(k, 2, keysource.ImportNewKeyMaterial))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ImportKeyMaterial(ctx, imported(k, 3, keysource.ImportNewKeyMaterial)); !errors.Is(err, keysource.ErrConflict) {
		t.Errorf("a second pending: %v", err)
	}
	s = mustOpenDir(t, Config{Dir: s.cfg.Dir}) // pending material survives
	if list, err := s.ListKeyRotations(ctx, k); err != nil || len(list) != 2 || list[1].State != keysource.MaterialPendingRotation {
		t.Errorf("got %+v, %v", list, err)
	}
	rotated, err := s.RotateKeyOnDemand(ctx, k)
	if err != nil || rotated.CurrentKeyMaterialID != second {
		t.Errorf("got %s, %v, want %s", rotated.CurrentKeyMaterialID, err, second)
	}
	if r, err := s.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: dk.CiphertextBlob}); err != nil || !r.Plaintext.Equal(dk.Plaintext) {
		t.Errorf("Decrypt under the first material: %v", err)
	}
	// The same material in another CMK, or another store, has another id.
	other, _ := s.CreateKey(ctx, keysource.CreateKeyInput{Origin: keysource.OriginExternal})
	if id, err := s.ImportKeyMaterial(ctx, imported(keysource.KeyRef(other.ARN), 1, "")); err != nil || id == first {
		t.Errorf("got id %s, %v", id, err)
	}
}

func TestEncrypt(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	for _, n := range []int{0, 1, 4096, 4097} {
		plain := bytes.Repeat([]byte{5}, n)
		e, err := s.Encrypt(ctx, DefaultAlias, plain, nil)
		if n == 0 || n > keysource.MaxPlaintextSize {
			if !errors.Is(err, keysource.ErrInvalidArgument) {
				t.Errorf("%d bytes: got %v", n, err)
			}
			continue
		}
		if err != nil || len(e.CiphertextBlob) != n+BlobOverhead {
			t.Errorf("%d bytes: %d, %v", n, len(e.CiphertextBlob), err)
		}
		r, err := s.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: e.CiphertextBlob})
		if err != nil || !bytes.Equal(r.Plaintext.Bytes(), plain) || r.KeyMaterialID != e.KeyMaterialID {
			t.Errorf("%d bytes: Decrypt: %v", n, err)
		}
	}
}

func TestDescriptions(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	k := mustCreateKey(t, s)
	if err := s.UpdateKeyDescription(ctx, k, "für Finanzen"); err != nil {
		t.Error(err)
	}
	if md, _ := s.DescribeKey(ctx, k); md.Description != "für Finanzen" {
		t.Errorf("got %q", md.Description)
	}
	for _, d := range []string{strings.Repeat("x", 8193), "\xff"} {
		if err := s.UpdateKeyDescription(ctx, k, d); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("got %v", err)
		}
		if _, err := s.CreateKey(ctx, keysource.CreateKeyInput{Description: d}); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := s.CreateKey(ctx, keysource.CreateKeyInput{Origin: "AWS_CLOUDHSM"}); !errors.Is(err, keysource.ErrUnsupported) {
		t.Errorf("unknown origin: got %v", err)
	}
}
