package kms

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
)

// FuzzOperation gives any JSON to any operation, as the root user, whom a policy stops only where the store would be
// written, which takes too long. Each answer is an output that is JSON, or an exception of AWS.
func FuzzOperation(f *testing.F) {
	b := newBench(f)
	k, grant, blob := b.inState(keysource.KeyStateEnabled)
	all := Operations()
	names := slices.Sorted(maps.Keys(all))
	var writes []string
	for _, o := range all {
		if !o.ReadOnly {
			writes = append(writes, "kms:"+o.Name)
		}
	}
	denied, err := json.Marshal(writes)
	if err != nil {
		f.Fatal(err)
	}
	readOnly, err := policy.Parse(`{"Statement":{"Effect":"Deny","Resource":"*","Action":`+string(denied)+`}}`, policy.IdentityPolicy)
	if err != nil {
		f.Fatal(err)
	}
	for i, op := range names {
		if op != "GetParametersForImport" { // makes an RSA key
			f.Add(uint8(i), b.inputFor(op, k, grant, blob))
		}
	}
	f.Add(uint8(0), `{"Limit":1,"Marker":"AAAA","GrantTokens":["x"],"ValidTo":1e300,"Tags":null}`)
	f.Fuzz(func(t *testing.T, n uint8, text string) {
		o := all[names[int(n)%len(names)]]
		in := o.NewInput()
		if o.Name == "GetParametersForImport" || json.Unmarshal([]byte(text), in) != nil {
			return
		}
		c := b.root()
		c.Caller.Policies = []*policy.Document{readOnly}
		out, err := o.Do(t.Context(), b.Service, c, in)
		if err != nil {
			if e, ok := errors.AsType[*keysource.Error](err); !ok || e.Code == "" || e.Op != o.Name || keysource.KindOf(e.Code) == nil ||
				e.Code == keysource.CodeInternal {
				t.Errorf("%s: %v", o.Name, err)
			}
			return
		}
		if _, err := json.Marshal(out); err != nil {
			t.Errorf("%s: %v", o.Name, err)
		}
		if _, err := json.Marshal(c.Audit); err != nil {
			t.Errorf("%s: audit: %v", o.Name, err)
		}
	})
}
