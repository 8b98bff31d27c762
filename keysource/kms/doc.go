// Package kms is the service: the operations of AWS KMS, typed, over a local key store, for callers who may do only
// what policies and grants allow.
//
// Start with [New]. Each operation of AWS KMS is a method of [Service] of the same name, with an input and an output
// whose JSON is AWS's; [Operations] lists them for who serves them by name. A [Call] says who calls, and collects what
// an audit log wants to know.
//
// What it guarantees: every operation is refused unless the key policy, the caller's own policies where the key policy
// leaves the decision to them, or a grant allows it; an explicit deny wins; a policy that cannot be evaluated allows
// nothing. Errors are keysource errors with AWS's exception names and sentences, and hold no secret. The order of
// checks is AWS's: the form of the request, the CMK, permission, key state, and only then the work or the dry run.
//
// What it does not: it neither authenticates callers nor limits rates. It holds no lock of its own across a call of
// the store.
package kms
