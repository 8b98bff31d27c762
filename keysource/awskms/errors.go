package awskms

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"kmsfs/keysource"
)

// Codes of failures that no KMS has named.
const (
	codeBadAnswer  = "InvalidAnswer" // an answer that cannot be read or makes no sense
	codeConnection = "ConnectionError"
)

// convert turns an error of the SDK into one of keysource. ctx is the caller's: its end is the caller's own error, and
// the end of our own timeout is the KMS's failure.
func convert(ctx context.Context, op, key string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := &keysource.Error{Op: op, KeyID: key, Kind: keysource.ErrUnavailable}
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		e.RequestID = printable(resp.ServiceRequestID())
		if resp.Response != nil && resp.Response.Response != nil {
			e.RetryAfter = retryAfter(resp.Response.Header)
			e.Kind = kindOfStatus(resp.Response.StatusCode)
		}
	}
	switch api, ok := errors.AsType[smithy.APIError](err); {
	case ok:
		e.Code, e.Message = printable(api.ErrorCode()), printable(api.ErrorMessage())
		if kind := keysource.KindOf(e.Code); kind != nil {
			e.Kind = kind
		}
	case errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Message, e.Err = keysource.CodeDependencyTimeout, "no answer in time", context.DeadlineExceeded
		e.Kind = keysource.ErrUnavailable
	case isDeserialization(err):
		// Not the text below: it may quote what could not be read.
		e.Code, e.Message = codeBadAnswer, "the KMS answered what cannot be read"
	default:
		e.Code, e.Message = codeConnection, "cannot reach the KMS: "+cause(err)
	}
	return e
}

// isDeserialization tells an answer that is not of the protocol.
func isDeserialization(err error) bool {
	_, ok := errors.AsType[*smithy.DeserializationError](err)
	return ok
}

// kindOfStatus is the kind of error that an HTTP status stands for, where the answer names no exception that is known.
func kindOfStatus(status int) error {
	switch status {
	case http.StatusTooManyRequests:
		return keysource.ErrThrottled
	case http.StatusUnauthorized, http.StatusForbidden:
		return keysource.ErrDenied
	}
	return keysource.ErrUnavailable
}

// cause is what lies below the layers of the SDK's error, without the numbers of system calls: an ENOENT of a socket is
// not one of a file.
func cause(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return printable(e.Error())
	}
	if e, ok := errors.AsType[*url.Error](err); ok && e.Err != nil {
		return printable(e.Err.Error())
	}
	return printable(reason(err))
}

// printable is text of a server as it may stand in a log: in one line, and not without end.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, s)
	if len(s) > 500 {
		s = s[:500] + "..."
	}
	return s
}

// retryAfter is how long a server asks to wait: x-amz-retry-after in milliseconds, or Retry-After in seconds.
func retryAfter(h http.Header) time.Duration {
	for _, x := range []struct {
		name string
		unit time.Duration
	}{{"X-Amz-Retry-After", time.Millisecond}, {"Retry-After", time.Second}} {
		if n, err := strconv.ParseUint(h.Get(x.name), 10, 31); err == nil {
			return time.Duration(n) * x.unit
		}
	}
	return 0
}

// skewRetryer makes a call again at once, and once, where the SDK says that it was refused for the time in its
// signature. All other attempts are those of keysource.Retry.
type skewRetryer struct{ aws.NopRetryer }

// IsErrorRetryable implements aws.Retryer. Of the errors of a KMS call only that about the clock says it of itself.
func (skewRetryer) IsErrorRetryable(err error) bool {
	r, ok := err.(interface{ RetryableError() bool })
	return ok && r.RetryableError()
}

// MaxAttempts implements aws.Retryer.
func (skewRetryer) MaxAttempts() int { return 2 }

// RetryDelay implements aws.Retryer.
func (skewRetryer) RetryDelay(int, error) (time.Duration, error) { return 0, nil }
