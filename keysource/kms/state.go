package kms

import (
	"slices"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// verdict is what a key state does to an operation.
type verdict int

// The verdicts.
const (
	yes verdict = iota
	no          // DisabledException, or KMSInvalidStateException that names the state
	not         // KMSInvalidStateException: "is not pending deletion"
)

// states are the columns of the table.
var states = []keysource.KeyState{keysource.KeyStateEnabled, keysource.KeyStateDisabled, keysource.KeyStatePendingImport,
	keysource.KeyStatePendingDeletion, keysource.KeyStateUnavailable}

// row is what an operation asks of a CMK.
type row struct {
	// origin is the only one with which the operation works, or empty for all; else UnsupportedOperationException.
	origin keysource.KeyOrigin
	// in is the verdict in each of states.
	in [5]verdict
}

// table is the key state table of AWS KMS: operations that are not in it work in every state. For UpdateAlias it is about
// the new CMK of the alias; the old one may be in any state.
var table = map[string]row{
	"Encrypt":                         {"", [5]verdict{yes, no, no, no, no}},
	"Decrypt":                         {"", [5]verdict{yes, no, no, no, no}},
	"ReEncrypt":                       {"", [5]verdict{yes, no, no, no, no}},
	"GenerateDataKey":                 {"", [5]verdict{yes, no, no, no, no}},
	"GenerateDataKeyWithoutPlaintext": {"", [5]verdict{yes, no, no, no, no}},
	"CreateGrant":                     {"", [5]verdict{yes, no, no, no, no}},
	"EnableKey":                       {"", [5]verdict{yes, yes, no, no, yes}},
	"DisableKey":                      {"", [5]verdict{yes, yes, no, no, yes}},
	"EnableKeyRotation":               {keysource.OriginAWSKMS, [5]verdict{yes, no, no, no, no}},
	"DisableKeyRotation":              {keysource.OriginAWSKMS, [5]verdict{yes, no, no, no, no}},
	"RotateKeyOnDemand":               {"", [5]verdict{yes, no, no, no, no}},
	"ScheduleKeyDeletion":             {"", [5]verdict{yes, yes, yes, no, yes}},
	"CancelKeyDeletion":               {"", [5]verdict{not, not, not, yes, not}},
	"CreateAlias":                     {"", [5]verdict{yes, yes, yes, no, yes}},
	"UpdateAlias":                     {"", [5]verdict{yes, yes, yes, no, yes}},
	"TagResource":                     {"", [5]verdict{yes, yes, yes, no, yes}},
	"UntagResource":                   {"", [5]verdict{yes, yes, yes, no, yes}},
	"UpdateKeyDescription":            {"", [5]verdict{yes, yes, yes, no, yes}},
	"GetParametersForImport":          {keysource.OriginExternal, [5]verdict{yes, yes, yes, no, no}},
	"ImportKeyMaterial":               {keysource.OriginExternal, [5]verdict{yes, yes, yes, no, no}},
	"DeleteImportedKeyMaterial":       {keysource.OriginExternal, [5]verdict{yes, yes, yes, yes, no}},
}

// allowed refuses an operation that the origin or the state of the CMK does not allow.
func (r *request) allowed(k *local.Key) error {
	row, ok := table[r.op]
	if !ok {
		return nil
	}
	if row.origin != "" && row.origin != k.Origin {
		return r.refuse(k.ARN, keysource.CodeUnsupported, "%s origin is %s which is not valid for this operation.", k.ARN, k.Origin)
	}
	v := no
	if i := slices.Index(states, k.KeyState); i >= 0 {
		v = row.in[i]
	}
	switch v {
	case yes:
		return nil
	case not:
		return r.refuse(k.ARN, keysource.CodeInvalidState, "%s is not pending deletion.", k.ARN)
	}
	switch k.KeyState {
	case keysource.KeyStateDisabled:
		return r.refuse(k.ARN, keysource.CodeDisabled, "%s is disabled.", k.ARN)
	case keysource.KeyStatePendingImport:
		return r.refuse(k.ARN, keysource.CodeInvalidState, "%s is pending import.", k.ARN)
	case keysource.KeyStatePendingDeletion:
		return r.refuse(k.ARN, keysource.CodeInvalidState, "%s is pending deletion.", k.ARN)
	case keysource.KeyStateUnavailable:
		return r.refuse(k.ARN, keysource.CodeInvalidState, "%s is unavailable.", k.ARN)
	}
	return r.refuse(k.ARN, keysource.CodeInvalidState, "%s is not in a state for this request.", k.ARN)
}
