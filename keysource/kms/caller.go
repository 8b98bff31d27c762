package kms

import (
	"strings"

	"kmsfs/keysource/kms/policy"
)

// Caller is who makes a call, authenticated by whom serves it.
type Caller struct {
	// ARN is arn:aws:iam::ACCOUNT:user/NAME, arn:aws:iam::ACCOUNT:role/NAME, arn:aws:iam::ACCOUNT:root, or
	// arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION.
	ARN string
	// AccountID is the 12 digits of the caller's account.
	AccountID string
	// UserName is the name of a user, empty for others.
	UserName string
	// PrincipalID is the unique id of the user or role, for the audit log.
	PrincipalID string
	// AccessKeyID is the access key that signed the call, for the audit log.
	AccessKeyID string
	// Tags are those of the user or role, for aws:PrincipalTag conditions.
	Tags map[string]string
	// Policies are the identity policies: those attached to the user or role. They allow where the key policy leaves
	// the decision to the account, and deny everywhere.
	Policies []*policy.Document
}

// root tells whether the caller is the root user of its account.
func (c *Caller) root() bool { return c.ARN == "arn:aws:iam::"+c.AccountID+":root" }

// principal is the caller as policies see it.
func (c *Caller) principal() policy.Principal {
	p := policy.Principal{ARN: c.ARN, AccountID: c.AccountID}
	if session, ok := strings.CutPrefix(c.ARN, "arn:aws:sts::"+c.AccountID+":assumed-role/"); ok {
		role, _, _ := strings.Cut(session, "/")
		p.ARN, p.SessionARN = "arn:aws:iam::"+c.AccountID+":role/"+role, c.ARN
	}
	return p
}
