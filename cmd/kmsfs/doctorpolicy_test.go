package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/policy"
)

// roleServer answers every call as one of the role of leastPolicy.
type roleServer struct {
	*kms.Service
	account string
}

// do makes a call with its input in JSON.
func (s *roleServer) do(r *http.Request, op string, body *json.Decoder) (any, error) {
	o, ok := kms.Operations()[op]
	if !ok {
		return nil, keysource.NewError(op, "", "UnknownOperationException", "unknown operation")
	}
	in := o.NewInput()
	if err := body.Decode(in); err != nil {
		return nil, keysource.NewError(op, "", keysource.CodeSerialization, err.Error())
	}
	return o.Do(r.Context(), s.Service, &kms.Call{Caller: kms.Caller{ARN: "arn:aws:iam::" + s.account + ":role/ROLE",
		AccountID: s.account}}, in)
}

// ServeHTTP implements http.Handler.
func (s *roleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	out, err := s.do(r, strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService."), json.NewDecoder(r.Body))
	if err != nil {
		code := keysource.CodeInternal
		if e, ok := errors.AsType[*keysource.Error](err); ok {
			code = e.Code
		}
		awskmstest.Fail(w, http.StatusBadRequest, code, err.Error())
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

// newPolicyBench is a bench whose KMS allows no more than leastPolicy.
func newPolicyBench(t *testing.T) (*kmsBench, *roleServer) {
	t.Helper()
	b := newKMSBench(t)
	least, err := json.Marshal(leastPolicy(b.key.ARN))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Parse(string(least), policy.KeyPolicy); err != nil {
		t.Fatal(err)
	}
	if err := b.store.PutKeyPolicy(t.Context(), keysource.KeyRef(b.key.ARN), string(least)); err != nil {
		t.Fatal(err)
	}
	s := &roleServer{kms.New(b.store, kms.Config{}), b.key.AccountID}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	b.url = "awskms:///alias/files?endpoint=" + server.URL + "&region=local"
	return b, s
}

// TestLeastPolicy: the policy that doctor prints allows what a mount calls, and no call with another encryption context or
// without one.
func TestLeastPolicy(t *testing.T) {
	b, s := newPolicyBench(t)
	for _, test := range []struct{ name, context, want string }{
		{"volume", `{"kmsfs:volume":"v","kmsfs:format":"1"}`, ""},
		{"file", `{"kmsfs:volume":"v","kmsfs:file":"f","kmsfs:format":"1"}`, ""},
		{"branch", `{"kmsfs:volume":"v","kmsfs:branch":"b","kmsfs:format":"1"}`, ""},
		{"none", `null`, keysource.CodeAccessDenied},
		{"empty", `{}`, keysource.CodeAccessDenied},
		{"without the format", `{"kmsfs:volume":"v"}`, keysource.CodeAccessDenied},
		{"another's", `{"app":"x"}`, keysource.CodeAccessDenied},
		{"one name more", `{"kmsfs:volume":"v","kmsfs:format":"1","app":"x"}`, keysource.CodeAccessDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
			_, err := s.do(r, "GenerateDataKey", json.NewDecoder(strings.NewReader(
				`{"KeyId":"`+b.key.KeyID+`","KeySpec":"AES_256","EncryptionContext":`+test.context+`}`)))
			code := ""
			if e, ok := errors.AsType[*keysource.Error](err); ok {
				code = e.Code
			} else if err != nil {
				t.Fatal(err)
			}
			if code != test.want {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	b.ok("doctor " + b.url)
}

// TestLeastPolicyMounts mounts vaults under that policy, with branch keys and without.
func TestLeastPolicyMounts(t *testing.T) {
	needFUSE(t)
	b, _ := newPolicyBench(t)
	b.mkdir("p")
	for _, flags := range []string{"", "--branch-keys=2h,500 "} {
		b.ok("init " + flags + "--keysource " + b.url + " v")
		for _, step := range []string{"write", "read"} { // the second mount has no key yet
			b.ok("mount v p")
			t.Cleanup(func() { _ = b.run([]string{"umount", "--lazy", "p"}) })
			if step == "write" {
				b.write("p/file", "hello")
			} else if got, err := os.ReadFile(b.dir + "/p/file"); err != nil || string(got) != "hello" {
				t.Errorf("%sread: %q, %v", flags, got, err)
			}
			b.ok("umount p")
		}
		b.ok("info v")
		if err := os.RemoveAll(b.dir + "/v"); err != nil {
			t.Fatal(err)
		}
	}
}
