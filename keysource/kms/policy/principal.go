package policy

import (
	"strings"
)

// Principal is who makes a request.
type Principal struct {
	// ARN is that of the user, role or account root.
	ARN string
	// SessionARN is arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION where a role was assumed, else empty.
	SessionARN string
	// AccountID is the 12 digits of the account.
	AccountID string
}

// principals are the Principal or NotPrincipal of a statement.
type principals struct {
	any      bool
	arns     []string
	accounts []string
	not      bool
}

// principalMatch says how a statement names a principal.
type principalMatch int

// The ways of naming a principal.
const (
	notNamed  principalMatch = iota
	byAccount                // the statement names the account of the principal
	byName                   // the statement names the principal itself, or everybody
)

// match tells whether and how p is meant by a Principal; see denies for NotPrincipal.
func (ps *principals) match(p Principal) principalMatch {
	if ps.any {
		return byName
	}
	for _, arn := range ps.arns {
		if arn == p.ARN || p.SessionARN != "" && arn == p.SessionARN {
			return byName
		}
	}
	for _, account := range ps.accounts {
		if account == p.AccountID {
			if p.ARN == rootARN(account) {
				return byName
			}
			return byAccount
		}
	}
	return notNamed
}

// denies tells whether a Deny statement is meant for p. Naming the account denies all in it; but a NotPrincipal spares
// only whom it names.
func (ps *principals) denies(p Principal) bool {
	if ps.not {
		return ps.match(p) != byName
	}
	return ps.match(p) != notNamed
}

// rootARN is the account as a principal.
func rootARN(account string) string { return "arn:aws:iam::" + account + ":root" }

// parsePrincipals reads Principal or NotPrincipal.
func parsePrincipals(v any, not bool) (*principals, error) {
	ps := &principals{not: not}
	if v == "*" {
		ps.any = true
		return ps, nil
	}
	obj, ok := v.(object)
	if !ok || len(obj) == 0 {
		return nil, errPrincipal("")
	}
	for _, m := range obj {
		list, ok := texts(m.value)
		if !ok {
			return nil, errPrincipal(m.name)
		}
		switch m.name {
		case "AWS":
			for _, text := range list {
				if err := ps.add(text); err != nil {
					return nil, err
				}
			}
		case "Service":
			// AWS services do not call here, so that the statement is for nobody. As an exception of a Deny it spares
			// nobody either.
			for _, text := range list {
				if text == "" || strings.ContainsAny(text, "*?${} ") {
					return nil, errPrincipal(text)
				}
			}
		default:
			return nil, errPrincipal(m.name)
		}
	}
	return ps, nil
}

// add takes one principal of the kind AWS.
func (ps *principals) add(text string) error {
	switch account, ok := strings.CutPrefix(text, "arn:aws:iam::"); {
	case text == "*":
		ps.any = true
		return nil
	case isAccount(text):
		ps.accounts = append(ps.accounts, text)
		return nil
	case ok && strings.HasSuffix(account, ":root") && isAccount(strings.TrimSuffix(account, ":root")):
		ps.accounts = append(ps.accounts, strings.TrimSuffix(account, ":root"))
		return nil
	}
	if !ValidPrincipal(text) {
		return errPrincipal(text)
	}
	ps.arns = append(ps.arns, text)
	return nil
}

// ValidPrincipal tells whether arn has the form of the ARN of a user, role, assumed role or account root.
func ValidPrincipal(arn string) bool {
	if len(arn) > 2048 || strings.ContainsFunc(arn, func(r rune) bool {
		return r > '~' || r <= ' ' || strings.ContainsRune("*?${}\"\\", r)
	}) {
		return false
	}
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[1] != "aws" || parts[3] != "" || !isAccount(parts[4]) {
		return false
	}
	if parts[2] == "iam" && parts[5] == "root" {
		return true
	}
	kind, name, _ := strings.Cut(parts[5], "/")
	switch parts[2] {
	case "iam":
		return (kind == "user" || kind == "role") && name != ""
	case "sts":
		role, session, _ := strings.Cut(name, "/")
		return kind == "assumed-role" && role != "" && session != "" && !strings.Contains(session, "/")
	}
	return false
}

// isAccount tells whether s is 12 digits.
func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}

// errPrincipal is AWS's error for a principal that is none.
func errPrincipal(text string) error {
	if text == "" {
		return malformed("Policy contains a statement with one or more invalid principals.")
	}
	return malformed("Policy contains a statement with one or more invalid principals: %q.", clip(text))
}
