package keysource

import "errors"

// hinted is an error with advice for a person.
type hinted struct {
	error
	hint string
}

// Unwrap gives the error below.
func (h *hinted) Unwrap() error { return h.error }

// Hint is the advice.
func (h *hinted) Hint() string { return h.hint }

// WithHint attaches to err what a person can do about it, best a command. The text of err stays as it is. nil stays
// nil.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

// Hint returns the advice of the outermost error in err's tree that has a method Hint() string, or "".
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
