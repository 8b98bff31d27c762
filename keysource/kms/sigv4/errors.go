package sigv4

import "fmt"

// Codes of an Error, AWS's names.
const (
	// CodeMissingToken: the request is not signed.
	CodeMissingToken = "MissingAuthenticationToken"
	// CodeIncomplete: the Authorization header cannot be read, or something that must be signed is not.
	CodeIncomplete = "IncompleteSignature"
	// CodeUnrecognized: the access key is unknown or inactive, or the session token is not its own.
	CodeUnrecognized = "UnrecognizedClientException"
	// CodeInvalid: the signature is not that of the request, is too old, or is for another region or service.
	CodeInvalid = "InvalidSignatureException"
)

// Error is a refused request. It holds no part of a secret, and not the signature that would have been right.
type Error struct {
	// Code is one of the codes above.
	Code string
	// Message is the sentence for the client.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message + " (" + e.Code + ")" }

// incomplete is a CodeIncomplete.
func incomplete(format string, args ...any) error {
	return &Error{CodeIncomplete, fmt.Sprintf(format, args...)}
}

// invalid is a CodeInvalid.
func invalid(format string, args ...any) error {
	return &Error{CodeInvalid, fmt.Sprintf(format, args...)}
}

// errUnrecognized is the answer to an access key or a session token that is not known.
func errUnrecognized() error {
	return &Error{CodeUnrecognized, "The security token included in the request is invalid."}
}

// errMismatch is the answer to a signature that is not the one of the request.
func errMismatch() error {
	return invalid("The request signature we calculated does not match the signature you provided. Check your AWS Secret " +
		"Access Key and signing method. Consult the service documentation for details.")
}
