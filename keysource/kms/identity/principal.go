package identity

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
)

// Kind tells users from roles.
type Kind string

// The kinds.
const (
	// User is for a person or a host.
	User Kind = "user"
	// Role is for a task that several may have.
	Role Kind = "role"
)

// Limits.
const (
	// MaxAccessKeys is how many access keys a principal has at most, as in AWS IAM: one in use and its successor.
	MaxAccessKeys = 2
	// MaxPolicies is how many policies are attached to a principal at most.
	MaxPolicies = 20
)

// Principal is a user or role.
type Principal struct {
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name"`
	ID      string    `json:"id"` // unique for ever, also when the name is used again
	Created time.Time `json:"created"`
	// Policies are attached to it, by name.
	Policies []Policy `json:"policies,omitempty"`
	// AccessKeys are its access keys, the oldest first.
	AccessKeys []AccessKey `json:"access_keys,omitempty"`
}

// Policy is an identity policy attached to a principal.
type Policy struct {
	// Name is its name; without a Document that of a ready-made policy.
	Name string `json:"name"`
	// Document is AWS's JSON; empty for a ready-made policy.
	Document string `json:"document,omitempty"`
}

// AccessKey signs requests of a principal.
type AccessKey struct {
	ID      string    `json:"id"`
	Secret  Secret    `json:"secret"`
	Created time.Time `json:"created"`
	// Disabled keys sign nothing, and can be enabled again.
	Disabled bool `json:"disabled,omitempty"`
}

// Status is Active or Inactive, AWS's words.
func (k *AccessKey) Status() string {
	if k.Disabled {
		return "Inactive"
	}
	return "Active"
}

// Secret is a secret access key. It is shown in JSON and by string(s), and nowhere else.
type Secret string

// redacted is what every way of printing a Secret shows.
const redacted = "[redacted]"

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// ARN is the principal's full name in an account.
func (p *Principal) ARN(account string) string {
	return "arn:aws:iam::" + account + ":" + string(p.Kind) + "/" + p.Name
}

// key finds one of the principal's access keys.
func (p *Principal) key(id string) *AccessKey {
	for i := range p.AccessKeys {
		if p.AccessKeys[i].ID == id {
			return &p.AccessKeys[i]
		}
	}
	return nil
}

// nameForm is what AWS IAM takes as a name.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,64}$`)

// checkName refuses a name that AWS IAM would.
func checkName(what, name string) error {
	if nameForm.MatchString(name) {
		return nil
	}
	return fail(keysource.CodeValidation, "%q is not a name of a %s: 1 to 64 letters, digits and _+=,.@-", name, what)
}

// fail is a keysource error.
func fail(code, format string, args ...any) error {
	return keysource.NewError("", "", code, fmt.Sprintf(format, args...))
}

// errNoPolicy is for a name that no ready-made policy has.
func errNoPolicy(name string) error {
	return fail(keysource.CodeNotFound, "no ready-made policy %q: there are %v", name, policy.Roles())
}
