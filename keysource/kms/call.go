package kms

import (
	"context"
	"net/netip"

	"kmsfs/keysource"
)

// Call is one request: who makes it and how, and what the service noted of it for the audit log. A Call belongs to one
// operation and is not safe for concurrent use.
type Call struct {
	// Caller is who calls.
	Caller Caller
	// RequestID and EventID are the ids of the request and of its audit record, for GetKeyLastUsage.
	RequestID, EventID string
	// SourceIP is where the call comes from, for aws:SourceIp conditions; the zero value is not known.
	SourceIP netip.Addr
	// SecureTransport tells that the call came over TLS or a unix socket.
	SecureTransport bool
	// Audit is filled in by the operation, also when it fails, as far as it came.
	Audit Audit
}

// Audit is what an operation notes for the audit log. None of it is secret.
type Audit struct {
	// Operation is the name of the operation.
	Operation string
	// Resources are the CMKs and aliases concerned; for ReEncrypt the source, then the destination.
	Resources []Resource
	// RequestParameters are the members of the request by their names in CloudTrail, but for blobs and grant tokens.
	RequestParameters map[string]any
	// ResponseElements are what CloudTrail records of the answer of operations that change a CMK; else nil.
	ResponseElements map[string]any
	// KeyMaterialID is the key material that was used; of ReEncrypt there are the two others instead.
	KeyMaterialID, SourceKeyMaterialID, DestinationKeyMaterialID string
	// GrantID is the grant that allowed the call, where it was one; of RetireGrant the one to retire.
	GrantID string
}

// Resource is a CMK or alias in an audit record.
type Resource struct {
	// ARN is the full name, AccountID its account.
	ARN, AccountID string
}

// Operation is one operation of the service, for who serves it by name.
type Operation struct {
	// Name is the operation's name in AWS KMS.
	Name string
	// ReadOnly tells that the operation changes nothing that the service keeps, as CloudTrail counts.
	ReadOnly bool
	// NewInput returns a pointer to an empty input, to be filled from JSON. An input or output that has a method
	// Wipe() holds secrets: call it when done.
	NewInput func() any
	// Do performs the operation. in is what NewInput returned; the answer is a pointer to the output.
	Do func(ctx context.Context, s *Service, c *Call, in any) (any, error)
}

// NoOutput is the answer of operations that answer nothing.
type NoOutput struct{}

// operation makes an Operation of a method of Service.
func operation[In, Out any](name string, readOnly bool, do func(*Service, context.Context, *Call, *In) (*Out, error)) Operation {
	return Operation{
		Name: name, ReadOnly: readOnly, NewInput: func() any { return new(In) },
		Do: func(ctx context.Context, s *Service, c *Call, in any) (any, error) {
			typed, ok := in.(*In)
			if !ok || typed == nil {
				return nil, keysource.NewError(name, "", keysource.CodeInternal, "the input is of another operation")
			}
			out, err := do(s, ctx, c, typed)
			if err != nil {
				return nil, err // not a typed nil pointer
			}
			return out, nil
		},
	}
}
