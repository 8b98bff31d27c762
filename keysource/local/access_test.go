package local

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// TestAccess has policy, tags and grants kept over reopening, and gone with their CMK.
func TestAccess(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	md, err := s.CreateKey(ctx, keysource.CreateKeyInput{Policy: "p", Tags: []keysource.Tag{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	k := keysource.KeyRef(md.ARN)
	if err := s.CreateAlias(ctx, "alias/k", k); err != nil {
		t.Fatal(err)
	}
	g := keysource.Grant{Name: "n", GranteePrincipal: "arn:x", RetiringPrincipal: "arn:y", IssuingAccount: "arn:z",
		Operations: []string{"Decrypt"}, ContextSubset: keysource.Context{"a": "b"}}
	first, err := s.CreateGrant(ctx, k, g)
	if err != nil || len(first.ID) != 64 || first.CreationDate.IsZero() {
		t.Fatalf("got %+v, %v", first, err)
	}
	if again, err := s.CreateGrant(ctx, k, g); err != nil || again.ID != first.ID {
		t.Errorf("the same again: %s, %v", again.ID, err)
	}
	g.Name = ""
	next, err := s.CreateGrant(ctx, k, g)
	if err != nil || next.ID == first.ID {
		t.Errorf("without a name: %v", err)
	}
	empty := g
	empty.ContextSubset, empty.ContextEquals = nil, keysource.Context{}
	third, err := s.CreateGrant(ctx, k, empty)
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Key(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	s = mustOpenDir(t, Config{Dir: s.cfg.Dir})
	after, err := s.Key(ctx, k)
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("got %+v, %v, want %+v", after, err, before)
	}
	if after.Policy != "p" || len(after.Tags) != 2 || after.Tags[0].Key != "a" || len(after.Grants) != 3 || len(after.Aliases) != 1 {
		t.Errorf("got %+v", after)
	}
	for _, id := range []string{next.ID, third.ID} {
		if err := s.RevokeGrant(ctx, k, id); err != nil {
			t.Error(err)
		}
	}
	if err := s.RevokeGrant(ctx, k, next.ID); !errors.Is(err, keysource.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	for name, err := range map[string]error{
		"no grantee":    second(s.CreateGrant(ctx, k, keysource.Grant{Operations: g.Operations})),
		"no operations": second(s.CreateGrant(ctx, k, keysource.Grant{GranteePrincipal: "x"})),
		"both":          second(s.CreateGrant(ctx, k, keysource.Grant{GranteePrincipal: "x", Operations: g.Operations, ContextEquals: keysource.Context{}, ContextSubset: keysource.Context{}})),
		"long name":     second(s.CreateGrant(ctx, k, keysource.Grant{GranteePrincipal: "x", Operations: g.Operations, Name: strings.Repeat("x", 257)})),
		"empty context": second(s.CreateGrant(ctx, k, keysource.Grant{GranteePrincipal: "x", Operations: g.Operations, ContextEquals: keysource.Context{"": "x"}})),
		"policy":        s.PutKeyPolicy(ctx, k, "\xff"),
		"tag":           s.TagResource(ctx, k, []keysource.Tag{{Key: "\xff"}}),
	} {
		if !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.PutKeyPolicy(ctx, k, strings.Repeat("x", MaxPolicySize+1)); !errors.Is(err, keysource.ErrLimit) {
		t.Errorf("long policy: %v", err)
	}
	if err := s.PutKeyPolicy(ctx, DefaultAlias, "x"); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("policy of an AWS managed CMK: %v", err)
	}
	all, err := s.Keys(ctx)
	if err != nil || len(all) != 2 || all[1].ARN != md.ARN {
		t.Errorf("got %d, %v", len(all), err)
	}
	dk, err := s.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: k})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := BlobKey(dk.CiphertextBlob); err != nil || id != md.KeyID {
		t.Errorf("got %s, %v", id, err)
	}
	if _, err := BlobKey([]byte("x")); !errors.Is(err, keysource.ErrInvalidCiphertext) {
		t.Errorf("got %v", err)
	}
}

// TestUnavailable has a CMK in a state that only a store file can say, and a later kmsfs may.
func TestUnavailable(t *testing.T) {
	s, ctx := create(t, Config{}), t.Context()
	ref := mustCreateKey(t, s)
	for state, want := range map[keysource.KeyState]string{keysource.KeyStateUnavailable: " is unavailable.", "Creating": " is not in a state for this request."} {
		err := s.updateKey(ctx, "test", ref, func(_ *snapshot, k *cmk) error {
			k.state = state
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		again := mustOpenDir(t, Config{Dir: s.cfg.Dir})
		_, err = again.Encrypt(ctx, ref, []byte("x"), nil)
		if !errors.Is(err, keysource.ErrInvalidState) || !strings.Contains(err.Error(), string(ref)+want) {
			t.Errorf("%s: got %v", state, err)
		}
		if md, err := again.DescribeKey(ctx, ref); err != nil || md.KeyState != state || md.Enabled {
			t.Errorf("got %+v, %v", md, err)
		}
	}
}

// TestOldFormat shows that a store that uses nothing new is written as before: what reads it may be old.
func TestOldFormat(t *testing.T) {
	s := create(t, Config{})
	mustCreateKey(t, s)
	b, err := marshalBody(s.snap)
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"policy", "tags", "grants", "rotation", "expires", "missing"} {
		if strings.Contains(string(b), fmt.Sprintf("%q:", member)) {
			t.Errorf("%s is there", member)
		}
	}
}

// TestRefusedBodies has bodies that no kmsfs writes.
func TestRefusedBodies(t *testing.T) {
	const id = "1234abcd-12ab-44cd-96ef-1234567890ab"
	body := func(key string) []byte {
		doc := `{"account":"000000000000","region":"local","keys":[{"id":"` + id + `","created":"2026-01-01T00:00:00Z","origin":"EXTERNAL","manager":"CUSTOMER",` +
			key + `}],"aliases":[]}`
		return append([]byte{0, 0, byte(len(doc) >> 8), byte(len(doc))}, doc...)
	}
	missing := strings.Repeat("ab", 32)
	if _, err := unmarshalBody(body(`"state":"PendingImport","materials":[{"id":"` + missing + `","origin":"EXTERNAL","since":"2026-01-01T00:00:00Z","missing":true}]`)); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{
		"unknown member":            `"state":"PendingImport","materials":[],"later":1`,
		"enabled without material":  `"state":"Enabled","materials":[]`,
		"enabled, material missing": `"state":"Enabled","materials":[{"id":"` + missing + `","origin":"EXTERNAL","since":"2026-01-01T00:00:00Z","missing":true}]`,
		"missing of our own":        `"state":"PendingImport","materials":[{"id":"` + missing + `","origin":"AWS_KMS","since":"2026-01-01T00:00:00Z","missing":true}]`,
		"missing with a bad id":     `"state":"PendingImport","materials":[{"id":"AB` + missing[2:] + `","origin":"EXTERNAL","since":"2026-01-01T00:00:00Z","missing":true}]`,
		"missing and pending":       `"state":"PendingImport","materials":[],"pending":{"id":"` + missing + `","origin":"EXTERNAL","since":"2026-01-01T00:00:00Z","missing":true}`,
		"short period":              `"state":"PendingImport","materials":[],"rotation":{"period":1,"next":"2026-01-01T00:00:00Z"}`,
		"period without a date":     `"state":"PendingImport","materials":[],"rotation":{"period":90}`,
		"grant without id":          `"state":"PendingImport","materials":[],"grants":[{"id":"","created":"2026-01-01T00:00:00Z","grantee":"x","operations":["Decrypt"]}]`,
		"grant without operations":  `"state":"PendingImport","materials":[],"grants":[{"id":"x","created":"2026-01-01T00:00:00Z","grantee":"x","operations":[]}]`,
	} {
		if _, err := unmarshalBody(body(key)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
