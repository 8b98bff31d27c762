package server

import (
	"context"
	"errors"
	"net/http"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/sigv4"
	"kmsfs/keysource/local"
)

// Exceptions that only the protocol knows.
const (
	codeSerialization    = "SerializationException"
	codeUnknownOperation = "UnknownOperationException"
	codeTooLarge         = "RequestEntityTooLargeException"
)

// internalMessage is AWS's sentence for a fault, which tells nothing of the inside.
const internalMessage = "The request was rejected because an internal error occurred. The request can be retried."

// failure is an error as a client sees it.
type failure struct {
	status  int
	code    string
	message string
	// inner tells that the error says more than the client sees, for the log.
	inner bool
}

// failureOf is the one table from errors to answers. What is not an error of AWS's is KMSInternalException.
func failureOf(err error) failure {
	var unsigned *sigv4.Error
	var known *keysource.Error
	switch {
	case errors.As(err, &unsigned):
		return failure{status: http.StatusBadRequest, code: unsigned.Code, message: unsigned.Message}
	case errors.Is(err, local.ErrLocked), errors.Is(err, context.DeadlineExceeded):
		return failure{http.StatusInternalServerError, keysource.CodeDependencyTimeout,
			"The system timed out while trying to fulfill the request. The request can be retried.", true}
	case !errors.As(err, &known) || known.Code == "" || known.Code == keysource.CodeInternal:
		return failure{http.StatusInternalServerError, keysource.CodeInternal, internalMessage, true}
	}
	f := failure{status: http.StatusBadRequest, code: known.Code, message: known.Message}
	if f.message == "" && known.Kind != nil {
		f.message = known.Kind.Error()
	}
	switch known.Code {
	case keysource.CodeKeyUnavailable, keysource.CodeDependencyTimeout:
		f.status, f.inner = http.StatusInternalServerError, true
	case codeTooLarge:
		f.status = http.StatusRequestEntityTooLarge
	}
	return f
}
