package policy

import (
	"encoding/json"
	"slices"
)

// Role is a ready-made set of permissions on CMKs.
type Role string

// The ready-made roles. Administrators and users are apart: both may look at a CMK, and share nothing else.
const (
	// Administrator makes, describes, tags, rotates, disables and deletes CMKs and writes their policies, but cannot
	// use them, nor give the use away by a grant. Who writes a policy can give the use away: watch PutKeyPolicy.
	Administrator Role = "administrator"
	// User encrypts and decrypts.
	User Role = "user"
	// Writer only encrypts: a backup sender that cannot read back what it sent.
	Writer Role = "writer"
	// Reader only decrypts.
	Reader Role = "reader"
	// Rewrapper moves wrapped keys to another CMK or newer key material without seeing a data key.
	Rewrapper Role = "rewrapper"
	// Auditor sees everything but keys.
	Auditor Role = "auditor"
)

// Roles returns all roles.
func Roles() []Role { return []Role{Administrator, User, Writer, Reader, Rewrapper, Auditor} }

// actions are the permissions on a CMK, then those that have no CMK and are in identity policies alone.
var actions = map[Role][2][]string{
	Administrator: {
		{"kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias", "kms:Describe*", "kms:Enable*", "kms:Disable*",
			"kms:Get*", "kms:List*", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:UpdateKeyDescription",
			"kms:RotateKeyOnDemand", "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion", "kms:TagResource",
			"kms:UntagResource", "kms:ImportKeyMaterial", "kms:DeleteImportedKeyMaterial"},
		{"kms:CreateKey"},
	},
	User: {
		{"kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey",
			"kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"},
		{"kms:GenerateRandom", "kms:ListAliases"},
	},
	Writer: {
		{"kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"},
		nil,
	},
	Reader: {
		{"kms:Decrypt", "kms:DescribeKey"},
		nil,
	},
	Rewrapper: {
		{"kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:DescribeKey"},
		nil,
	},
	Auditor: {
		{"kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:GetKeyLastUsage", "kms:ListAliases",
			"kms:ListGrants", "kms:ListKeyPolicies", "kms:ListKeyRotations", "kms:ListResourceTags"},
		{"kms:ListKeys", "kms:ListRetirableGrants"},
	},
}

// Valid tells whether r is one of Roles.
func (r Role) Valid() bool { return slices.Contains(Roles(), r) }

// Actions returns the permissions of the role: those in a key policy, and with IdentityPolicy those without a CMK too.
func (r Role) Actions(kind Kind) []string {
	all := slices.Clone(actions[r][0])
	if kind == IdentityPolicy {
		all = append(all, actions[r][1]...)
	}
	return all
}

// statementJSON is a statement as kmsfs writes one.
type statementJSON struct {
	Sid       string              `json:"Sid"`
	Effect    string              `json:"Effect"`
	Principal map[string][]string `json:"Principal,omitempty"`
	Action    []string            `json:"Action"`
	Resource  string              `json:"Resource"`
}

// documentJSON is a policy as kmsfs writes one.
type documentJSON struct {
	Version   string          `json:"Version"`
	ID        string          `json:"Id"`
	Statement []statementJSON `json:"Statement"`
}

// marshal returns the text of the policy.
func (d documentJSON) marshal() string {
	d.Version = "2012-10-17"
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		panic("policy: strings do not marshal: " + err.Error()) // cannot be
	}
	return string(b)
}

// Identity returns the text of the identity policy of the role, for all CMKs.
func (r Role) Identity() string {
	return documentJSON{ID: "kmsfs-" + string(r), Statement: []statementJSON{
		{Sid: string(r), Effect: "Allow", Action: r.Actions(IdentityPolicy), Resource: "*"}}}.marshal()
}

// Assignments says which principals, by their ARNs, have which role in a key policy.
type Assignments map[Role][]string

// KeyPolicyFor returns the text of a key policy that gives each principal its role and leaves nothing to identity
// policies. It needs an administrator, or nobody could ever change it: PutKeyPolicy refuses it otherwise.
func KeyPolicyFor(roles Assignments) string {
	d := documentJSON{ID: "kmsfs-roles"}
	for _, r := range Roles() {
		if len(roles[r]) > 0 {
			d.Statement = append(d.Statement, statementJSON{Sid: string(r), Effect: "Allow",
				Principal: map[string][]string{"AWS": roles[r]}, Action: r.Actions(KeyPolicy), Resource: "*"})
		}
	}
	return d.marshal()
}

// Default returns the text of the key policy of a CMK that was made without one: all is left to the identity policies
// of the account.
func Default(account string) string {
	return documentJSON{ID: "key-default-1", Statement: []statementJSON{{
		Sid: "Enable IAM User Permissions", Effect: "Allow", Principal: map[string][]string{"AWS": {rootARN(account)}},
		Action: []string{"kms:*"}, Resource: "*"}}}.marshal()
}

// DefaultManaged returns the text of the key policy of an AWS managed CMK, which nobody can change: identity policies of
// the account may allow its use and a look at it, and nothing else.
func DefaultManaged(account string) string {
	return documentJSON{ID: "auto-kmsfs-1", Statement: []statementJSON{{
		Sid:    "Allow use by principals that identity policies of the account allow it",
		Effect: "Allow", Principal: map[string][]string{"AWS": {rootARN(account)}},
		Action: []string{"kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*", "kms:Get*",
			"kms:List*"},
		Resource: "*"}}}.marshal()
}
