package kms

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// What the table says, written out once more from AWS's documentation. A dot is yes.
const (
	ok   = "."
	dis  = keysource.CodeDisabled
	inv  = keysource.CodeInvalidState
	uns  = keysource.CodeUnsupported
	note = "is not pending deletion."
)

// TestStateTable compares the table with the documentation, row by row, in all states and for both origins, and with
// what the operations really do in the states that a CMK here can be in.
func TestStateTable(t *testing.T) {
	rows := []struct {
		op  string
		aws [5]string // of origin AWS_KMS: enabled, disabled, pending import, pending deletion, unavailable
		ext [5]string // of origin EXTERNAL
	}{
		{"Encrypt", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"Decrypt", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"ReEncrypt", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"GenerateDataKey", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"GenerateDataKeyWithoutPlaintext", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"CreateGrant", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"EnableKey", [5]string{ok, ok, inv, inv, ok}, [5]string{ok, ok, inv, inv, ok}},
		{"DisableKey", [5]string{ok, ok, inv, inv, ok}, [5]string{ok, ok, inv, inv, ok}},
		{"EnableKeyRotation", [5]string{ok, dis, inv, inv, inv}, [5]string{uns, uns, uns, uns, uns}},
		{"DisableKeyRotation", [5]string{ok, dis, inv, inv, inv}, [5]string{uns, uns, uns, uns, uns}},
		{"GetKeyRotationStatus", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"RotateKeyOnDemand", [5]string{ok, dis, inv, inv, inv}, [5]string{ok, dis, inv, inv, inv}},
		{"ListKeyRotations", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"ScheduleKeyDeletion", [5]string{ok, ok, ok, inv, ok}, [5]string{ok, ok, ok, inv, ok}},
		{"CancelKeyDeletion", [5]string{note, note, note, ok, note}, [5]string{note, note, note, ok, note}},
		{"CreateAlias", [5]string{ok, ok, ok, inv, ok}, [5]string{ok, ok, ok, inv, ok}},
		{"UpdateAlias", [5]string{ok, ok, ok, inv, ok}, [5]string{ok, ok, ok, inv, ok}},
		{"DeleteAlias", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"ListAliases", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"TagResource", [5]string{ok, ok, ok, inv, ok}, [5]string{ok, ok, ok, inv, ok}},
		{"UntagResource", [5]string{ok, ok, ok, inv, ok}, [5]string{ok, ok, ok, inv, ok}},
		{"ListResourceTags", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"UpdateKeyDescription", [5]string{ok, ok, ok, inv, ok}, [5]string{ok, ok, ok, inv, ok}},
		{"DescribeKey", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"GetKeyPolicy", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"PutKeyPolicy", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"ListKeyPolicies", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"ListGrants", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"RevokeGrant", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"RetireGrant", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"GetKeyLastUsage", [5]string{ok, ok, ok, ok, ok}, [5]string{ok, ok, ok, ok, ok}},
		{"GetParametersForImport", [5]string{uns, uns, uns, uns, uns}, [5]string{ok, ok, ok, inv, inv}},
		{"ImportKeyMaterial", [5]string{uns, uns, uns, uns, uns}, [5]string{ok, ok, ok, inv, inv}},
		{"DeleteImportedKeyMaterial", [5]string{uns, uns, uns, uns, uns}, [5]string{ok, ok, ok, ok, inv}},
	}
	seen := map[string]bool{}
	var benches [4]*bench // in each state
	var keys, grants, blobs [4]string
	for _, row := range rows {
		seen[row.op] = true
		for origin, verdicts := range map[keysource.KeyOrigin][5]string{keysource.OriginAWSKMS: row.aws, keysource.OriginExternal: row.ext} {
			for i, state := range states {
				r := &request{op: row.op}
				err := r.allowed(&local.Key{KeyMetadata: keysource.KeyMetadata{ARN: "arn:x", Origin: origin, KeyState: state}})
				checkVerdict(t, fmt.Sprintf("table: %s of a key that is %s and %s", row.op, state, origin), err, verdicts[i])
			}
		}
		for i, state := range states[:4] {
			if benches[i] == nil {
				benches[i] = newBench(t)
				keys[i], grants[i], blobs[i] = benches[i].inState(state)
			}
			b, verdicts := benches[i], row.aws
			if state == keysource.KeyStatePendingImport {
				verdicts = row.ext
			}
			_, err := b.run(b.root(), row.op, b.inputFor(row.op, keys[i], grants[i], blobs[i]))
			checkVerdict(t, fmt.Sprintf("service: %s of a key that is %s", row.op, state), err, verdicts[i])
			if err == nil && !Operations()[row.op].ReadOnly {
				benches[i] = nil // it is no longer in that state
			}
		}
	}
	for op := range table {
		if !seen[op] {
			t.Errorf("%s is not tested", op)
		}
	}
	if err := (&request{op: "Encrypt"}).allowed(&local.Key{KeyMetadata: keysource.KeyMetadata{KeyState: "Creating"}}); code(err) != inv {
		t.Errorf("an unknown state: %v", err)
	}
}

// checkVerdict compares an error with what the documentation says.
func checkVerdict(t *testing.T, what string, err error, want string) {
	t.Helper()
	got := code(err)
	switch {
	case want == ok && (got == "" || got == keysource.CodeInvalidImportToken): // so the state was no obstacle
	case want == note && got == inv && strings.Contains(err.Error(), note):
	case got != want:
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

// inState makes a CMK in a state, with an alias, a grant and a ciphertext (of another CMK where it cannot encrypt).
func (b *bench) inState(state keysource.KeyState) (arn, grant, blob string) {
	b.t.Helper()
	in := CreateKeyInput{}
	if state == keysource.KeyStatePendingImport {
		in.Origin = "EXTERNAL"
	}
	arn = b.newKey(in)
	b.must(b.root(), "CreateAlias", `{"AliasName":"alias/k","TargetKeyId":"`+arn+`"}`)
	b.must(b.root(), "CreateAlias", `{"AliasName":"alias/spare","TargetKeyId":"`+b.newKey(CreateKeyInput{})+`"}`)
	b.must(b.root(), "TagResource", `{"KeyId":"`+arn+`","Tags":[{"TagKey":"a","TagValue":"b"}]}`)
	if state == keysource.KeyStatePendingImport {
		b.importPlainly(arn, 1)
	}
	grant = b.must(b.root(), "CreateGrant", `{"KeyId":"`+arn+`","GranteePrincipal":"`+user("grantee")+`","Operations":["Decrypt"]}`)["GrantId"].(string)
	blob = b.must(b.root(), "Encrypt", `{"KeyId":"`+arn+`","Plaintext":"aGk="}`)["CiphertextBlob"].(string)
	switch state {
	case keysource.KeyStateDisabled:
		b.must(b.root(), "DisableKey", `{"KeyId":"`+arn+`"}`)
	case keysource.KeyStatePendingImport:
		b.must(b.root(), "DeleteImportedKeyMaterial", `{"KeyId":"`+arn+`"}`)
	case keysource.KeyStatePendingDeletion:
		b.must(b.root(), "ScheduleKeyDeletion", `{"KeyId":"`+arn+`"}`)
	}
	return arn, grant, blob
}

// inputFor is an input of an operation that would succeed but for the state.
func (b *bench) inputFor(op, k, grant, blob string) string {
	in := `{"KeyId":"` + k + `"`
	switch op {
	case "Encrypt":
		in += `,"Plaintext":"aGk="`
	case "Decrypt":
		in += `,"CiphertextBlob":"` + blob + `"`
	case "ReEncrypt":
		in += `,"CiphertextBlob":"` + blob + `","DestinationKeyId":"` + b.newKey(CreateKeyInput{}) + `"`
	case "GenerateDataKey", "GenerateDataKeyWithoutPlaintext":
		in += `,"KeySpec":"AES_256"`
	case "CreateGrant":
		in += `,"GranteePrincipal":"` + user("x") + `","Operations":["Decrypt"]`
	case "CreateAlias":
		in += `,"AliasName":"alias/new","TargetKeyId":"` + k + `"`
	case "UpdateAlias":
		in += `,"AliasName":"alias/spare","TargetKeyId":"` + k + `"`
	case "DeleteAlias":
		in += `,"AliasName":"alias/k"`
	case "TagResource":
		in += `,"Tags":[{"TagKey":"a","TagValue":"c"}]`
	case "UntagResource":
		in += `,"TagKeys":["a"]`
	case "UpdateKeyDescription":
		in += `,"Description":"x"`
	case "PutKeyPolicy":
		in += `,"Policy":"{\"Statement\":{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"kms:*\",\"Resource\":\"*\"}}"`
	case "RevokeGrant", "RetireGrant":
		in += `,"GrantId":"` + grant + `"`
	case "GetParametersForImport":
		in += `,"WrappingAlgorithm":"RSAES_OAEP_SHA_256","WrappingKeySpec":"RSA_2048"`
	case "ImportKeyMaterial":
		in += `,"ImportToken":"` + base64.StdEncoding.EncodeToString([]byte("x")) + `","EncryptedKeyMaterial":"eA==","ExpirationModel":"KEY_MATERIAL_DOES_NOT_EXPIRE"`
	}
	return in + "}"
}
