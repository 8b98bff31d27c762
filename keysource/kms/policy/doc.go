// Package policy is the policy language of AWS KMS: key policies and identity policies in JSON.
//
// Start with [Parse], which refuses every policy that it would not evaluate to the letter: an unknown element, operator
// or condition key in a Deny would otherwise silently allow. [Decide] answers a request from a key policy and the
// caller's identity policies: an explicit deny anywhere wins; then what the key policy allows, by itself or by leaving
// the decision to the caller's account, whose identity policies then must allow it; all else is denied. [Role] has
// ready-made policies for people who administer keys, use them, or look on.
//
// A [Document] does not change and is safe for concurrent use. The subset of the language is in
// keysource/PROTOCOL.md, "Policies".
package policy
