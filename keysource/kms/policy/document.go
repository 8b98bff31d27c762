package policy

import (
	"fmt"
	"log/slog"

	"kmsfs/keysource"
)

// MaxSize is the largest policy in bytes, the limit of AWS KMS.
const MaxSize = 32 << 10

// Kind says what a policy is attached to.
type Kind int

// The kinds of policy.
const (
	// KeyPolicy is attached to a CMK: its statements name principals.
	KeyPolicy Kind = iota
	// IdentityPolicy is attached to a user or a role, which is its principal.
	IdentityPolicy
)

// Document is a policy. It is safe for concurrent use.
type Document struct {
	text       string
	kind       Kind
	statements []statement
}

// statement is one statement of a policy.
type statement struct {
	sid        string
	effect     effect
	principals *principals // nil in an identity policy
	actions    patterns
	resources  patterns
	conditions []condition
}

// effect is what a statement that applies does.
type effect int

// The effects.
const (
	allow effect = iota
	deny
)

// patterns are the Action or NotAction, Resource or NotResource of a statement.
type patterns struct {
	list    []string
	not     bool
	letters letters
}

// match tells whether s is meant.
func (p patterns) match(s string) bool {
	for _, pattern := range p.list {
		if glob(pattern, s, p.letters) {
			return !p.not
		}
	}
	return p.not
}

// String returns the policy as it was written.
func (d *Document) String() string { return d.text }

// MarshalText implements encoding.TextMarshaler with the policy as it was written.
func (d *Document) MarshalText() ([]byte, error) { return []byte(d.text), nil }

// LogValue implements slog.LogValuer.
func (d *Document) LogValue() slog.Value { return slog.StringValue(d.text) }

// malformed is AWS's error for a policy that is not understood.
func malformed(format string, args ...any) error {
	return keysource.NewError("", "", keysource.CodeMalformedPolicy, fmt.Sprintf(format, args...))
}
