package keysource

import (
	"errors"
	"strings"
	"time"
)

// The kinds of error, each a decision that a caller takes. Find them with errors.Is.
var (
	// ErrNotFound: no such CMK or alias.
	ErrNotFound = errors.New("not found")
	// ErrDisabled: the CMK is disabled.
	ErrDisabled = errors.New("key is disabled")
	// ErrInvalidState: the CMK is pending import or deletion, or otherwise in a state that the call does not allow.
	ErrInvalidState = errors.New("invalid key state")
	// ErrDenied: the caller may not do that.
	ErrDenied = errors.New("access denied")
	// ErrInvalidCiphertext: the wrapped key is damaged, or the encryption context is not the one it was made with.
	ErrInvalidCiphertext = errors.New("invalid ciphertext")
	// ErrIncorrectKey: the wrapped key is of another CMK than the one named.
	ErrIncorrectKey = errors.New("incorrect key")
	// ErrUnavailable: the keysource cannot be reached or failed inside; try again.
	ErrUnavailable = errors.New("keysource unavailable")
	// ErrThrottled: too many requests; try again later.
	ErrThrottled = errors.New("throttled")
	// ErrUnsupported: this keysource, key or build does not do that.
	ErrUnsupported = errors.New("unsupported")
	// ErrLimit: a quota is used up. Not retryable.
	ErrLimit = errors.New("limit exceeded")
	// ErrAlreadyExists: the name is taken.
	ErrAlreadyExists = errors.New("already exists")
	// ErrConflict: the call contradicts another that is under way.
	ErrConflict = errors.New("conflict")
	// ErrInvalidArgument: the request itself is wrong.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrDryRun: the call was a dry run, and would have succeeded.
	ErrDryRun = errors.New("dry run would have succeeded")
	// ErrClosed: the keysource was closed.
	ErrClosed = errors.New("keysource is closed")
)

// Exception names of AWS KMS, the Code of an Error.
const (
	CodeNotFound             = "NotFoundException"
	CodeDisabled             = "DisabledException"
	CodeInvalidState         = "KMSInvalidStateException"
	CodeAccessDenied         = "AccessDeniedException"
	CodeInvalidCiphertext    = "InvalidCiphertextException"
	CodeIncorrectKey         = "IncorrectKeyException"
	CodeIncorrectKeyMaterial = "IncorrectKeyMaterialException"
	CodeInvalidARN           = "InvalidArnException"
	CodeInvalidAliasName     = "InvalidAliasNameException"
	CodeAlreadyExists        = "AlreadyExistsException"
	CodeConflict             = "ConflictException"
	CodeLimitExceeded        = "LimitExceededException"
	CodeUnsupported          = "UnsupportedOperationException"
	CodeValidation           = "ValidationException"
	CodeKeyUnavailable       = "KeyUnavailableException"
	CodeDependencyTimeout    = "DependencyTimeoutException"
	CodeInternal             = "KMSInternalException"
	CodeThrottling           = "ThrottlingException"
	CodeInvalidKeyUsage      = "InvalidKeyUsageException"
	CodeInvalidGrantToken    = "InvalidGrantTokenException"
	CodeInvalidGrantID       = "InvalidGrantIdException"
	CodeInvalidMarker        = "InvalidMarkerException"
	CodeMalformedPolicy      = "MalformedPolicyDocumentException"
	CodeTag                  = "TagException"
	CodeExpiredImportToken   = "ExpiredImportTokenException"
	CodeInvalidImportToken   = "InvalidImportTokenException"
	CodeDryRun               = "DryRunOperationException"
	CodeSerialization        = "SerializationException"
)

// KindOf returns the kind of error that an AWS exception name stands for, or nil for a name that is not known.
func KindOf(code string) error {
	switch code {
	case CodeNotFound:
		return ErrNotFound
	case CodeDisabled:
		return ErrDisabled
	case CodeInvalidState:
		return ErrInvalidState
	case CodeAccessDenied, "AccessDenied", "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignature",
		"IncompleteSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
		"SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException", "RequestExpired",
		"RequestTimeTooSkewed", "AuthFailure", "NotAuthorized", "OptInRequired", CodeInvalidGrantToken:
		return ErrDenied
	case CodeInvalidCiphertext:
		return ErrInvalidCiphertext
	case CodeIncorrectKey:
		return ErrIncorrectKey
	case CodeAlreadyExists:
		return ErrAlreadyExists
	case CodeConflict:
		return ErrConflict
	case CodeLimitExceeded:
		return ErrLimit
	case CodeUnsupported, CodeInvalidKeyUsage, "UnknownOperationException", "InvalidAction":
		return ErrUnsupported
	case CodeValidation, CodeInvalidARN, CodeInvalidAliasName, CodeIncorrectKeyMaterial, CodeInvalidMarker, CodeInvalidGrantID,
		CodeMalformedPolicy, CodeTag, CodeExpiredImportToken, CodeInvalidImportToken, CodeSerialization,
		"ValidationError":
		return ErrInvalidArgument
	case CodeDryRun:
		return ErrDryRun
	case CodeKeyUnavailable, CodeDependencyTimeout, CodeInternal, "InternalFailure", "InternalServerError",
		"ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout", "RequestTimeoutException":
		return ErrUnavailable
	case CodeThrottling, "Throttling", "ThrottledException", "RequestThrottled", "RequestThrottledException",
		"TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "SlowDown", "PriorRequestNotComplete":
		return ErrThrottled
	}
	return nil
}

// Error is a failed call. errors.Is finds Kind and whatever Err wraps. It never holds key bytes or plaintext.
type Error struct {
	// Op is the operation: "Decrypt".
	Op string
	// KeyID is the key as the caller or the keysource named it; may be empty.
	KeyID string
	// Code is the AWS exception name: "DisabledException".
	Code string
	// Kind is one of the kinds above.
	Kind error
	// Message is the KMS's own sentence.
	Message string
	// RequestID is the KMS's id of the request, where there is one.
	RequestID string
	// RetryAfter is how long the KMS asked to wait; zero where it did not.
	RetryAfter time.Duration
	// Err is the cause below, or nil.
	Err error
}

// NewError makes an Error whose Kind follows from code; an unknown code is ErrUnavailable.
func NewError(op, keyID, code, message string) *Error {
	kind := KindOf(code)
	if kind == nil {
		kind = ErrUnavailable
	}
	return &Error{Op: op, KeyID: keyID, Code: code, Kind: kind, Message: message}
}

// Error says what failed, on which key, why, and in which request.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(": ")
	}
	if e.KeyID != "" && !strings.Contains(e.Message, e.KeyID) {
		b.WriteString(e.KeyID)
		b.WriteString(": ")
	}
	switch {
	case e.Message != "":
		b.WriteString(e.Message)
	case e.Kind != nil:
		b.WriteString(e.Kind.Error())
	default:
		b.WriteString("failed")
	}
	switch {
	case e.Code != "" && e.RequestID != "":
		b.WriteString(" (" + e.Code + ", request " + e.RequestID + ")")
	case e.Code != "":
		b.WriteString(" (" + e.Code + ")")
	case e.RequestID != "":
		b.WriteString(" (request " + e.RequestID + ")")
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As both the kind and the cause.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// Retryable tells whether the same call may succeed later without anything being changed by the caller.
func Retryable(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrThrottled)
}

// invalid is an ErrInvalidArgument with a sentence.
func invalid(message string) error { return NewError("", "", CodeValidation, message) }
