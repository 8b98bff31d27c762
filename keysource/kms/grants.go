package kms

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// grantNameForm is that of AWS KMS.
var grantNameForm = regexp.MustCompile(`^[a-zA-Z0-9:/_-]{0,256}$`)

// Limits of AWS KMS on the encryption context in the constraints of a grant.
const (
	maxConstraintPairs = 8
	maxConstraintSize  = 384 // characters of a name or value
)

// CreateGrant lets a principal use a CMK. It needs the permission, or a grant with CreateGrant that gives as much.
func (s *Service) CreateGrant(ctx context.Context, c *Call, in *CreateGrantInput) (*CreateGrantOutput, error) {
	return serve(s, c, "CreateGrant", in, func(r *request) (*CreateGrantOutput, error) {
		g, err := r.newGrant(in)
		if err != nil {
			return nil, err
		}
		p := permission{action: r.op, create: &g, values: map[string][]string{
			"kms:grantoperations": g.Operations, "kms:granteeprincipal": {g.GranteePrincipal},
			"kms:grantisforawsresource": {"false"}}}
		if g.RetiringPrincipal != "" {
			p.values["kms:retiringprincipal"] = []string{g.RetiringPrincipal}
		}
		switch {
		case g.ContextEquals != nil:
			p.values["kms:grantconstrainttype"] = []string{"EncryptionContextEquals"}
		case g.ContextSubset != nil:
			p.values["kms:grantconstrainttype"] = []string{"EncryptionContextSubset"}
		}
		k, err := r.key(ctx, "KeyId", in.KeyID, byID)
		if err == nil {
			err = first(r.authorize(k, p), r.allowed(k))
		}
		if err != nil {
			return nil, err
		}
		if in.DryRun {
			return nil, r.dryRun(k)
		}
		if g, err = s.store.CreateGrant(ctx, keysource.KeyRef(k.ARN), g); err != nil {
			return nil, err
		}
		c.Audit.ResponseElements = map[string]any{"grantId": g.ID, "keyId": k.ARN}
		return &CreateGrantOutput{GrantToken: grantToken(k.KeyID, g.ID), GrantID: g.ID}, nil
	})
}

// newGrant reads a CreateGrantInput.
func (r *request) newGrant(in *CreateGrantInput) (keysource.Grant, error) {
	g := keysource.Grant{Name: in.Name, GranteePrincipal: in.GranteePrincipal, RetiringPrincipal: in.RetiringPrincipal,
		IssuingAccount: "arn:aws:iam::" + r.c.Caller.AccountID + ":root", Operations: slices.Clone(in.Operations)}
	if in.GranteePrincipal == "" {
		return g, r.null("GranteePrincipal")
	}
	if len(in.Operations) == 0 {
		return g, r.null("Operations")
	}
	if len(in.Operations) > len(grantOperations) {
		return g, r.invalid("Operations", fmt.Sprintf("have length less than or equal to %d", len(grantOperations)))
	}
	if !grantNameForm.MatchString(in.Name) {
		return g, r.invalid("Name", "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$")
	}
	for _, arn := range []string{in.GranteePrincipal, in.RetiringPrincipal} {
		if arn != "" && (!policy.ValidPrincipal(arn) || len(arn) > 256) {
			return g, r.refuse("", keysource.CodeInvalidARN, "ARN is not that of a user, a role or an account: %s", clip(arn))
		}
	}
	for _, op := range in.Operations {
		if err := r.oneOf("Operations", op, grantOperations...); err != nil || op == "" {
			return g, first(err, r.null("Operations"))
		}
	}
	slices.Sort(g.Operations)
	g.Operations = slices.Compact(g.Operations)
	if in.Constraints != nil {
		g.ContextEquals, g.ContextSubset = in.Constraints.EncryptionContextEquals, in.Constraints.EncryptionContextSubset
		if g.ContextEquals != nil && g.ContextSubset != nil {
			return g, r.invalid("Constraints", "have one of EncryptionContextEquals and EncryptionContextSubset")
		}
	}
	return g, first(r.constraint(g.ContextEquals), r.constraint(g.ContextSubset), r.grantTokens(in.GrantTokens))
}

// constraint bounds an encryption context in a grant.
func (r *request) constraint(ec keysource.Context) error {
	if len(ec) > maxConstraintPairs {
		return r.invalid("Constraints", "have at most 8 pairs")
	}
	for name, value := range ec {
		if len(name) > maxConstraintSize || len(value) > maxConstraintSize {
			return r.invalid("Constraints", "have names and values of at most 384 characters")
		}
	}
	return ec.Validate()
}

// ListGrants lists the grants of a CMK, by id.
func (s *Service) ListGrants(ctx context.Context, c *Call, in *ListGrantsInput) (*ListGrantsOutput, error) {
	return serve(s, c, "ListGrants", in, func(r *request) (*ListGrantsOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		var list []GrantListEntry
		for _, g := range k.Grants {
			if (in.GrantID == "" || in.GrantID == g.ID) && (in.GranteePrincipal == "" || in.GranteePrincipal == g.GranteePrincipal) {
				list = append(list, grantEntry(k.ARN, g))
			}
		}
		p, err := paged(r, list, func(g GrantListEntry) string { return g.GrantID }, in.Limit, 100, 50, in.Marker)
		if err != nil {
			return nil, err
		}
		return &ListGrantsOutput{Grants: p.items, NextMarker: p.next, Truncated: p.truncated}, nil
	})
}

// ListRetirableGrants lists the grants of all CMKs that a principal may retire.
func (s *Service) ListRetirableGrants(ctx context.Context, c *Call, in *ListRetirableGrantsInput) (*ListRetirableGrantsOutput, error) {
	return serve(s, c, "ListRetirableGrants", in, func(r *request) (*ListRetirableGrantsOutput, error) {
		if in.RetiringPrincipal == "" {
			return nil, r.null("RetiringPrincipal")
		}
		if err := r.authorizeAccount("*", permission{action: r.op}); err != nil {
			return nil, err
		}
		keys, err := s.store.Keys(ctx)
		if err != nil {
			return nil, err
		}
		var list []GrantListEntry
		for _, k := range keys {
			for _, g := range k.Grants {
				if g.RetiringPrincipal == in.RetiringPrincipal {
					list = append(list, grantEntry(k.ARN, g))
				}
			}
		}
		p, err := paged(r, list, func(g GrantListEntry) string { return g.GrantID }, in.Limit, 100, 50, in.Marker)
		if err != nil {
			return nil, err
		}
		return &ListRetirableGrantsOutput{Grants: p.items, NextMarker: p.next, Truncated: p.truncated}, nil
	})
}

// grantEntry describes a grant as AWS does.
func grantEntry(arn string, g keysource.Grant) GrantListEntry {
	e := GrantListEntry{KeyID: arn, GrantID: g.ID, Name: g.Name, CreationDate: newTime(g.CreationDate),
		GranteePrincipal: g.GranteePrincipal, RetiringPrincipal: g.RetiringPrincipal, IssuingAccount: g.IssuingAccount,
		Operations: g.Operations}
	if g.ContextEquals != nil || g.ContextSubset != nil {
		e.Constraints = &GrantConstraints{EncryptionContextEquals: g.ContextEquals, EncryptionContextSubset: g.ContextSubset}
	}
	return e
}

// RetireGrant ends a grant, named by its token, or by CMK and id. Its retiring principal may do that, its grantee where
// the grant says so, and who has the permission.
func (s *Service) RetireGrant(ctx context.Context, c *Call, in *RetireGrantInput) (*NoOutput, error) {
	return serve(s, c, "RetireGrant", in, func(r *request) (*NoOutput, error) {
		ref, id := in.KeyID, in.GrantID
		switch {
		case in.GrantToken != "" && (ref != "" || id != ""):
			return nil, r.refuse("", keysource.CodeValidation, "Specify either a grant token, or a key ARN and a grant ID.")
		case in.GrantToken != "":
			var ok bool
			if ref, id, ok = parseGrantToken(in.GrantToken); !ok {
				return nil, r.refuse("", keysource.CodeInvalidGrantToken, "The grant token is not valid.")
			}
		case id == "":
			return nil, r.null("GrantId")
		}
		k, err := r.key(ctx, "KeyId", ref, byID)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(k.Grants, func(g keysource.Grant) bool { return g.ID == id })
		var g *keysource.Grant
		if i >= 0 {
			g = &k.Grants[i]
			c.Audit.GrantID = g.ID
		}
		if err := r.authorizeRetire(k, g); err != nil {
			return nil, err
		}
		if g == nil {
			return nil, r.refuse("", keysource.CodeNotFound, "Grant ID %s is not found.", clip(id))
		}
		if in.DryRun {
			return nil, r.dryRun(k)
		}
		return done(s.store.RevokeGrant(ctx, keysource.KeyRef(k.ARN), id))
	})
}

// authorizeRetire refuses who may not retire g; nil is a grant that is not there. A grant lets a principal retire itself and
// no other, and an explicit deny wins over it.
func (r *request) authorizeRetire(k *local.Key, g *keysource.Grant) error {
	ask := r.ask(k, permission{action: r.op})
	decision := policy.Decide(r.s.policy(k), r.c.Caller.Policies, ask)
	switch {
	case decision == policy.Allowed:
		return nil
	case decision == policy.DeniedByKeyPolicy, decision == policy.DeniedByIdentityPolicy:
	case g != nil && r.retires(g):
		return nil
	}
	return r.denied(ask, decision)
}

// retires tells whether the grant itself lets the caller retire it.
func (r *request) retires(g *keysource.Grant) bool {
	return r.isCaller(g.RetiringPrincipal) || r.isCaller(g.GranteePrincipal) && slices.Contains(g.Operations, r.op)
}

// RevokeGrant ends a grant at once.
func (s *Service) RevokeGrant(ctx context.Context, c *Call, in *RevokeGrantInput) (*NoOutput, error) {
	return serve(s, c, "RevokeGrant", in, func(r *request) (*NoOutput, error) {
		if in.GrantID == "" {
			return nil, r.null("GrantId")
		}
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(k.Grants, func(g keysource.Grant) bool { return g.ID == in.GrantID }) {
			return nil, r.refuse("", keysource.CodeNotFound, "Grant ID %s is not found.", clip(in.GrantID))
		}
		if in.DryRun {
			return nil, r.dryRun(k)
		}
		return done(s.store.RevokeGrant(ctx, keysource.KeyRef(k.ARN), in.GrantID))
	})
}

// clip bounds text of the caller's in a message.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 256)], "?") }
