package kms

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// request is one operation under way.
type request struct {
	s         *Service
	c         *Call
	op        string
	principal policy.Principal
}

// serve performs one operation: it notes the request for the audit log, and gives errors the form of AWS.
func serve[In, Out any](s *Service, c *Call, op string, in *In, do func(r *request) (*Out, error)) (*Out, error) {
	c.Audit = Audit{Operation: op, RequestParameters: parameters(in)}
	r := &request{s: s, c: c, op: op, principal: c.Caller.principal()}
	out, err := do(r)
	if err != nil {
		return nil, r.failed(err)
	}
	return out, nil
}

// failed gives an error of the layers below the operation's name, and a code where it has none.
func (r *request) failed(err error) error {
	if e, ok := errors.AsType[*keysource.Error](err); ok && e.Code != "" {
		named := *e
		named.Op = r.op
		return &named
	}
	code, message := keysource.CodeInternal, "The request was rejected because of an internal failure."
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, local.ErrLocked) {
		code, message = keysource.CodeDependencyTimeout, "The request was not done in time."
	}
	e := keysource.NewError(r.op, "", code, message)
	e.Err = err
	return e
}

// refuse is an error of the operation about a CMK.
func (r *request) refuse(arn, code, format string, args ...any) error {
	return keysource.NewError(r.op, arn, code, fmt.Sprintf(format, args...))
}

// invalid is AWS's error for a member of the request that is out of its bounds. It shows no value.
func (r *request) invalid(member, constraint string) error {
	return r.refuse("", keysource.CodeValidation,
		"1 validation error detected: Value at '%s' failed to satisfy constraint: Member must %s", lowerFirst(member), constraint)
}

// null is AWS's error for a member that is missing.
func (r *request) null(member string) error {
	return r.refuse("", keysource.CodeValidation,
		"1 validation error detected: Value null at '%s' failed to satisfy constraint: Member must not be null", lowerFirst(member))
}

// oneOf refuses a value that is not in a list; the empty value is left out of the request and is none.
func (r *request) oneOf(member, value string, allowed ...string) error {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	return r.invalid(member, "satisfy enum value set: ["+strings.Join(allowed, ", ")+"]")
}

// length refuses text that is too long.
func (r *request) length(member, value string, most int) error {
	if len(value) > most {
		return r.invalid(member, fmt.Sprintf("have length less than or equal to %d", most))
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// naming says in which forms an operation takes a CMK, as AWS KMS has it.
type naming int

// The namings.
const (
	byID    naming = iota // key id or key ARN
	byAlias               // alias name or alias ARN too
)

// key finds the CMK that a member of the request names.
func (r *request) key(ctx context.Context, member, ref string, by naming) (*local.Key, error) {
	if ref == "" {
		return nil, r.null(member)
	}
	if by == byID && keysource.KeyRef(ref).IsAlias() {
		return nil, r.refuse("", keysource.CodeNotFound, "Invalid keyId %s", ref)
	}
	k, err := r.s.store.Key(ctx, keysource.KeyRef(ref))
	if err != nil {
		return nil, err
	}
	r.concerns(k.ARN, k.AccountID)
	return &k, nil
}

// concerns notes a CMK or alias for the audit log.
func (r *request) concerns(arn, account string) {
	r.c.Audit.Resources = append(r.c.Audit.Resources, Resource{ARN: arn, AccountID: account})
}

// requestAlias is the alias that ref names, or empty.
func requestAlias(ref string) string {
	p, err := keysource.KeyRef(ref).Parse()
	if err != nil {
		return ""
	}
	return p.Alias
}

// used notes the use of a CMK.
func (r *request) used(keyARN string) {
	if i := strings.LastIndexByte(keyARN, '/'); i >= 0 {
		r.s.store.NoteUse(keyARN[i+1:], local.Use{Operation: r.op, Time: r.s.cfg.Clock.Now().UTC(), EventID: r.c.EventID,
			RequestID: r.c.RequestID})
	}
}

// parameters are the members of a request that an audit log may show: no blob, which could be key material, and no
// token.
func parameters(in any) map[string]any {
	v := reflect.ValueOf(in).Elem()
	out := map[string]any{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		bytes := f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Uint8
		if bytes || f.Type == reflect.TypeFor[*RecipientInfo]() || strings.Contains(name, "GrantToken") || v.Field(i).IsZero() {
			continue
		}
		out[lowerFirst(name)] = v.Field(i).Interface()
	}
	return out
}

// lowerFirst is the name of a member as CloudTrail and validation errors write it.
func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
