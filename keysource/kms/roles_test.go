package kms

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
)

// useOperations and administerOperations are what the two sorts of people do.
var (
	useOperations        = []string{"Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"}
	administerOperations = []string{"CreateAlias", "UpdateAlias", "DeleteAlias", "EnableKey", "DisableKey", "ScheduleKeyDeletion",
		"UpdateKeyDescription", "EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand", "PutKeyPolicy", "TagResource",
		"UntagResource", "RevokeGrant", "GetParametersForImport"}
	lookOperations = []string{"GetKeyPolicy", "GetKeyRotationStatus", "GetKeyLastUsage", "ListAliases", "ListGrants",
		"ListKeyPolicies", "ListKeyRotations", "ListResourceTags"}
)

// TestAdministratorsAndUsersApart goes through every operation as each role, once with identity policies and the default
// key policy, once with a key policy alone.
func TestAdministratorsAndUsersApart(t *testing.T) {
	for role, may := range map[policy.Role][]string{
		policy.Administrator: slices.Concat(administerOperations, lookOperations, []string{"DescribeKey"}),
		policy.User:          append([]string{"DescribeKey", "ListAliases"}, useOperations...),
		policy.Writer:        {"Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "DescribeKey"},
		policy.Reader:        {"Decrypt", "DescribeKey"},
		policy.Rewrapper:     {"ReEncrypt", "DescribeKey"},
		policy.Auditor:       append([]string{"DescribeKey"}, lookOperations...),
	} {
		for _, how := range []string{"identity policy", "key policy"} {
			t.Run(string(role)+" by "+how, func(t *testing.T) {
				var b *bench
				var k, grant, blob string
				for _, op := range slices.Concat(useOperations, administerOperations, lookOperations, []string{"DescribeKey", "CreateGrant"}) {
					if how == "key policy" && strings.Contains(op, "Alias") {
						continue // an alias is a thing of its own, for which there are identity policies alone
					}
					if b == nil {
						b = newBench(t)
						k, grant, blob = b.inState(keysource.KeyStateEnabled)
						if how == "key policy" {
							b.giveRole(k, role)
						}
					}
					c, input := b.as("x", role), b.inputFor(op, k, grant, blob)
					if how == "key policy" {
						c.Caller.Policies = nil
						if op == "ReEncrypt" { // to the same CMK, as the other has another policy
							input = fmt.Sprintf(`{"CiphertextBlob":%q,"DestinationKeyId":%q}`, blob, k)
						}
					}
					_, err := b.run(c, op, input)
					switch got := code(err); {
					case slices.Contains(may, op) && got == keysource.CodeAccessDenied:
						t.Errorf("%s may not %s: %v", role, op, err)
					case !slices.Contains(may, op) && got != keysource.CodeAccessDenied:
						t.Errorf("%s may %s: %v", role, op, err)
					}
					if err == nil && !Operations()[op].ReadOnly {
						b = nil // it is no longer what the next operation wants
					}
				}
			})
		}
	}
}

// giveRole gives user x a role by the key policy of a CMK.
func (b *bench) giveRole(k string, role policy.Role) {
	b.t.Helper()
	roles := policy.Assignments{policy.Administrator: {user("admin")}}
	roles[role] = append(roles[role], user("x"))
	text, err := json.Marshal(policy.KeyPolicyFor(roles))
	if err != nil {
		b.t.Fatal(err)
	}
	b.must(b.root(), "PutKeyPolicy", `{"KeyId":"`+k+`","BypassPolicyLockoutSafetyCheck":true,"Policy":`+string(text)+`}`)
}

// TestNobodyMayAnything goes through all operations as somebody without any permission.
func TestNobodyMayAnything(t *testing.T) {
	b := newBench(t)
	k, grant, blob := b.inState(keysource.KeyStateEnabled)
	for _, op := range slices.Sorted(maps.Keys(Operations())) {
		in := b.inputFor(op, k, grant, blob)
		if op == "GenerateRandom" {
			in = `{"NumberOfBytes":1}`
		}
		if op == "ListRetirableGrants" {
			in = `{"RetiringPrincipal":"` + user("x") + `"}`
		}
		for _, c := range []*Call{
			b.as("nobody"),
			{Caller: Caller{ARN: "arn:aws:iam::999999999999:root", AccountID: "999999999999"}},
			{Caller: Caller{}},
		} {
			_, err := b.run(c, op, in)
			if code(err) != keysource.CodeAccessDenied {
				t.Errorf("%s as %q: got %v", op, c.Caller.ARN, err)
			}
		}
	}
	_, err := b.run(b.as("nobody"), "Decrypt", b.inputFor("Decrypt", k, grant, blob))
	want := "User: " + user("nobody") + " is not authorized to perform: kms:Decrypt on resource: " + k +
		" because no identity-based policy allows the kms:Decrypt action"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

// TestManagedKey shows that an AWS managed CMK is used by who may, and administered by nobody.
func TestManagedKey(t *testing.T) {
	b := newBench(t)
	md := b.must(b.root(), "DescribeKey", `{"KeyId":"alias/aws/kmsfs"}`)["KeyMetadata"].(map[string]any)
	k := md["Arn"].(string)
	if md["KeyManager"] != "AWS" {
		t.Errorf("got %v", md)
	}
	b.must(b.as("u", policy.User), "GenerateDataKey", `{"KeyId":"alias/aws/kmsfs","KeySpec":"AES_256"}`)
	b.refused(b.as("u"), "GenerateDataKey", `{"KeyId":"alias/aws/kmsfs","KeySpec":"AES_256"}`, keysource.CodeAccessDenied)
	for _, op := range []string{"DisableKey", "ScheduleKeyDeletion", "PutKeyPolicy", "RotateKeyOnDemand", "EnableKeyRotation",
		"DisableKeyRotation", "TagResource", "UpdateKeyDescription", "CreateAlias", "CreateGrant"} {
		for _, c := range []*Call{b.root(), b.as("a", policy.Administrator)} {
			b.refused(c, op, b.inputFor(op, k, "", ""), keysource.CodeAccessDenied)
		}
	}
	if got := b.must(b.root(), "GetKeyRotationStatus", `{"KeyId":"`+k+`"}`); got["KeyRotationEnabled"] != true || got["RotationPeriodInDays"] != 365.0 {
		t.Errorf("got %v", got)
	}
	b.refused(b.root(), "CreateAlias", `{"AliasName":"alias/aws/mine","TargetKeyId":"`+b.newKey(CreateKeyInput{})+`"}`, keysource.CodeInvalidAliasName)
}

func TestKeyPolicies(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	put := func(c *Call, text, more, want string) {
		t.Helper()
		p, _ := json.Marshal(text)
		b.refused(c, "PutKeyPolicy", `{"KeyId":"`+k+`","Policy":`+string(p)+more+`}`, want)
	}
	out := b.must(b.root(), "GetKeyPolicy", `{"KeyId":"`+k+`"}`)
	if out["Policy"] != policy.Default(testAccount) || out["PolicyName"] != "default" {
		t.Errorf("got %v", out)
	}
	put(b.root(), `{}`, "", keysource.CodeMalformedPolicy)
	put(b.root(), "\x00", "", keysource.CodeValidation)
	put(b.root(), strings.Repeat(" ", policy.MaxSize+1), "", keysource.CodeLimitExceeded)
	put(b.root(), policy.Default(testAccount), `,"PolicyName":"x"`, keysource.CodeNotFound)
	// The lock-out check, with and without the bypass.
	users := policy.KeyPolicyFor(policy.Assignments{policy.User: {user("u")}})
	put(b.root(), users, "", keysource.CodeMalformedPolicy)
	p, _ := json.Marshal(users)
	b.refused(b.root(), "CreateKey", `{"Policy":`+string(p)+`}`, keysource.CodeMalformedPolicy)
	b.must(b.root(), "CreateKey", `{"BypassPolicyLockoutSafetyCheck":true,"Policy":`+string(p)+`}`)
	admin := b.as("admin", policy.Administrator)
	put(admin, policy.KeyPolicyFor(policy.Assignments{policy.Administrator: {user("other")}}), "", keysource.CodeMalformedPolicy)
	mine := policy.KeyPolicyFor(policy.Assignments{policy.Administrator: {user("admin")}, policy.User: {user("u")}})
	put(admin, mine, "", "")
	if got := b.must(admin, "GetKeyPolicy", `{"KeyId":"`+k+`"}`); got["Policy"] != mine {
		t.Errorf("got %v", got)
	}
	// It is in force at once: the root user has lost the key, the user has gained it, the administrator cannot use it.
	b.refused(b.root(), "DescribeKey", `{"KeyId":"`+k+`"}`, keysource.CodeAccessDenied)
	b.must(b.as("u"), "GenerateDataKey", `{"KeyId":"`+k+`","KeySpec":"AES_256"}`)
	b.refused(admin, "GenerateDataKey", `{"KeyId":"`+k+`","KeySpec":"AES_256"}`, keysource.CodeAccessDenied)
	put(b.as("u"), mine, "", keysource.CodeAccessDenied)
	// A policy that only a later kmsfs understands allows nothing.
	if err := b.store.PutKeyPolicy(t.Context(), keysource.KeyRef(k), `{"Later":1}`); err != nil {
		t.Fatal(err)
	}
	b.refused(admin, "DescribeKey", `{"KeyId":"`+k+`"}`, keysource.CodeAccessDenied)
}

// TestConditionsOfRequests shows that each condition key is filled in from the request.
func TestConditionsOfRequests(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{Tags: []Tag{{"Team", "red"}}})
	b.must(b.root(), "CreateAlias", `{"AliasName":"alias/finance","TargetKeyId":"`+k+`"}`)
	data := `"KeySpec":"AES_256"`
	for _, row := range []struct{ condition, op, in, want string }{
		{`{"StringEquals":{"kms:EncryptionContext:app":"x"}}`, "GenerateDataKey", data + `,"EncryptionContext":{"app":"x"}`, ""},
		{`{"StringEquals":{"kms:EncryptionContext:App":"x"}}`, "GenerateDataKey", data + `,"EncryptionContext":{"app":"x"}`, ""},
		{`{"StringEquals":{"kms:EncryptionContext:app":"x"}}`, "GenerateDataKey", data + `,"EncryptionContext":{"app":"y"}`, keysource.CodeAccessDenied},
		{`{"StringEquals":{"kms:EncryptionContext:app":"x"}}`, "GenerateDataKey", data, keysource.CodeAccessDenied},
		{`{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["app"]}}`, "GenerateDataKey", data + `,"EncryptionContext":{"app":"x","b":"y"}`, keysource.CodeAccessDenied},
		{`{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["app"]}}`, "GenerateDataKey", data + `,"EncryptionContext":{"app":"x","b":"y"}`, ""},
		{`{"StringEquals":{"kms:RequestAlias":"alias/finance"}}`, "GenerateDataKey", data, keysource.CodeAccessDenied},
		{`{"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/finance"}}`, "GenerateDataKey", data, ""},
		{`{"StringEquals":{"kms:CallerAccount":"111122223333"}}`, "GenerateDataKey", data, ""},
		{`{"StringEquals":{"kms:KeyOrigin":"EXTERNAL"}}`, "GenerateDataKey", data, keysource.CodeAccessDenied},
		{`{"StringEquals":{"kms:EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}}`, "GenerateDataKey", data, ""},
		{`{"StringEquals":{"aws:ResourceTag/team":"red"}}`, "GenerateDataKey", data, ""},
		{`{"StringEquals":{"aws:PrincipalTag/team":"red"}}`, "GenerateDataKey", data, ""},
		{`{"StringEquals":{"aws:username":"x"}}`, "GenerateDataKey", data, ""},
		{`{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::*:user/x"}}`, "GenerateDataKey", data, ""},
		{`{"Bool":{"aws:SecureTransport":"true"}}`, "GenerateDataKey", data, keysource.CodeAccessDenied},
		{`{"Null":{"kms:ViaService":"true"}}`, "GenerateDataKey", data, ""},
		{`{"NumericLessThan":{"kms:ScheduleKeyDeletionPendingWindowInDays":"20"}}`, "ScheduleKeyDeletion", `"PendingWindowInDays":20`, keysource.CodeAccessDenied},
		{`{"NumericLessThanEquals":{"kms:RotationPeriodInDays":"180"}}`, "EnableKeyRotation", `"RotationPeriodInDays":365`, keysource.CodeAccessDenied},
		{`{"NumericLessThanEquals":{"kms:RotationPeriodInDays":"180"}}`, "EnableKeyRotation", `"RotationPeriodInDays":180`, ""},
		{`{"NumericGreaterThanEquals":{"kms:TrailingDaysWithoutKeyUsage":"30"}}`, "DisableKey", `"X":1`, keysource.CodeAccessDenied},
		{`{"StringEquals":{"aws:RequestTag/env":"prod"}}`, "TagResource", `"Tags":[{"TagKey":"Env","TagValue":"prod"}]`, ""},
		{`{"ForAllValues:StringEquals":{"aws:TagKeys":["env"]}}`, "TagResource", `"Tags":[{"TagKey":"x","TagValue":"prod"}]`, keysource.CodeAccessDenied},
		{`{"ForAllValues:StringEquals":{"kms:GrantOperations":["Decrypt"]}}`, "CreateGrant", `"GranteePrincipal":"` + user("y") + `","Operations":["Encrypt"]`, keysource.CodeAccessDenied},
		{`{"StringEquals":{"kms:GranteePrincipal":"` + user("y") + `"}}`, "CreateGrant", `"GranteePrincipal":"` + user("y") + `","Operations":["Encrypt"]`, ""},
	} {
		p, _ := json.Marshal(`{"Statement":[{"Effect":"Allow","Principal":{"AWS":"` + user("x") + `"},"Action":"kms:*","Resource":"*","Condition":` +
			row.condition + `},{"Effect":"Allow","Principal":{"AWS":"` + b.root().Caller.ARN + `"},"Action":"kms:*","Resource":"*"}]}`)
		b.must(b.root(), "PutKeyPolicy", `{"KeyId":"`+k+`","Policy":`+string(p)+`}`)
		c := b.as("x")
		c.Caller.Tags = map[string]string{"Team": "red"}
		_, err := b.run(c, row.op, `{"KeyId":"`+k+`",`+row.in+`}`)
		if code(err) != row.want {
			t.Errorf("%s %s under %s: got %v, want %q", row.op, row.in, row.condition, err, row.want)
		}
	}
}
