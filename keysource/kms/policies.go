package kms

import (
	"context"
	"strconv"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// policyName is the only name of a key policy.
const policyName = "default"

// PutKeyPolicy replaces the key policy of a CMK. Unless it is told to bypass the check, it refuses one that would not let
// the caller change it again.
func (s *Service) PutKeyPolicy(ctx context.Context, c *Call, in *PutKeyPolicyInput) (*NoOutput, error) {
	return serve(s, c, "PutKeyPolicy", in, func(r *request) (*NoOutput, error) {
		if in.Policy == "" {
			return nil, r.null("Policy")
		}
		if err := first(r.policyName(in.PolicyName), r.policyForm(in.Policy)); err != nil {
			return nil, err
		}
		k, err := r.administered(ctx, in.KeyID, permission{values: map[string][]string{
			"kms:bypasspolicylockoutsafetycheck": {strconv.FormatBool(in.BypassPolicyLockoutSafetyCheck)}}})
		if err != nil {
			return nil, err
		}
		doc, err := policy.Parse(in.Policy, policy.KeyPolicy)
		if err != nil {
			return nil, err
		}
		if !in.BypassPolicyLockoutSafetyCheck {
			if err := r.keeps(doc, k); err != nil {
				return nil, err
			}
		}
		return done(s.store.PutKeyPolicy(ctx, keysource.KeyRef(k.ARN), in.Policy))
	})
}

// keeps refuses a key policy after which the caller could not call PutKeyPolicy any more.
func (r *request) keeps(doc *policy.Document, k *local.Key) error {
	ask := r.ask(k, permission{action: "PutKeyPolicy"})
	if policy.Decide(doc, r.c.Caller.Policies, ask) == policy.Allowed {
		return nil
	}
	return r.refuse("", keysource.CodeMalformedPolicy, "The new key policy will not allow you to update the key policy in the future.")
}

// keepsAdministrator is keeps for a CMK that is still to be made. One without a policy has the default, which leaves
// all to identity policies.
func (r *request) keepsAdministrator(in keysource.CreateKeyInput) error {
	if in.Policy == "" {
		return nil
	}
	doc, err := policy.Parse(in.Policy, policy.KeyPolicy)
	if err != nil {
		return err
	}
	// Its id is not known yet, nor to the policy: an asterisk matches any.
	k := &local.Key{KeyMetadata: keysource.KeyMetadata{ARN: r.s.arnPrefix() + "key/new",
		AccountID: r.s.account, Origin: in.Origin}, Tags: in.Tags}
	return r.keeps(doc, k)
}

// policyName refuses all names but the one.
func (r *request) policyName(name string) error {
	if name != "" && name != policyName {
		return r.refuse("", keysource.CodeNotFound, "No such policy exists")
	}
	return nil
}

// policyForm bounds the text of a key policy.
func (r *request) policyForm(text string) error {
	if len(text) > policy.MaxSize {
		return r.refuse("", keysource.CodeLimitExceeded, "The key policy is longer than %d bytes.", policy.MaxSize)
	}
	for _, c := range text {
		if c != '\t' && c != '\n' && c != '\r' && (c < ' ' || c > 0xff) {
			return r.invalid("Policy", "satisfy regular expression pattern: [\\u0009\\u000A\\u000D\\u0020-\\u00FF]+")
		}
	}
	return nil
}

// GetKeyPolicy returns the key policy of a CMK.
func (s *Service) GetKeyPolicy(ctx context.Context, c *Call, in *GetKeyPolicyInput) (*GetKeyPolicyOutput, error) {
	return serve(s, c, "GetKeyPolicy", in, func(r *request) (*GetKeyPolicyOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err := first(err, r.policyName(in.PolicyName)); err != nil {
			return nil, err
		}
		return &GetKeyPolicyOutput{Policy: policyText(k), PolicyName: policyName}, nil
	})
}

// ListKeyPolicies lists the name of the key policy.
func (s *Service) ListKeyPolicies(ctx context.Context, c *Call, in *ListKeyPoliciesInput) (*ListKeyPoliciesOutput, error) {
	return serve(s, c, "ListKeyPolicies", in, func(r *request) (*ListKeyPoliciesOutput, error) {
		if _, err := r.administered(ctx, in.KeyID, permission{}); err != nil {
			return nil, err
		}
		p, err := paged(r, []string{policyName}, func(s string) string { return s }, in.Limit, 1000, 100, in.Marker)
		if err != nil {
			return nil, err
		}
		return &ListKeyPoliciesOutput{PolicyNames: p.items, NextMarker: p.next, Truncated: p.truncated}, nil
	})
}
