package kms

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// testAccount is the account of the stores in tests.
const testAccount = "111122223333"

// testClock is a clock that a test moves.
type testClock struct {
	keysource.SystemClock
	offset atomic.Int64
}

func (c *testClock) Now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *testClock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// bench is a service with callers.
type bench struct {
	*Service
	t     testing.TB
	clock *testClock
	dir   string
}

// newBench makes a service over a new store.
func newBench(t testing.TB) *bench {
	t.Helper()
	clock, dir := new(testClock), t.TempDir()
	store, err := local.Create(t.Context(), local.Config{Dir: dir, AccountID: testAccount, Region: "local", Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &bench{New(store, Config{Clock: clock}), t, clock, dir}
}

// user is the ARN of a user.
func user(name string) string { return "arn:aws:iam::" + testAccount + ":user/" + name }

// as is a call of a user with the identity policies of roles.
func (b *bench) as(name string, roles ...policy.Role) *Call {
	b.t.Helper()
	c := &Call{Caller: Caller{ARN: user(name), AccountID: testAccount, UserName: name}, RequestID: "r-1", EventID: "e-1"}
	for _, r := range roles {
		doc, err := policy.Parse(r.Identity(), policy.IdentityPolicy)
		if err != nil {
			b.t.Fatal(err)
		}
		c.Caller.Policies = append(c.Caller.Policies, doc)
	}
	return c
}

// root is a call of the root user, who may do everything on CMKs with the default policy.
func (b *bench) root() *Call {
	return &Call{Caller: Caller{ARN: "arn:aws:iam::" + testAccount + ":root", AccountID: testAccount}}
}

// newKey makes a CMK with the default policy and returns its ARN.
func (b *bench) newKey(in CreateKeyInput) string {
	b.t.Helper()
	out, err := b.CreateKey(b.t.Context(), b.root(), &in)
	if err != nil {
		b.t.Fatal(err)
	}
	return out.KeyMetadata.ARN
}

// run performs an operation by name with its input in JSON, and returns its output in JSON.
func (b *bench) run(c *Call, op, input string) (string, error) {
	b.t.Helper()
	o, ok := Operations()[op]
	if !ok {
		b.t.Fatalf("no operation %s", op)
	}
	in := o.NewInput()
	if err := json.Unmarshal([]byte(input), in); err != nil {
		b.t.Fatalf("%s: %v", op, err)
	}
	out, err := o.Do(b.t.Context(), b.Service, c, in)
	if err != nil {
		if out != nil {
			b.t.Errorf("%s: an output and an error", op)
		}
		return "", err
	}
	text, err := json.Marshal(out)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text), nil
}

// must is run for what must succeed; the output is decoded into a map.
func (b *bench) must(c *Call, op, input string) map[string]any {
	b.t.Helper()
	text, err := b.run(c, op, input)
	if err != nil {
		b.t.Fatalf("%s %s: %v", op, input, err)
	}
	var out map[string]any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		b.t.Fatal(err)
	}
	return out
}

// code is the exception of an error, or "" for none.
func code(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*keysource.Error](err); ok {
		return e.Code
	}
	return err.Error()
}

// refused checks the exception that an operation ends with.
func (b *bench) refused(c *Call, op, input, want string) {
	b.t.Helper()
	_, err := b.run(c, op, input)
	if code(err) != want {
		b.t.Errorf("%s %.200s: got %v, want %q", op, input, err, want)
	}
	if e, ok := errors.AsType[*keysource.Error](err); ok && e.Op != op {
		b.t.Errorf("%s: the error says %s", op, e.Op)
	}
}

func TestOperations(t *testing.T) {
	all := Operations()
	if len(all) != 38 {
		t.Errorf("got %d operations", len(all))
	}
	b := newBench(t)
	for name, o := range all {
		if o.Name != name {
			t.Errorf("%s is called %s", name, o.Name)
		}
		if _, err := o.Do(t.Context(), b.Service, b.root(), "x"); code(err) != keysource.CodeInternal {
			t.Errorf("%s with an input of another type: %v", name, err)
		}
	}
}

// TestSecretsDoNotShow prints and logs inputs and outputs with secrets.
func TestSecretsDoNotShow(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	n := 32
	out, err := b.GenerateDataKey(t.Context(), b.root(), &GenerateDataKeyInput{KeyID: k, NumberOfBytes: &n})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range printed(out, *out, out.Plaintext, []any{out.Plaintext}) {
		if !strings.Contains(text, redacted) && !strings.Contains(text, "0x") {
			t.Errorf("got %s", text)
		}
	}
	var _ interface{ Wipe() } = out
	out.Wipe()
	for _, c := range out.Plaintext {
		if c != 0 {
			t.Fatal("Wipe left something")
		}
	}
}

// TestErrorsHaveCodes shows that what goes wrong below is an exception of AWS too.
func TestErrorsHaveCodes(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.EnableKey(ctx, b.root(), &EnableKeyInput{KeyID: k}); code(err) != keysource.CodeDependencyTimeout {
		t.Errorf("context ended: %v", err)
	}
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	b.refused(b.root(), "DescribeKey", `{"KeyId":"`+k+`"}`, keysource.CodeInternal)
}
