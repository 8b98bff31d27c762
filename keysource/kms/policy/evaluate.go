package policy

// Request is what a policy is asked: may the principal perform the action on the resource?
type Request struct {
	// Principal is who asks.
	Principal Principal
	// Action is "kms:" and the name of a permission: "kms:Decrypt", "kms:ReEncryptFrom".
	Action string
	// Resource is the ARN of a CMK or alias, or "*" for operations on none.
	Resource string
	// ResourceAccount is the 12 digits of the account of the resource.
	ResourceAccount string
	// Condition returns the values of a condition key, or nil where the request does not have it; nil is no keys at all.
	// The key is in lower case, but for what follows kms:encryptioncontext:, aws:principaltag/, aws:requesttag/ and
	// aws:resourcetag/, where case does not matter.
	Condition func(key string) []string
}

// lookup returns the values of a condition key.
func (r *Request) lookup(key string) []string {
	if r.Condition == nil {
		return nil
	}
	return r.Condition(key)
}

// Decision is the answer to a request.
type Decision int

// The decisions. All but Allowed refuse.
const (
	// ImplicitDeny is the default: nothing allows the request.
	ImplicitDeny Decision = iota
	// Delegated is that the key policy leaves the decision to identity policies, and these do not allow the request.
	Delegated
	// Allowed is that it may be done.
	Allowed
	// DeniedByKeyPolicy and DeniedByIdentityPolicy are an explicit deny.
	DeniedByKeyPolicy
	DeniedByIdentityPolicy
)

// Decide answers a request from the key policy of the CMK and the identity policies of the caller. A nil key policy
// allows nothing. For an operation on no CMK use DecideIdentity.
func Decide(key *Document, identity []*Document, r *Request) Decision {
	byKey := key.evaluate(r)
	byIdentity := DecideIdentity(identity, r)
	switch {
	case byKey == DeniedByKeyPolicy, byIdentity == DeniedByIdentityPolicy:
		return max(byKey, byIdentity)
	case byKey == Allowed && r.Principal.AccountID == r.ResourceAccount:
		return Allowed
	case byKey == ImplicitDeny:
		return ImplicitDeny
	case byIdentity == Allowed: // by delegation, or from another account, where both must allow
		return Allowed
	}
	return Delegated
}

// DecideIdentity answers a request from identity policies alone: Allowed, ImplicitDeny or DeniedByIdentityPolicy.
func DecideIdentity(identity []*Document, r *Request) Decision {
	decision := ImplicitDeny
	for _, d := range identity {
		decision = max(decision, d.evaluate(r))
	}
	return decision
}

// evaluate answers what one policy says.
func (d *Document) evaluate(r *Request) Decision {
	decision := ImplicitDeny
	if d == nil {
		return decision
	}
	for i := range d.statements {
		s := &d.statements[i]
		if !s.names(r.Principal) || !s.actions.match(r.Action) || !s.resources.match(r.Resource) || !s.holds(r) {
			continue
		}
		switch {
		case s.effect == deny && d.kind == KeyPolicy:
			return DeniedByKeyPolicy
		case s.effect == deny:
			return DeniedByIdentityPolicy
		case s.principals == nil || s.principals.match(r.Principal) == byName:
			decision = Allowed
		default:
			decision = max(decision, Delegated)
		}
	}
	return decision
}

// names tells whether the statement is about the principal.
func (s *statement) names(p Principal) bool {
	switch {
	case s.principals == nil:
		return true
	case s.effect == deny:
		return s.principals.denies(p)
	}
	return s.principals.match(p) != notNamed
}

// holds tells whether all conditions hold.
func (s *statement) holds(r *Request) bool {
	for i := range s.conditions {
		if !s.conditions[i].holds(r, s.effect) {
			return false
		}
	}
	return true
}
