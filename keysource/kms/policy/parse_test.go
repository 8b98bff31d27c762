package policy

import (
	"errors"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// TestParseRefuses has what must not be taken for a policy: all that a laxer reader would understand otherwise.
func TestParseRefuses(t *testing.T) {
	const ok = `"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"`
	if _, err := Parse(`{"Statement":{`+ok+`}}`, KeyPolicy); err != nil {
		t.Fatal(err)
	}
	statement := func(s string) string { return `{"Version":"2012-10-17","Statement":[{` + s + `}]}` }
	condition := func(c string) string { return statement(ok + `,"Condition":` + c) }
	for name, text := range map[string]string{
		"empty":                       ``,
		"no object":                   `[]`,
		"text after the end":          `{"Statement":{` + ok + `}} x`,
		"no statement":                `{"Version":"2012-10-17"}`,
		"empty statements":            `{"Statement":[]}`,
		"statement is no object":      `{"Statement":["x"]}`,
		"unknown version":             `{"Version":"2030-01-01","Statement":{` + ok + `}}`,
		"unknown element":             `{"Statement":{` + ok + `},"Sid":"x"}`,
		"id is a number":              `{"Id":1,"Statement":{` + ok + `}}`,
		"element twice":               `{"Statement":{` + ok + `},"Statement":{` + ok + `}}`,
		"effect twice":                statement(ok + `,"Effect":"Deny"`),
		"effect in lower case":        statement(strings.Replace(ok, `"Effect"`, `"effect"`, 1)),
		"effect is unknown":           statement(strings.Replace(ok, `"Allow"`, `"allow"`, 1)),
		"effect is a list":            statement(strings.Replace(ok, `"Allow"`, `["Allow"]`, 1)),
		"no effect":                   statement(strings.Replace(ok, `"Effect":"Allow",`, ``, 1)),
		"no action":                   statement(strings.Replace(ok, `"Action":"kms:*",`, ``, 1)),
		"no resource":                 statement(strings.Replace(ok, `,"Resource":"*"`, ``, 1)),
		"no principal":                statement(`"Effect":"Allow","Action":"kms:*","Resource":"*"`),
		"both actions":                statement(ok + `,"NotAction":"kms:Encrypt"`),
		"both principals":             statement(ok + `,"NotPrincipal":"*"`),
		"not principal allows":        statement(strings.Replace(ok, `"Principal"`, `"NotPrincipal"`, 1)),
		"unknown statement element":   statement(ok + `,"Foo":"x"`),
		"sid twice":                   `{"Statement":[{` + ok + `,"Sid":"a"},{` + ok + `,"Sid":"a"}]}`,
		"sid is a number":             statement(ok + `,"Sid":1`),
		"action is empty":             statement(strings.Replace(ok, `"kms:*"`, `""`, 1)),
		"action without service":      statement(strings.Replace(ok, `"kms:*"`, `"Decrypt"`, 1)),
		"no actions":                  statement(strings.Replace(ok, `"kms:*"`, `[]`, 1)),
		"resource is no ARN":          statement(strings.Replace(ok, `"Resource":"*"`, `"Resource":"key"`, 1)),
		"resource with variable":      statement(strings.Replace(ok, `"Resource":"*"`, `"Resource":"arn:aws:kms:*:*:key/${aws:username}*"`, 1)),
		"principal is empty":          statement(strings.Replace(ok, `{"AWS":"arn:aws:iam::111122223333:root"}`, `{}`, 1)),
		"principal is text":           statement(strings.Replace(ok, `{"AWS":"arn:aws:iam::111122223333:root"}`, `"arn:aws:iam::111122223333:root"`, 1)),
		"principal with star":         statement(strings.Replace(ok, `3333:root`, `3333:user/*`, 1)),
		"principal with variable":     statement(strings.Replace(ok, `3333:root`, `3333:user/${aws:username}`, 1)),
		"principal is a group":        statement(strings.Replace(ok, `3333:root`, `3333:group/x`, 1)),
		"principal without name":      statement(strings.Replace(ok, `3333:root`, `3333:user/`, 1)),
		"principal of short account":  statement(strings.Replace(ok, `111122223333`, `1111`, 1)),
		"principal of unknown kind":   statement(strings.Replace(ok, `"AWS"`, `"CanonicalUser"`, 1)),
		"condition is a list":         condition(`[]`),
		"condition without keys":      condition(`{"StringEquals":{}}`),
		"condition without values":    condition(`{"StringEquals":{"kms:ViaService":[]}}`),
		"condition with object":       condition(`{"StringEquals":{"kms:ViaService":{}}}`),
		"condition with null":         condition(`{"StringEquals":{"kms:ViaService":null}}`),
		"unknown operator":            condition(`{"StringMatches":{"kms:ViaService":"x"}}`),
		"operator in lower case":      condition(`{"stringequals":{"kms:ViaService":"x"}}`),
		"date operator":               condition(`{"DateLessThan":{"kms:ViaService":"2020-01-01"}}`),
		"unknown qualifier":           condition(`{"ForSomeValues:StringEquals":{"kms:EncryptionContextKeys":"x"}}`),
		"unknown key":                 condition(`{"StringEquals":{"aws:MultiFactorAuthAge":"x"}}`),
		"prefix without name":         condition(`{"StringEquals":{"kms:EncryptionContext:":"x"}}`),
		"key with name that has none": condition(`{"StringEquals":{"kms:ViaService/x":"x"}}`),
		"many values, no qualifier":   condition(`{"StringEquals":{"kms:EncryptionContextKeys":"x"}}`),
		"one value with qualifier":    condition(`{"ForAllValues:StringEquals":{"kms:EncryptionContext:a":"x"}}`),
		"null with qualifier":         condition(`{"ForAllValues:Null":{"kms:EncryptionContextKeys":"true"}}`),
		"null if exists":              condition(`{"NullIfExists":{"kms:ViaService":"true"}}`),
		"null of two values":          condition(`{"Null":{"kms:ViaService":["true","false"]}}`),
		"null of text":                condition(`{"Null":{"kms:ViaService":"yes"}}`),
		"bool of text":                condition(`{"Bool":{"aws:SecureTransport":"yes"}}`),
		"number of text":              condition(`{"NumericEquals":{"kms:RotationPeriodInDays":"many"}}`),
		"number NaN":                  condition(`{"NumericEquals":{"kms:RotationPeriodInDays":"NaN"}}`),
		"address of text":             condition(`{"IpAddress":{"aws:SourceIp":"here"}}`),
		"ARN of five parts":           condition(`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*"}}`),
		"ARN with a long star":        condition(`{"ArnNotEquals":{"aws:PrincipalArn":["*","arn:*"]}}`),
		"ARN of two stars":            condition(`{"ArnLikeIfExists":{"aws:PrincipalArn":"**"}}`),
		"empty ARN":                   condition(`{"ArnEquals":{"aws:PrincipalArn":""}}`),
		"policy variable":             condition(`{"StringEquals":{"kms:EncryptionContext:user":"${aws:username}"}}`),
		"too deep":                    condition(strings.Repeat(`{"a":`, 20) + `1` + strings.Repeat(`}`, 20)),
		"too long":                    `{"Id":"` + strings.Repeat("x", MaxSize) + `","Statement":{` + ok + `}}`,
		"not UTF-8":                   `{"Id":"` + "\xff" + `","Statement":{` + ok + `}}`,
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse(text, KeyPolicy)
			e, ok := errors.AsType[*keysource.Error](err)
			if d != nil || !ok || e.Code != keysource.CodeMalformedPolicy || len(e.Message) > 400 {
				t.Errorf("got %v, %v", d, err)
			}
		})
	}
	for _, arn := range []string{"*", "*:*:*:*:*:*", "arn:aws:iam::111122223333:user/a:b*"} {
		if _, err := Parse(condition(`{"ArnLike":{"aws:PrincipalArn":"`+arn+`"}}`), KeyPolicy); err != nil {
			t.Errorf("ARN pattern %s: %v", arn, err)
		}
	}
	if _, err := Parse(statement(ok), IdentityPolicy); err == nil {
		t.Error("an identity policy with a principal was taken")
	}
}

func TestRoles(t *testing.T) {
	for _, r := range Roles() {
		d, err := Parse(r.Identity(), IdentityPolicy)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		if !r.Valid() || d.String() != r.Identity() {
			t.Errorf("%s", r)
		}
		if _, err := Parse(KeyPolicyFor(Assignments{r: {alice}, Administrator: {bob}}), KeyPolicy); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	if Role("x").Valid() {
		t.Error("x is a role")
	}
	for _, text := range []string{Default(account), DefaultManaged(account)} {
		if _, err := Parse(text, KeyPolicy); err != nil {
			t.Error(err)
		}
	}
}

// TestRolesApart shows that who administers cannot use, and who uses cannot administer, and what the other roles add up to.
func TestRolesApart(t *testing.T) {
	use := []string{"Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"}
	look := []string{"DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "GetKeyLastUsage", "ListAliases", "ListGrants",
		"ListKeyPolicies", "ListKeyRotations", "ListResourceTags"}
	administer := []string{"PutKeyPolicy", "EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion",
		"RotateKeyOnDemand", "EnableKeyRotation", "DisableKeyRotation", "TagResource", "UntagResource", "CreateAlias",
		"UpdateAlias", "DeleteAlias", "UpdateKeyDescription", "GetParametersForImport", "ImportKeyMaterial",
		"DeleteImportedKeyMaterial", "RevokeGrant"}
	nobody := []string{"CreateGrant"}
	for role, want := range map[Role][]string{
		Administrator: append(append([]string{}, look...), administer...),
		User:          append([]string{"DescribeKey"}, use...),
		Writer:        {"Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "DescribeKey"},
		Reader:        {"Decrypt", "DescribeKey"},
		Rewrapper:     {"ReEncryptFrom", "ReEncryptTo", "DescribeKey"},
		Auditor:       look,
	} {
		d, err := Parse(KeyPolicyFor(Assignments{role: {alice}}), KeyPolicy)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range [][]string{use, look, administer, nobody} {
			for _, action := range list {
				r := &Request{Principal: principal(alice), Action: "kms:" + action, Resource: keyARN, ResourceAccount: account}
				got := Decide(d, nil, r) == Allowed
				if has := strings.Contains(" "+strings.Join(want, " ")+" ", " "+action+" "); got != has {
					t.Errorf("%s may %s: got %v, want %v", role, action, got, has)
				}
			}
		}
	}
}

// FuzzParse parses any text as a policy, and evaluates what it is.
func FuzzParse(f *testing.F) {
	for _, r := range Roles() {
		f.Add(r.Identity())
		f.Add(KeyPolicyFor(Assignments{r: {alice, ops}}))
	}
	f.Add(`{"Statement":{"Effect":"Deny","NotPrincipal":"*","NotAction":"*","NotResource":"*","Condition":{"ForAnyValue:StringLikeIfExists":{"kms:EncryptionContextKeys":["*",1,true]}}}}`)
	f.Add(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"::/0"}}}}`)
	f.Add(`{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []Kind{KeyPolicy, IdentityPolicy} {
			d, err := Parse(text, kind)
			if (d == nil) == (err == nil) {
				t.Fatal("neither a policy nor an error")
			}
			if err != nil {
				continue
			}
			for _, who := range []string{alice, session, rootUsr, other} {
				r := &Request{Principal: principal(who), Action: "kms:Decrypt", Resource: keyARN, ResourceAccount: account,
					Condition: func(k string) []string { return []string{k} }}
				before := Decide(d, []*Document{d}, r)
				if again := Decide(d, []*Document{d}, r); again != before {
					t.Error("the same question has two answers")
				}
				r.Condition = nil
				Decide(d, nil, r)
			}
		}
	})
}
