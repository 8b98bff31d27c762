package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestProperties holds on random policies what no row of a table can: order does not matter, a Deny more never allows,
// an Allow more never denies, and a Deny of everything leaves nothing.
func TestProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	statement := func(effect string) string {
		principal := `"Principal":` + pick(`"*"`, aws(alice), aws(bob), aws(rootUsr), aws(ops), aws(session), aws(other), aws(account))
		if effect == "Deny" && r.IntN(4) == 0 {
			principal = `"NotPrincipal":` + pick(aws(alice), aws(ops), aws(rootUsr))
		}
		return fmt.Sprintf(`{"Effect":%q,%s,%q:%q,"Resource":%q%s}`, effect, principal, pick("Action", "NotAction"),
			pick("kms:*", "kms:Decrypt", "kms:*crypt", "kms:GenerateDataKey*"), pick("*", keyARN, "arn:aws:kms:*:*:key/9*"),
			pick("", "", `,"Condition":{"StringEquals":{"kms:EncryptionContext:a":"1"}}`, `,"Condition":{"StringNotLike":{"kms:EncryptionContext:a":"2*"}}`,
				`,"Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["a"]}}`, `,"Condition":{"Null":{"kms:EncryptionContext:a":"true"}}`))
	}
	effect := func() string { return pick("Allow", "Allow", "Deny") }
	for range 3000 {
		var list []string
		for range 1 + r.IntN(5) {
			list = append(list, statement(effect()))
		}
		all := []*Document{nil}
		if r.IntN(2) == 0 {
			all[0] = mustParse(t, IdentityPolicy, identity("Allow", fmt.Sprintf("%q", pick("kms:*", "kms:Decrypt")), "*"))
		}
		values := map[string][]string{}
		if v := pick("", "1", "2"); v != "" {
			values["kms:encryptioncontext:a"], values["kms:encryptioncontextkeys"] = []string{v}, []string{pick("a", "b")}
		}
		q := &Request{Principal: principal(pick(alice, bob, rootUsr, session, other)), Action: pick("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"),
			Resource: keyARN, ResourceAccount: account, Condition: func(k string) []string { return values[k] }}
		ask := func(statements ...string) bool {
			return Decide(mustParse(t, KeyPolicy, statements...), all, q) == Allowed
		}
		before := ask(list...)
		shuffled := slices.Clone(list)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		switch {
		case ask(shuffled...) != before:
			t.Fatalf("order matters: %v", list)
		case !before && ask(append(slices.Clone(list), statement("Deny"))...):
			t.Fatalf("a Deny more allows: %v", list)
		case before && !ask(append(slices.Clone(list), statement("Allow"))...):
			t.Fatalf("an Allow more denies: %v", list)
		case ask(append(slices.Clone(list), key("Deny", `"*"`, `"*"`))...):
			t.Fatalf("a Deny of everything allows: %v", list)
		}
	}
}
