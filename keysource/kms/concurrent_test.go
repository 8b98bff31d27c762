package kms

import (
	"fmt"
	"sync"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// TestConcurrent has callers use a CMK while an administrator changes its policy, grants and key material. No call fails
// for another reason than the policy of the moment.
func TestConcurrent(t *testing.T) {
	const rounds = 60
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	ref := fmt.Sprintf(`{"KeyId":%q,"KeySpec":"AES_256"}`, k)
	var wg sync.WaitGroup
	use := func(c *Call, mayBeDenied string) {
		for range rounds {
			size := 32
			out, err := b.GenerateDataKey(t.Context(), c, &GenerateDataKeyInput{KeyID: k, NumberOfBytes: &size})
			if err != nil {
				if code(err) != mayBeDenied {
					t.Error(err)
				}
				continue
			}
			if _, err := b.Decrypt(t.Context(), c, &DecryptInput{CiphertextBlob: out.CiphertextBlob}); err != nil && code(err) != mayBeDenied {
				t.Error(err)
			}
			out.Wipe()
		}
	}
	wg.Go(func() { use(b.root(), "") })
	wg.Go(func() { use(b.as("u", policy.User), "") })
	wg.Go(func() { use(b.as("grantee"), keysource.CodeAccessDenied) })
	wg.Go(func() {
		for i := range rounds / 4 {
			g, err := b.CreateGrant(t.Context(), b.root(), &CreateGrantInput{KeyID: k, GranteePrincipal: user("grantee"),
				Operations: []string{"GenerateDataKey", "Decrypt"}})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := b.RevokeGrant(t.Context(), b.root(), &RevokeGrantInput{KeyID: k, GrantID: g.GrantID}); err != nil {
				t.Error(err)
			}
			text := policy.Default(testAccount)
			if i%2 == 0 {
				text += " "
			}
			if _, err := b.PutKeyPolicy(t.Context(), b.root(), &PutKeyPolicyInput{KeyID: k, Policy: text}); err != nil {
				t.Error(err)
			}
			if i < 20 {
				if _, err := b.RotateKeyOnDemand(t.Context(), b.root(), &RotateKeyOnDemandInput{KeyID: k}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	wg.Wait()
	b.must(b.root(), "GenerateDataKey", ref)
}

// TestOtherProcess shows that what another process changes is in force here within the interval of the store.
func TestOtherProcess(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	other, err := local.Open(t.Context(), local.Config{Dir: b.dir, Clock: b.clock})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	in := `{"KeyId":"` + k + `","KeySpec":"AES_256"}`
	b.must(b.as("u", policy.User), "GenerateDataKey", in)
	if err := other.PutKeyPolicy(t.Context(), keysource.KeyRef(k), policy.KeyPolicyFor(policy.Assignments{policy.Administrator: {user("a")}})); err != nil {
		t.Fatal(err)
	}
	b.clock.advance(2e9)
	b.refused(b.as("u", policy.User), "GenerateDataKey", in, keysource.CodeAccessDenied)
}
