package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// newStore is a key store in a directory of its own.
func newStore(t *testing.T) (*local.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := local.Create(t.Context(), local.Config{Dir: dir, AccountID: "111122223333"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, dir
}

// open opens the directory of s, which looks at the file at every lookup.
func open(t *testing.T, s *local.Store) *Directory {
	t.Helper()
	d, err := Open(s, Config{CheckInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ready is ready-made policies by name.
func ready(names ...string) []Policy {
	var out []Policy
	for _, n := range names {
		out = append(out, Policy{Name: n})
	}
	return out
}

func TestDirectory(t *testing.T) {
	s, dir := newStore(t)
	admin, server := open(t, s), open(t, s)
	if !server.Empty() {
		t.Error("a new store has users")
	}
	if _, err := admin.Create(t.Context(), User, "alice", ready("reader")); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Create(t.Context(), Role, "alice", ready("writer", "rewrapper")); err != nil {
		t.Fatalf("a role of the name of a user: %v", err)
	}
	k, err := admin.CreateAccessKey(t.Context(), User, "alice")
	if err != nil || len(k.ID) != 20 || !strings.HasPrefix(k.ID, "AKIA") || len(k.Secret) != 40 {
		t.Fatalf("%s, %v", k.ID, err)
	}
	id, ok := server.Lookup(k.ID)
	if !ok || id.Secret != k.Secret || id.Caller.ARN != "arn:aws:iam::111122223333:user/alice" || id.Caller.UserName != "alice" ||
		id.Caller.AccessKeyID != k.ID || id.Caller.AccountID != "111122223333" || len(id.Caller.Policies) != 1 {
		t.Fatalf("lookup: %+v, %v", id, ok)
	}
	role, err := admin.CreateAccessKey(t.Context(), Role, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := server.Lookup(role.ID); !ok || id.Caller.ARN != "arn:aws:iam::111122223333:role/alice" || id.Caller.UserName != "" || len(id.Caller.Policies) != 2 {
		t.Errorf("lookup of a role: %+v, %v", id, ok)
	}
	if err := admin.SetAccessKey(t.Context(), User, "alice", k.ID, Disabled); err != nil {
		t.Fatal(err)
	}
	if _, ok := server.Lookup(k.ID); ok {
		t.Error("a disabled key signs")
	}
	if err := admin.SetAccessKey(t.Context(), User, "alice", k.ID, Enabled); err != nil {
		t.Fatal(err)
	}
	if _, ok := server.Lookup(k.ID); !ok {
		t.Error("an enabled key does not sign")
	}
	err = admin.SetPolicies(t.Context(), User, "alice", func([]Policy) ([]Policy, error) { return ready("auditor", "user"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := server.Lookup(k.ID); len(id.Caller.Policies) != 2 {
		t.Errorf("after a change of policies: %+v", id.Caller)
	}
	list, err := admin.List()
	if err != nil || len(list) != 2 || list[0].Kind != User || list[1].Kind != Role || len(list[0].AccessKeys) != 1 {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := admin.DeleteAccessKey(t.Context(), Role, "alice", role.ID); err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), User, "alice"); err != nil {
		t.Fatal(err)
	}
	if !server.Empty() {
		t.Error("keys that were deleted sign")
	}
	b, err := os.ReadFile(filepath.Join(dir, DocumentName))
	if err != nil || bytes.Contains(b, []byte("alice")) {
		t.Errorf("the file is in clear: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, DocumentName)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestRefusals(t *testing.T) {
	s, _ := newStore(t)
	d := open(t, s)
	if _, err := d.Create(t.Context(), User, "alice", nil); err != nil {
		t.Fatal(err)
	}
	for range MaxAccessKeys {
		if _, err := d.CreateAccessKey(t.Context(), User, "alice"); err != nil {
			t.Fatal(err)
		}
	}
	create := func(name string, policies []Policy) error {
		_, err := d.Create(t.Context(), User, name, policies)
		return err
	}
	_, third := d.CreateAccessKey(t.Context(), User, "alice")
	_, nobody := d.CreateAccessKey(t.Context(), Role, "alice")
	for name, c := range map[string]struct{ got, want error }{
		"twice":            {create("alice", nil), keysource.ErrAlreadyExists},
		"empty name":       {create("", nil), keysource.ErrInvalidArgument},
		"slash":            {create("a/b", nil), keysource.ErrInvalidArgument},
		"long name":        {create(strings.Repeat("a", 65), nil), keysource.ErrInvalidArgument},
		"unknown policy":   {create("bob", ready("king")), keysource.ErrNotFound},
		"policy twice":     {create("bob", ready("reader", "reader")), keysource.ErrAlreadyExists},
		"malformed policy": {create("bob", []Policy{{"p", "{}"}}), keysource.ErrInvalidArgument},
		"many policies":    {create("bob", make([]Policy, MaxPolicies+1)), keysource.ErrLimit},
		"third key":        {third, keysource.ErrLimit},
		"no role":          {nobody, keysource.ErrNotFound},
		"delete":           {d.Delete(t.Context(), User, "bob"), keysource.ErrNotFound},
		"delete key":       {d.DeleteAccessKey(t.Context(), User, "alice", "AKIAX"), keysource.ErrNotFound},
		"disable key":      {d.SetAccessKey(t.Context(), User, "alice", "AKIAX", Disabled), keysource.ErrNotFound},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	list, err := d.List()
	if err != nil || len(list) != 1 || len(list[0].AccessKeys) != MaxAccessKeys {
		t.Errorf("after refusals: %+v, %v", list, err)
	}
}

// TestDamagedFile: a server goes on with the users that it knows when their file is damaged.
func TestDamagedFile(t *testing.T) {
	s, dir := newStore(t)
	var log bytes.Buffer
	d, err := Open(s, Config{CheckInterval: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), User, "alice", nil); err != nil {
		t.Fatal(err)
	}
	k, err := d.CreateAccessKey(t.Context(), User, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, DocumentName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Lookup(k.ID); !ok || !strings.Contains(log.String(), "cannot be read again") {
		t.Errorf("lookup: %v, log %q", ok, log.String())
	}
	if _, err := Open(s, Config{}); !errors.Is(err, local.ErrDamaged) {
		t.Errorf("open: %v", err)
	}
}

// TestForeignPolicy: a policy that this version cannot read shuts its principal out, and nobody else.
func TestForeignPolicy(t *testing.T) {
	s, _ := newStore(t)
	d := open(t, s)
	var keys []AccessKey
	for _, name := range []string{"alice", "bob"} {
		_, err := d.Create(t.Context(), User, name, ready("reader"))
		k, keyErr := d.CreateAccessKey(t.Context(), User, name)
		if err := errors.Join(err, keyErr); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	err := d.doc.Update(t.Context(), func(old []byte) ([]byte, error) {
		return bytes.Replace(old, []byte(`"name":"reader"`), []byte(`"name":"later"`), 1), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Lookup(keys[0].ID); ok {
		t.Error("a principal whose policy cannot be read may call")
	}
	if _, ok := d.Lookup(keys[1].ID); !ok {
		t.Error("another principal is shut out too")
	}
}

// TestChanges: a server learns what an administrator did.
func TestChanges(t *testing.T) {
	s, _ := newStore(t)
	var got []string
	server, err := Open(s, Config{CheckInterval: -1, Changed: func(all []Change) {
		for _, c := range all {
			got = append(got, strings.Join(strings.Fields(fmt.Sprint(c.Name, " ", c.Principal[len("arn:aws:iam::111122223333:"):], " ", c.Policy, " ", c.Status)), " "))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	admin := open(t, s)
	var k AccessKey
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error {
			_, err := admin.Create(t.Context(), User, "alice", ready("reader", "auditor"))
			return err
		},
			"CreateUser user/alice, AttachUserPolicy user/alice reader, AttachUserPolicy user/alice auditor"},
		{func() (err error) { k, err = admin.CreateAccessKey(t.Context(), User, "alice"); return err }, "CreateAccessKey user/alice Active"},
		{func() error { return admin.SetAccessKey(t.Context(), User, "alice", k.ID, Disabled) }, "UpdateAccessKey user/alice Inactive"},
		{func() error {
			return admin.SetPolicies(t.Context(), User, "alice", func([]Policy) ([]Policy, error) { return ready("auditor", "writer"), nil })
		}, "DetachUserPolicy user/alice reader, AttachUserPolicy user/alice writer"},
		{func() error { _, err := admin.Create(t.Context(), Role, "r", nil); return err }, "CreateRole role/r"},
		{func() error { return admin.Delete(t.Context(), User, "alice") }, "DeleteAccessKey user/alice, DeleteUser user/alice"},
		{func() error {
			err := admin.Delete(t.Context(), Role, "r")
			_, again := admin.Create(t.Context(), Role, "r", nil)
			return errors.Join(err, again)
		}, "DeleteRole role/r, CreateRole role/r"},
	} {
		got = nil
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		_ = server.Empty()
		if text := strings.Join(got, ", "); text != step.want {
			t.Errorf("got %s, want %s", text, step.want)
		}
	}
}

// TestAtOnce: changes by several do not lose each other while keys are looked up.
func TestAtOnce(t *testing.T) {
	s, _ := newStore(t)
	server := open(t, s)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			d := open(t, s)
			for j := range 5 {
				name := fmt.Sprint("u", i, "-", j)
				_, err := d.Create(t.Context(), User, name, ready("user"))
				k, keyErr := d.CreateAccessKey(t.Context(), User, name)
				if err := errors.Join(err, keyErr); err != nil {
					t.Error(err)
				}
				if _, ok := server.Lookup(k.ID); !ok {
					t.Errorf("%s is not found", name)
				}
			}
		})
	}
	all.Wait()
	if list, err := server.List(); err != nil || len(list) != 20 {
		t.Errorf("%d of 20 users, %v", len(list), err)
	}
}

func TestSecretIsNotShown(t *testing.T) {
	k := AccessKey{ID: "AKIA", Secret: "hush"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", k.Secret)
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %s %q %x", k, k, k.Secret, k.Secret, k.Secret), log.String()} {
		if strings.Contains(text, "hush") || strings.Contains(text, "68757368") {
			t.Errorf("shown: %s", text)
		}
	}
}

// FuzzContent: no document makes the parser panic, and what it takes is taken again after it was written.
func FuzzContent(f *testing.F) {
	f.Add([]byte(`{"principals":[{"kind":"user","name":"a","id":"AIDA","created":"2026-01-02T03:04:05Z","policies":[{"name":"reader"}],"access_keys":[{"id":"AKIA","secret":"s","created":"2026-01-02T03:04:05Z","disabled":true}]}]}`))
	f.Add([]byte(`{"principals":null}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseContent(text)
		if err != nil {
			return
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Skip(err) // a year that JSON cannot write
		}
		again, err := parseContent(b)
		if err != nil || len(again.Principals) != len(c.Principals) {
			t.Errorf("%s: %v", b, err)
		}
	})
}
