package kms

import (
	"strconv"
	"strings"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// permission is what an operation asks of policies and grants.
type permission struct {
	// action is the permission without "kms:".
	action string
	// cryptographic operations have an encryption algorithm and may have an encryption context.
	cryptographic bool
	context       keysource.Context
	// alias is the one that the request names the CMK by.
	alias string
	// values are further condition keys, in lower case.
	values map[string][]string
	// tags are those in the request.
	tags []keysource.Tag
	// create is the grant that is to be made with the permission.
	create *keysource.Grant
}

// cachedPolicy is a parsed key policy.
type cachedPolicy struct {
	text string
	doc  *policy.Document // nil where the text is no policy: it allows nothing
}

// policyText is the key policy of a CMK, also of one that was made without.
func policyText(k *local.Key) string {
	switch {
	case k.Policy != "":
		return k.Policy
	case k.KeyManager == keysource.ManagerAWS:
		return policy.DefaultManaged(k.AccountID)
	}
	return policy.Default(k.AccountID)
}

// policy returns the parsed key policy of a CMK.
func (s *Service) policy(k *local.Key) *policy.Document {
	if c, ok := s.policies.Load(k.KeyID); ok {
		if c := c.(*cachedPolicy); c.text == k.Policy {
			return c.doc
		}
	}
	doc, err := policy.Parse(policyText(k), policy.KeyPolicy)
	if err != nil {
		doc = nil
	}
	s.policies.Store(k.KeyID, &cachedPolicy{k.Policy, doc})
	return doc
}

// authorize refuses, as AccessDeniedException, what neither the policies nor a grant allow.
func (r *request) authorize(k *local.Key, p permission) error {
	ask := r.ask(k, p)
	decision := policy.Decide(r.s.policy(k), r.c.Caller.Policies, ask)
	if decision == policy.Allowed {
		return nil
	}
	if decision == policy.ImplicitDeny || decision == policy.Delegated {
		if g := r.granting(k, p); g != nil {
			r.c.Audit.GrantID = g.ID
			return nil
		}
	}
	return r.denied(ask, decision)
}

// authorizeAccount refuses what the identity policies of the caller do not allow, for operations on no CMK. The root
// user of the account may do everything that no policy denies it, and other accounts nothing.
func (r *request) authorizeAccount(resource string, p permission) error {
	ask := r.ask(nil, p)
	ask.Resource = resource
	decision := policy.DecideIdentity(r.c.Caller.Policies, ask)
	mayDecide := r.c.Caller.AccountID == r.s.account
	if mayDecide && (decision == policy.Allowed || decision == policy.ImplicitDeny && r.c.Caller.root()) {
		return nil
	}
	return r.denied(ask, decision)
}

// ask is the question to the policies.
func (r *request) ask(k *local.Key, p permission) *policy.Request {
	ask := &policy.Request{Principal: r.principal, Action: "kms:" + p.action, ResourceAccount: r.c.Caller.AccountID,
		Condition: func(key string) []string { return r.condition(k, &p, key) }}
	if k != nil {
		ask.Resource, ask.ResourceAccount = k.ARN, k.AccountID
	}
	return ask
}

// denied is AWS's error for a request that was not allowed.
func (r *request) denied(ask *policy.Request, d policy.Decision) error {
	why := "because no identity-based policy allows the " + ask.Action + " action"
	switch {
	case d == policy.DeniedByKeyPolicy:
		why = "with an explicit deny in a resource-based policy"
	case d == policy.DeniedByIdentityPolicy:
		why = "with an explicit deny in an identity-based policy"
	case d == policy.ImplicitDeny && strings.Contains(ask.Resource, ":key/"):
		why = "because no resource-based policy allows the " + ask.Action + " action"
	}
	return r.refuse("", keysource.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s %s",
		r.c.Caller.ARN, ask.Action, ask.Resource, why)
}

// condition returns the values of a condition key of the request.
func (r *request) condition(k *local.Key, p *permission, key string) []string {
	if v, ok := p.values[key]; ok {
		return v
	}
	if v := r.callerCondition(key); v != nil {
		return v
	}
	if v := requestCondition(p, key); v != nil {
		return v
	}
	if key == "kms:requestalias" && p.alias != "" {
		return []string{p.alias}
	}
	if k == nil {
		return nil
	}
	switch key {
	case "aws:resourceaccount":
		return []string{k.AccountID}
	case "kms:keyorigin":
		return []string{string(k.Origin)}
	case "kms:keyspec":
		return []string{symmetric}
	case "kms:keyusage":
		return []string{encryptDecrypt}
	case "kms:multiregion":
		return []string{"false"}
	case "kms:resourcealiases":
		return k.Aliases
	case "kms:encryptionalgorithm":
		if p.cryptographic {
			return []string{symmetric}
		}
	}
	if name, ok := strings.CutPrefix(key, "aws:resourcetag/"); ok {
		return foldedTag(k.Tags, name)
	}
	return nil
}

// callerCondition returns the values of a condition key about the caller.
func (r *request) callerCondition(key string) []string {
	c := &r.c.Caller
	switch key {
	case "kms:calleraccount", "aws:principalaccount":
		return []string{c.AccountID}
	case "aws:principalarn":
		return []string{r.principal.ARN}
	case "aws:principaltype":
		switch {
		case c.root():
			return []string{"Account"}
		case strings.Contains(r.principal.ARN, ":role/"):
			return []string{"AssumedRole"}
		}
		return []string{"User"}
	case "aws:username":
		return some(c.UserName)
	case "aws:userid":
		return some(c.PrincipalID)
	case "aws:securetransport":
		return []string{strconv.FormatBool(r.c.SecureTransport)}
	case "aws:sourceip":
		if r.c.SourceIP.IsValid() {
			return []string{r.c.SourceIP.Unmap().WithZone("").String()}
		}
	}
	if name, ok := strings.CutPrefix(key, "aws:principaltag/"); ok {
		return folded(c.Tags, name)
	}
	return nil
}

// requestCondition returns the values of a condition key about the encryption context or the tags of the request.
func requestCondition(p *permission, key string) []string {
	var names []string
	switch key {
	case "kms:encryptioncontextkeys":
		for name := range p.context {
			names = append(names, name)
		}
		return names
	case "aws:tagkeys":
		for _, t := range p.tags {
			names = append(names, t.Key)
		}
		return names
	}
	if name, ok := strings.CutPrefix(key, "kms:encryptioncontext:"); ok {
		return folded(p.context, name)
	}
	if name, ok := strings.CutPrefix(key, "aws:requesttag/"); ok {
		return foldedTag(p.tags, name)
	}
	return nil
}

// some is a list of s, or nil where it is empty.
func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// folded are the values in m whose names differ from name at most in case.
func folded(m map[string]string, name string) []string {
	var values []string
	for n, v := range m {
		if strings.EqualFold(n, name) {
			values = append(values, v)
		}
	}
	return values
}

// foldedTag is folded for tags.
func foldedTag(tags []keysource.Tag, name string) []string {
	var values []string
	for _, t := range tags {
		if strings.EqualFold(t.Key, name) {
			values = append(values, t.Value)
		}
	}
	return values
}

// number is the text of a number in a condition key.
func number(n int) []string { return []string{strconv.Itoa(n)} }
