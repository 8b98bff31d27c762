package policy

import (
	"fmt"
	"strings"
	"testing"
)

const (
	account = "111122223333"
	alice   = "arn:aws:iam::111122223333:user/alice"
	bob     = "arn:aws:iam::111122223333:user/bob"
	ops     = "arn:aws:iam::111122223333:role/ops"
	session = "arn:aws:sts::111122223333:assumed-role/ops/i-1"
	rootUsr = "arn:aws:iam::111122223333:root"
	other   = "arn:aws:iam::999999999999:user/eve"
	keyARN  = "arn:aws:kms:local:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// mustParse parses a policy of the statements.
func mustParse(t testing.TB, kind Kind, statements ...string) *Document {
	t.Helper()
	d, err := Parse(`{"Version":"2012-10-17","Statement":[`+strings.Join(statements, ",")+`]}`, kind)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// key is a statement of a key policy.
func key(effect, principal, action string) string {
	return fmt.Sprintf(`{"Effect":%q,"Principal":%s,"Action":%s,"Resource":"*"}`, effect, principal, action)
}

// identity is a statement of an identity policy.
func identity(effect, action, resource string) string {
	return fmt.Sprintf(`{"Effect":%q,"Action":%s,"Resource":%q}`, effect, action, resource)
}

// aws is a Principal.
func aws(arns ...string) string { return `{"AWS":["` + strings.Join(arns, `","`) + `"]}` }

// principal is the caller with an ARN.
func principal(arn string) Principal {
	p := Principal{ARN: arn, AccountID: strings.Split(arn, ":")[4]}
	if arn == session {
		p.ARN, p.SessionARN = ops, session
	}
	return p
}

// TestDecide is the evaluator row by row.
func TestDecide(t *testing.T) {
	const dec, all = `"kms:Decrypt"`, `"kms:*"`
	root := key("Allow", aws(rootUsr), all)
	for _, row := range []struct {
		name     string
		key      []string
		identity []string
		who      string
		action   string
		want     Decision
	}{
		{"nothing", nil, nil, alice, "kms:Decrypt", ImplicitDeny},
		{"named user", []string{key("Allow", aws(alice), dec)}, nil, alice, "kms:Decrypt", Allowed},
		{"another user", []string{key("Allow", aws(alice), dec)}, nil, bob, "kms:Decrypt", ImplicitDeny},
		{"another action", []string{key("Allow", aws(alice), dec)}, nil, alice, "kms:Encrypt", ImplicitDeny},
		{"action in another case", []string{key("Allow", aws(alice), `"KMS:decrypt"`)}, nil, alice, "kms:Decrypt", Allowed},
		{"action with star", []string{key("Allow", aws(alice), `"kms:ReEncrypt*"`)}, nil, alice, "kms:ReEncryptFrom", Allowed},
		{"star does not reach back", []string{key("Allow", aws(alice), `"kms:ReEncrypt*"`)}, nil, alice, "kms:Encrypt", ImplicitDeny},
		{"action with question mark", []string{key("Allow", aws(alice), `"kms:?ncrypt"`)}, nil, alice, "kms:Encrypt", Allowed},
		{"every action", []string{key("Allow", aws(alice), `"*"`)}, nil, alice, "kms:Decrypt", Allowed},
		{"other service", []string{key("Allow", aws(alice), `"s3:*"`)}, nil, alice, "kms:Decrypt", ImplicitDeny},
		{"list of actions", []string{key("Allow", aws(alice), `["kms:Encrypt","kms:Decrypt"]`)}, nil, alice, "kms:Decrypt", Allowed},
		{"everybody", []string{key("Allow", `"*"`, dec)}, nil, alice, "kms:Decrypt", Allowed},
		{"everybody as AWS", []string{key("Allow", aws("*"), dec)}, nil, alice, "kms:Decrypt", Allowed},
		{"role", []string{key("Allow", aws(ops), dec)}, nil, session, "kms:Decrypt", Allowed},
		{"session", []string{key("Allow", aws(session), dec)}, nil, session, "kms:Decrypt", Allowed},
		{"session of the role itself", []string{key("Allow", aws(session), dec)}, nil, ops, "kms:Decrypt", ImplicitDeny},
		{"service", []string{key("Allow", `{"Service":"s3.amazonaws.com"}`, dec)}, nil, alice, "kms:Decrypt", ImplicitDeny},

		{"account alone allows nobody", []string{root}, nil, alice, "kms:Decrypt", Delegated},
		{"account and identity", []string{root}, []string{identity("Allow", dec, "*")}, alice, "kms:Decrypt", Allowed},
		{"account by number", []string{key("Allow", aws(account), all)}, []string{identity("Allow", dec, "*")}, alice, "kms:Decrypt", Allowed},
		{"identity without account", nil, []string{identity("Allow", dec, "*")}, alice, "kms:Decrypt", ImplicitDeny},
		{"identity for the key", []string{root}, []string{identity("Allow", dec, keyARN)}, alice, "kms:Decrypt", Allowed},
		{"identity for keys by pattern", []string{root}, []string{identity("Allow", dec, "arn:aws:kms:*:111122223333:key/*")}, alice, "kms:Decrypt", Allowed},
		{"identity for another key", []string{root}, []string{identity("Allow", dec, "arn:aws:kms:local:111122223333:key/0")}, alice, "kms:Decrypt", Delegated},
		{"identity beyond the account", []string{key("Allow", aws(rootUsr), dec)}, []string{identity("Allow", all, "*")}, alice, "kms:Encrypt", ImplicitDeny},
		{"root user", []string{root}, nil, rootUsr, "kms:Decrypt", Allowed},
		{"root user without statement", []string{key("Allow", aws(alice), all)}, nil, rootUsr, "kms:Decrypt", ImplicitDeny},

		{"deny wins", []string{key("Allow", aws(alice), all), key("Deny", aws(alice), dec)}, nil, alice, "kms:Decrypt", DeniedByKeyPolicy},
		{"deny wins in any order", []string{key("Deny", aws(alice), dec), key("Allow", aws(alice), all)}, nil, alice, "kms:Decrypt", DeniedByKeyPolicy},
		{"deny of another", []string{key("Allow", aws(alice), all), key("Deny", aws(bob), dec)}, nil, alice, "kms:Decrypt", Allowed},
		{"deny of the account", []string{key("Allow", aws(alice), all), key("Deny", aws(rootUsr), dec)}, nil, alice, "kms:Decrypt", DeniedByKeyPolicy},
		{"deny in identity", []string{key("Allow", aws(alice), all)}, []string{identity("Deny", dec, "*")}, alice, "kms:Decrypt", DeniedByIdentityPolicy},
		{"deny in key over identity", []string{root, key("Deny", `"*"`, dec)}, []string{identity("Allow", all, "*")}, alice, "kms:Decrypt", DeniedByKeyPolicy},

		{"other account, key alone", []string{key("Allow", aws(other), dec)}, nil, other, "kms:Decrypt", Delegated},
		{"other account, both", []string{key("Allow", aws(other), dec)}, []string{identity("Allow", dec, "*")}, other, "kms:Decrypt", Allowed},
		{"other account, everybody", []string{key("Allow", `"*"`, dec)}, nil, other, "kms:Decrypt", Delegated},
		{"other account, root", []string{key("Allow", aws("999999999999"), dec)}, []string{identity("Allow", dec, "*")}, other, "kms:Decrypt", Allowed},

		{"not action", []string{`{"Effect":"Allow","Principal":` + aws(alice) + `,"NotAction":"kms:Decrypt","Resource":"*"}`}, nil, alice, "kms:Decrypt", ImplicitDeny},
		{"not another action", []string{`{"Effect":"Allow","Principal":` + aws(alice) + `,"NotAction":"kms:Decrypt","Resource":"*"}`}, nil, alice, "kms:Encrypt", Allowed},
		{"not resource", []string{root}, []string{`{"Effect":"Allow","Action":"kms:*","NotResource":"` + keyARN + `"}`}, alice, "kms:Decrypt", Delegated},
		{"not principal spares whom it names", []string{root, `{"Effect":"Deny","NotPrincipal":` + aws(alice) + `,"Action":"kms:*","Resource":"*"}`},
			[]string{identity("Allow", all, "*")}, alice, "kms:Decrypt", Allowed},
		{"not principal denies the others", []string{root, `{"Effect":"Deny","NotPrincipal":` + aws(alice) + `,"Action":"kms:*","Resource":"*"}`},
			[]string{identity("Allow", all, "*")}, bob, "kms:Decrypt", DeniedByKeyPolicy},
		{"not principal of the account spares the root user alone", []string{root, `{"Effect":"Deny","NotPrincipal":` + aws(rootUsr) + `,"Action":"kms:*","Resource":"*"}`},
			[]string{identity("Allow", all, "*")}, bob, "kms:Decrypt", DeniedByKeyPolicy},
		{"one statement as object", []string{key("Allow", aws(alice), dec)}, nil, alice, "kms:Decrypt", Allowed},
	} {
		t.Run(row.name, func(t *testing.T) {
			var k *Document
			if row.key != nil {
				k = mustParse(t, KeyPolicy, row.key...)
			}
			var docs []*Document
			if row.identity != nil {
				docs = append(docs, mustParse(t, IdentityPolicy, row.identity...))
			}
			got := Decide(k, docs, &Request{Principal: principal(row.who), Action: row.action, Resource: keyARN, ResourceAccount: account})
			if got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}

// TestConditions is the condition operators row by row, in an Allow.
func TestConditions(t *testing.T) {
	ec := map[string][]string{"kms:encryptioncontext:dept": {"it"}, "kms:encryptioncontextkeys": {"dept", "app"},
		"kms:rotationperiodindays": {"365"}, "kms:bypasspolicylockoutsafetycheck": {"false"}, "aws:sourceip": {"10.1.2.3"},
		"aws:principalarn": {alice}, "kms:requestalias": {"alias/finance"}, "kms:encryptioncontext:twice": {"a", "b"},
		"kms:resourcealiases": {"alias/a", "alias/b"}}
	for _, row := range []struct {
		condition string
		want      bool
	}{
		{`{"StringEquals":{"kms:EncryptionContext:dept":"it"}}`, true},
		{`{"StringEquals":{"KMS:encryptioncontext:dept":"it"}}`, true},
		{`{"StringEquals":{"kms:EncryptionContext:dept":["hr","it"]}}`, true},
		{`{"StringEquals":{"kms:EncryptionContext:dept":"IT"}}`, false},
		{`{"StringEquals":{"kms:EncryptionContext:app":"it"}}`, false},
		{`{"StringNotEquals":{"kms:EncryptionContext:dept":"hr"}}`, true},
		{`{"StringNotEquals":{"kms:EncryptionContext:dept":["hr","it"]}}`, false},
		{`{"StringNotEquals":{"kms:EncryptionContext:app":"hr"}}`, true},
		{`{"StringEqualsIgnoreCase":{"kms:EncryptionContext:dept":"IT"}}`, true},
		{`{"StringNotEqualsIgnoreCase":{"kms:EncryptionContext:dept":"IT"}}`, false},
		{`{"StringLike":{"kms:RequestAlias":"alias/fin*"}}`, true},
		{`{"StringLike":{"kms:RequestAlias":"alias/?inance"}}`, true},
		{`{"StringLike":{"kms:RequestAlias":"alias/"}}`, false},
		{`{"StringNotLike":{"kms:RequestAlias":"alias/fin*"}}`, false},
		{`{"StringEquals":{"kms:RequestAlias":"alias/fin*"}}`, false},
		{`{"StringEqualsIfExists":{"kms:EncryptionContext:app":"it"}}`, true},
		{`{"StringEqualsIfExists":{"kms:EncryptionContext:dept":"hr"}}`, false},
		{`{"Null":{"kms:EncryptionContext:dept":"false"}}`, true},
		{`{"Null":{"kms:EncryptionContext:dept":true}}`, false},
		{`{"Null":{"kms:EncryptionContext:app":"true"}}`, true},
		{`{"Null":{"kms:EncryptionContextKeys":"false"}}`, true},
		{`{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["dept","app","more"]}}`, true},
		{`{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["dept"]}}`, false},
		{`{"ForAllValues:StringEquals":{"aws:TagKeys":["dept"]}}`, true},
		{`{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["dept"]}}`, true},
		{`{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["x"]}}`, false},
		{`{"ForAnyValue:StringEquals":{"aws:TagKeys":["dept"]}}`, false},
		{`{"ForAnyValue:StringLike":{"kms:ResourceAliases":"alias/b*"}}`, true},
		{`{"ForAllValues:StringNotEquals":{"kms:EncryptionContextKeys":["x"]}}`, true},
		{`{"NumericEquals":{"kms:RotationPeriodInDays":365}}`, true},
		{`{"NumericNotEquals":{"kms:RotationPeriodInDays":"365"}}`, false},
		{`{"NumericLessThan":{"kms:RotationPeriodInDays":"365"}}`, false},
		{`{"NumericLessThanEquals":{"kms:RotationPeriodInDays":"365"}}`, true},
		{`{"NumericGreaterThan":{"kms:RotationPeriodInDays":"90.5"}}`, true},
		{`{"NumericGreaterThanEquals":{"kms:RotationPeriodInDays":"366"}}`, false},
		{`{"NumericLessThan":{"kms:ScheduleKeyDeletionPendingWindowInDays":"30"}}`, false},
		{`{"Bool":{"kms:BypassPolicyLockoutSafetyCheck":false}}`, true},
		{`{"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"true"}}`, false},
		{`{"IpAddress":{"aws:SourceIp":["192.168.0.0/16","10.0.0.0/8"]}}`, true},
		{`{"IpAddress":{"aws:SourceIp":"10.1.2.4"}}`, false},
		{`{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, false},
		{`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/*"}}`, true},
		{`{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/*"}}`, true},
		// Names that differ only in case are one key: all values must match.
		{`{"StringEquals":{"kms:EncryptionContext:twice":"a"}}`, false},
		{`{"StringEquals":{"kms:EncryptionContext:twice":["a","b"]}}`, true},
		// All operators and all keys must hold.
		{`{"StringEquals":{"kms:EncryptionContext:dept":"it","kms:RequestAlias":"alias/finance"}}`, true},
		{`{"StringEquals":{"kms:EncryptionContext:dept":"it","kms:RequestAlias":"alias/x"}}`, false},
		{`{"StringEquals":{"kms:EncryptionContext:dept":"it"},"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"true"}}`, false},
	} {
		d := mustParse(t, IdentityPolicy, `{"Effect":"Allow","Action":"*","Resource":"*","Condition":`+row.condition+`}`)
		r := &Request{Principal: principal(alice), Action: "kms:Decrypt", Resource: keyARN,
			Condition: func(k string) []string { return ec[k] }}
		if got := DecideIdentity([]*Document{d}, r) == Allowed; got != row.want {
			t.Errorf("%s: got %v, want %v", row.condition, got, row.want)
		}
	}
}

// TestDenyConditions shows that what cannot be told for sure denies.
func TestDenyConditions(t *testing.T) {
	for _, row := range []struct {
		condition string
		values    map[string][]string
		want      bool // denied
	}{
		{`{"StringEquals":{"kms:EncryptionContext:a":"x"}}`, map[string][]string{"kms:encryptioncontext:a": {"x", "y"}}, true},
		{`{"StringNotEquals":{"kms:EncryptionContext:a":"x"}}`, map[string][]string{"kms:encryptioncontext:a": {"x", "y"}}, true},
		{`{"StringNotEquals":{"kms:EncryptionContext:a":"x"}}`, nil, true},
		{`{"StringEquals":{"kms:EncryptionContext:a":"x"}}`, nil, false},
		{`{"NumericLessThan":{"kms:RotationPeriodInDays":"90"}}`, map[string][]string{"kms:rotationperiodindays": {"?"}}, true},
		{`{"NumericLessThan":{"kms:RotationPeriodInDays":"90"}}`, map[string][]string{"kms:rotationperiodindays": {"91"}}, false},
		{`{"Null":{"kms:EncryptionContextKeys":"true"}}`, nil, true},
	} {
		d := mustParse(t, IdentityPolicy, `{"Effect":"Deny","Action":"*","Resource":"*","Condition":`+row.condition+`}`)
		r := &Request{Action: "kms:Decrypt", Resource: keyARN, Condition: func(k string) []string { return row.values[k] }}
		if got := DecideIdentity([]*Document{d}, r) == DeniedByIdentityPolicy; got != row.want {
			t.Errorf("%s with %v: denied %v, want %v", row.condition, row.values, got, row.want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, row := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abcd", false},
		{"?", "é", true}, {"??", "é", false}, {"*?", "", false}, {"a**b", "ab", true}, {"*a*b*", "xxaxxbxx", true},
		{"*a*b", "xxaxxbxx", false}, {"a?", "a", false},
		{strings.Repeat("a*", 2000) + "b", strings.Repeat("a", 4000), false},
	} {
		if got := glob(row.pattern, row.s, exact); got != row.want {
			t.Errorf("glob(%.20q, %.20q) = %v", row.pattern, row.s, got)
		}
	}
}
