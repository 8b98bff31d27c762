package kms

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// all reads a list page by page.
func (b *bench) all(op, in, member string, limit int) []any {
	b.t.Helper()
	var items []any
	marker := ""
	for {
		out := b.must(b.root(), op, fmt.Sprintf(`{%s"Limit":%d%s}`, in, limit, marker))
		part := out[member].([]any)
		if len(part) > limit {
			b.t.Errorf("%s: %d items on a page of %d", op, len(part), limit)
		}
		items = append(items, part...)
		next, more := out["NextMarker"].(string)
		if more != out["Truncated"].(bool) {
			b.t.Errorf("%s: truncated %v, marker %q", op, out["Truncated"], next)
		}
		if !more {
			return items
		}
		marker = `,"Marker":"` + next + `"`
	}
}

func TestPaging(t *testing.T) {
	b := newBench(t)
	var keys []string
	for range 7 {
		keys = append(keys, b.newKey(CreateKeyInput{}))
	}
	k := keys[0]
	in := `"KeyId":"` + k + `",`
	for i := range 7 {
		b.must(b.root(), "CreateAlias", fmt.Sprintf(`{"AliasName":"alias/n%d","TargetKeyId":%q}`, i, k))
		b.must(b.root(), "TagResource", fmt.Sprintf(`{"KeyId":%q,"Tags":[{"TagKey":"t%d","TagValue":""}]}`, k, i))
		b.must(b.root(), "CreateGrant", fmt.Sprintf(`{"KeyId":%q,"GranteePrincipal":%q,"RetiringPrincipal":%q,"Operations":["Decrypt"]}`, k, user("x"), user("y")))
		b.must(b.root(), "RotateKeyOnDemand", fmt.Sprintf(`{"KeyId":%q}`, k))
	}
	for _, row := range []struct {
		op, in, member string
		want           int
	}{
		{"ListKeys", "", "Keys", 8}, {"ListAliases", in, "Aliases", 7}, {"ListAliases", "", "Aliases", 8}, {"ListResourceTags", in, "Tags", 7},
		{"ListGrants", in, "Grants", 7}, {"ListRetirableGrants", `"RetiringPrincipal":"` + user("y") + `",`, "Grants", 7},
		{"ListKeyRotations", in, "Rotations", 7}, {"ListKeyRotations", in + `"IncludeKeyMaterial":"ALL_KEY_MATERIAL",`, "Rotations", 8},
		{"ListKeyPolicies", in, "PolicyNames", 1},
	} {
		var last []any
		for _, limit := range []int{1, 3, 7, 50} {
			got := b.all(row.op, row.in, row.member, limit)
			if len(got) != row.want {
				t.Errorf("%s by %d: got %d items, want %d", row.op, limit, len(got), row.want)
			}
			if last != nil && fmt.Sprint(got) != fmt.Sprint(last) {
				t.Errorf("%s by %d: got other items than before", row.op, limit)
			}
			last = got
		}
		for more, want := range map[string]string{`"Limit":0`: keysource.CodeValidation, `"Limit":1001`: keysource.CodeValidation,
			`"Marker":"x"`: keysource.CodeInvalidMarker, `"Marker":"` + strings.Repeat("AAAA", 300) + `"`: keysource.CodeInvalidMarker} {
			b.refused(b.root(), row.op, "{"+row.in+more+"}", want)
		}
	}
	// A marker outlives the item that it names.
	out := b.must(b.root(), "ListAliases", `{"KeyId":"`+k+`","Limit":3}`)
	b.must(b.root(), "DeleteAlias", `{"AliasName":"alias/n2"}`)
	out = b.must(b.root(), "ListAliases", `{"KeyId":"`+k+`","Limit":3,"Marker":"`+out["NextMarker"].(string)+`"}`)
	if first := out["Aliases"].([]any)[0].(map[string]any)["AliasName"]; first != "alias/n3" {
		t.Errorf("got %v", first)
	}
}

func TestTags(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{Tags: []Tag{{"a", "1"}, {"b", "2"}}})
	in := func(op, more, want string) { t.Helper(); b.refused(b.root(), op, `{"KeyId":"`+k+`",`+more+`}`, want) }
	in("TagResource", `"Tags":[{"TagKey":"b","TagValue":"3"},{"TagKey":"c","TagValue":""}]`, "")
	in("TagResource", `"Tags":[{"TagKey":"","TagValue":"3"}]`, keysource.CodeTag)
	in("TagResource", `"Tags":[{"TagKey":"aws:x","TagValue":"3"}]`, keysource.CodeTag)
	in("TagResource", `"Tags":[{"TagKey":"x","TagValue":"3"},{"TagKey":"x","TagValue":"4"}]`, keysource.CodeTag)
	in("TagResource", `"Tags":[{"TagKey":"`+strings.Repeat("x", 129)+`","TagValue":"3"}]`, keysource.CodeTag)
	in("TagResource", `"X":1`, keysource.CodeValidation)
	in("UntagResource", `"X":1`, keysource.CodeValidation)
	var many []Tag
	for i := range 51 {
		many = append(many, Tag{fmt.Sprint("k", i), ""})
	}
	text, _ := json.Marshal(many)
	in("TagResource", `"Tags":`+string(text), keysource.CodeLimitExceeded)
	b.refused(b.root(), "CreateKey", `{"Tags":`+string(text)+`}`, keysource.CodeLimitExceeded)
	in("UntagResource", `"TagKeys":["a","none"]`, "")
	got, _ := json.Marshal(b.must(b.root(), "ListResourceTags", `{"KeyId":"`+k+`"}`)["Tags"])
	if string(got) != `[{"TagKey":"b","TagValue":"3"},{"TagKey":"c","TagValue":""}]` {
		t.Errorf("got %s", got)
	}
}

func TestAliases(t *testing.T) {
	b := newBench(t)
	k, other := b.newKey(CreateKeyInput{}), b.newKey(CreateKeyInput{})
	b.must(b.root(), "CreateAlias", `{"AliasName":"alias/k","TargetKeyId":"`+k+`"}`)
	b.refused(b.root(), "CreateAlias", `{"AliasName":"alias/k","TargetKeyId":"`+k+`"}`, keysource.CodeAlreadyExists)
	for name, want := range map[string]string{"": keysource.CodeValidation, "k": keysource.CodeInvalidAliasName,
		"alias/a b": keysource.CodeInvalidAliasName, "alias/" + strings.Repeat("x", 260): keysource.CodeValidation} {
		b.refused(b.root(), "CreateAlias", `{"AliasName":"`+name+`","TargetKeyId":"`+k+`"}`, want)
	}
	b.must(b.root(), "UpdateAlias", `{"AliasName":"alias/k","TargetKeyId":"`+other+`"}`)
	if md := b.must(b.root(), "DescribeKey", `{"KeyId":"alias/k"}`)["KeyMetadata"].(map[string]any); md["Arn"] != other {
		t.Errorf("got %v", md)
	}
	b.refused(b.root(), "UpdateAlias", `{"AliasName":"alias/none","TargetKeyId":"`+other+`"}`, keysource.CodeNotFound)
	b.refused(b.root(), "DeleteAlias", `{"AliasName":"alias/none"}`, keysource.CodeNotFound)
	// Administrative calls take no alias.
	for _, op := range []string{"DisableKey", "PutKeyPolicy", "RotateKeyOnDemand", "ScheduleKeyDeletion", "ListGrants", "TagResource"} {
		b.refused(b.root(), op, b.inputFor(op, "alias/k", "", ""), keysource.CodeNotFound)
	}
	b.must(b.root(), "DeleteAlias", `{"AliasName":"alias/k"}`)
}

func TestCreateKey(t *testing.T) {
	b := newBench(t)
	for in, want := range map[string]string{
		`{}`: "", `{"KeySpec":"SYMMETRIC_DEFAULT","KeyUsage":"ENCRYPT_DECRYPT","Origin":"AWS_KMS"}`: "",
		`{"CustomerMasterKeySpec":"SYMMETRIC_DEFAULT"}`:                               "",
		`{"CustomerMasterKeySpec":"SYMMETRIC_DEFAULT","KeySpec":"SYMMETRIC_DEFAULT"}`: keysource.CodeValidation,
		`{"KeySpec":"RSA_2048"}`:                              keysource.CodeUnsupported,
		`{"KeyUsage":"SIGN_VERIFY"}`:                          keysource.CodeUnsupported,
		`{"KeyUsage":"X"}`:                                    keysource.CodeValidation,
		`{"Origin":"AWS_CLOUDHSM"}`:                           keysource.CodeUnsupported,
		`{"Origin":"X"}`:                                      keysource.CodeValidation,
		`{"MultiRegion":true}`:                                keysource.CodeUnsupported,
		`{"Policy":"{}"}`:                                     keysource.CodeMalformedPolicy,
		`{"Description":"` + strings.Repeat("x", 8193) + `"}`: keysource.CodeValidation,
	} {
		b.refused(b.root(), "CreateKey", in, want)
	}
	out := b.must(b.root(), "CreateKey", `{"Description":"d"}`)["KeyMetadata"].(map[string]any)
	for name, want := range map[string]any{"AWSAccountId": testAccount, "Enabled": true, "Description": "d", "KeyUsage": "ENCRYPT_DECRYPT",
		"KeyState": "Enabled", "Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
		"KeySpec": "SYMMETRIC_DEFAULT", "MultiRegion": false} {
		if out[name] != want {
			t.Errorf("%s: got %v, want %v", name, out[name], want)
		}
	}
	for _, name := range []string{"DeletionDate", "ValidTo", "ExpirationModel"} {
		if _, there := out[name]; there {
			t.Errorf("%s is there", name)
		}
	}
	if algs, ok := out["EncryptionAlgorithms"].([]any); !ok || !slices.Equal(algs, []any{"SYMMETRIC_DEFAULT"}) {
		t.Errorf("got %v", out["EncryptionAlgorithms"])
	}
}
