package kms

import (
	"fmt"
	"strings"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
)

func TestGrants(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	make := func(c *Call, in string) map[string]any {
		t.Helper()
		return b.must(c, "CreateGrant", `{"KeyId":"`+k+`",`+in+`}`)
	}
	data := func(ec string) string {
		return `{"KeyId":"` + k + `","KeySpec":"AES_256","EncryptionContext":{` + ec + `}}`
	}
	g := b.as("grantee")
	b.refused(g, "GenerateDataKey", data(`"a":"1"`), keysource.CodeAccessDenied)
	subset := make(b.root(), `"Name":"n","GranteePrincipal":"`+user("grantee")+`","RetiringPrincipal":"`+user("retirer")+`","Operations":["GenerateDataKey","DescribeKey"],"Constraints":{"EncryptionContextSubset":{"A":"1"}}`)
	again := make(b.root(), `"Name":"n","GranteePrincipal":"`+user("grantee")+`","RetiringPrincipal":"`+user("retirer")+`","Operations":["DescribeKey","GenerateDataKey"],"Constraints":{"EncryptionContextSubset":{"A":"1"}}`)
	if subset["GrantId"] != again["GrantId"] || len(subset["GrantId"].(string)) != 64 {
		t.Errorf("the same grant twice: %v, %v", subset, again)
	}
	b.must(g, "GenerateDataKey", data(`"a":"1","b":"2"`)) // names without regard to case
	if g.Audit.GrantID != subset["GrantId"] {
		t.Errorf("audit: %+v", g.Audit)
	}
	b.refused(g, "GenerateDataKey", data(`"a":"2"`), keysource.CodeAccessDenied)
	b.refused(g, "GenerateDataKey", data(``), keysource.CodeAccessDenied)
	b.must(g, "DescribeKey", `{"KeyId":"`+k+`"}`)
	b.refused(g, "GenerateDataKeyWithoutPlaintext", data(`"a":"1"`), keysource.CodeAccessDenied)
	b.refused(b.as("other"), "GenerateDataKey", data(`"a":"1"`), keysource.CodeAccessDenied)

	exact := make(b.root(), `"GranteePrincipal":"`+user("exact")+`","Operations":["GenerateDataKey","RetireGrant"],"Constraints":{"EncryptionContextEquals":{"a":"1"}}`)
	b.must(b.as("exact"), "GenerateDataKey", data(`"a":"1"`))
	b.refused(b.as("exact"), "GenerateDataKey", data(`"a":"1","b":"2"`), keysource.CodeAccessDenied)

	// A grant with CreateGrant gives away no more than itself.
	make(b.root(), `"GranteePrincipal":"`+user("giver")+`","Operations":["CreateGrant","Decrypt"],"Constraints":{"EncryptionContextSubset":{"a":"1"}}`)
	for in, want := range map[string]string{
		`"Operations":["Decrypt"],"Constraints":{"EncryptionContextSubset":{"a":"1","b":"2"}}`: "",
		`"Operations":["Decrypt"],"Constraints":{"EncryptionContextEquals":{"a":"1"}}`:         "",
		`"Operations":["Decrypt"]`: keysource.CodeAccessDenied,
		`"Operations":["Decrypt"],"Constraints":{"EncryptionContextSubset":{"b":"2"}}`: keysource.CodeAccessDenied,
		`"Operations":["Encrypt"],"Constraints":{"EncryptionContextSubset":{"a":"1"}}`: keysource.CodeAccessDenied,
	} {
		b.refused(b.as("giver"), "CreateGrant", `{"KeyId":"`+k+`","GranteePrincipal":"`+user("z")+`",`+in+`}`, want)
	}

	// An explicit deny wins over a grant.
	b.must(b.root(), "PutKeyPolicy", `{"KeyId":"`+k+`","Policy":"{\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":{\"AWS\":\"arn:aws:iam::111122223333:root\"},\"Action\":\"kms:*\",\"Resource\":\"*\"},{\"Effect\":\"Deny\",\"Principal\":{\"AWS\":\"`+user("grantee")+`\"},\"Action\":\"kms:Generate*\",\"Resource\":\"*\"}]}"}`)
	b.refused(g, "GenerateDataKey", data(`"a":"1"`), keysource.CodeAccessDenied)

	// Who may retire and revoke.
	retire := func(m map[string]any) string { return fmt.Sprintf(`{"GrantToken":%q}`, m["GrantToken"]) }
	b.refused(g, "RetireGrant", retire(subset), keysource.CodeAccessDenied)
	b.refused(b.as("other"), "RevokeGrant", fmt.Sprintf(`{"KeyId":%q,"GrantId":%q}`, k, subset["GrantId"]), keysource.CodeAccessDenied)
	b.refused(b.as("retirer"), "RetireGrant", fmt.Sprintf(`{"KeyId":%q,"GrantId":%q,"DryRun":true}`, k, subset["GrantId"]), keysource.CodeDryRun)
	b.must(b.as("retirer"), "RetireGrant", retire(subset))
	b.refused(b.root(), "RetireGrant", retire(subset), keysource.CodeNotFound)
	b.must(b.as("exact"), "RetireGrant", fmt.Sprintf(`{"KeyId":%q,"GrantId":%q}`, k, exact["GrantId"]))
	b.refused(b.as("exact"), "GenerateDataKey", data(`"a":"1"`), keysource.CodeAccessDenied)
	b.refused(b.root(), "RevokeGrant", fmt.Sprintf(`{"KeyId":%q,"GrantId":%q}`, k, exact["GrantId"]), keysource.CodeNotFound)

	for in, want := range map[string]string{
		`"GranteePrincipal":"x","Operations":["Decrypt"]`:                                                                           keysource.CodeInvalidARN,
		`"GranteePrincipal":"` + user("y") + `","Operations":["Sign"]`:                                                              keysource.CodeValidation,
		`"GranteePrincipal":"` + user("y") + `","Operations":[]`:                                                                    keysource.CodeValidation,
		`"GranteePrincipal":"` + user("y") + `","Operations":["Decrypt"` + strings.Repeat(`,"Decrypt"`, len(grantOperations)) + `]`: keysource.CodeValidation,
		`"GranteePrincipal":"` + user("y") + `"`:                                                                                    keysource.CodeValidation,
		`"Operations":["Decrypt"]`:                                                                                                  keysource.CodeValidation,
		`"GranteePrincipal":"` + user("y") + `","Operations":["Decrypt"],"Name":"a b"`:                                              keysource.CodeValidation,
		`"GranteePrincipal":"` + user("y") + `","Operations":["Decrypt"],"GrantTokens":["!"]`:                                       keysource.CodeInvalidGrantToken,
		`"GranteePrincipal":"` + user("y") + `","Operations":["Decrypt"],"DryRun":true`:                                             keysource.CodeDryRun,
		`"GranteePrincipal":"` + user("y") + `","Operations":["Decrypt"],"Constraints":{"EncryptionContextEquals":{"a":"1"},"EncryptionContextSubset":{"a":"1"}}`: keysource.CodeValidation,
	} {
		b.refused(b.root(), "CreateGrant", `{"KeyId":"`+k+`",`+in+`}`, want)
	}
	b.refused(b.root(), "RetireGrant", `{"GrantToken":"x"}`, keysource.CodeInvalidGrantToken)
	b.refused(b.root(), "RetireGrant", `{"GrantToken":"x","GrantId":"y"}`, keysource.CodeValidation)
	b.refused(b.root(), "RetireGrant", `{"KeyId":"`+k+`"}`, keysource.CodeValidation)

	if list := b.must(b.root(), "ListGrants", `{"KeyId":"`+k+`","GranteePrincipal":"`+user("giver")+`"}`)["Grants"].([]any); len(list) != 1 {
		t.Errorf("got %v", list)
	}
	make(b.root(), `"GranteePrincipal":"`+user("y")+`","RetiringPrincipal":"`+user("retirer")+`","Operations":["Decrypt"]`)
	if list := b.must(b.root(), "ListRetirableGrants", `{"RetiringPrincipal":"`+user("retirer")+`"}`)["Grants"].([]any); len(list) != 1 {
		t.Errorf("got %v", list)
	}
}

// TestRetireGrant has a grant retired by those that it lets, unless a policy denies it, and the record name the grant.
func TestRetireGrant(t *testing.T) {
	for _, test := range []struct {
		name, caller string
		key          string // a statement of the key policy
		identity     string // an identity policy
		want         string
	}{
		{"retiring principal", "retirer", "", "", ""},
		{"grantee with RetireGrant", "grantee", "", "", ""},
		{"grantee of another grant with RetireGrant", "other", "", "", keysource.CodeAccessDenied},
		{"policy", "x", "", `{"Statement":{"Effect":"Allow","Action":"kms:RetireGrant","Resource":"*"}}`, ""},
		{"nobody", "x", "", "", keysource.CodeAccessDenied},
		{"retiring principal denied by the key policy", "retirer",
			`,{"Effect":"Deny","Principal":"*","Action":"kms:RetireGrant","Resource":"*"}`, "", keysource.CodeAccessDenied},
		{"grantee denied by the key policy", "grantee",
			`,{"Effect":"Deny","Principal":"*","Action":"kms:RetireGrant","Resource":"*"}`, "", keysource.CodeAccessDenied},
		{"retiring principal denied by an identity policy", "retirer", "",
			`{"Statement":{"Effect":"Deny","Action":"kms:RetireGrant","Resource":"*"}}`, keysource.CodeAccessDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			k := b.newKey(CreateKeyInput{Policy: `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}` + test.key + `]}`})
			grant := func(members string) map[string]any {
				return b.must(b.root(), "CreateGrant", `{"KeyId":"`+k+`","Operations":["Decrypt","RetireGrant"],`+members+`}`)
			}
			grant(`"GranteePrincipal":"` + user("other") + `"`)
			g := grant(`"GranteePrincipal":"` + user("grantee") + `","RetiringPrincipal":"` + user("retirer") + `"`)
			c := b.as(test.caller)
			if test.identity != "" {
				doc, err := policy.Parse(test.identity, policy.IdentityPolicy)
				if err != nil {
					t.Fatal(err)
				}
				c.Caller.Policies = append(c.Caller.Policies, doc)
			}
			b.refused(c, "RetireGrant", fmt.Sprintf(`{"GrantToken":%q}`, g["GrantToken"]), test.want)
			if c.Audit.GrantID != g["GrantId"] {
				t.Errorf("the record names the grant %q, want %q", c.Audit.GrantID, g["GrantId"])
			}
		})
	}
}

func TestGrantToken(t *testing.T) {
	const key, grant = "1234abcd-12ab-34cd-56ef-1234567890ab", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	k, g, ok := parseGrantToken(grantToken(key, grant))
	if !ok || k != key || g != grant {
		t.Errorf("got %s, %s, %v", k, g, ok)
	}
}
