package keysource

import (
	"context"
	"fmt"
)

// Openers maps a URL scheme to what opens it. It is a plain value that the command builds, so that the whole chain of
// keysources can be read in one place.
type Openers map[string]func(ctx context.Context, u URL) (Keysource, error)

// Open opens u. A scheme that has no opener is ErrUnsupported, with a hint.
func (o Openers) Open(ctx context.Context, u URL) (Keysource, error) {
	if open := o[u.Scheme]; open != nil {
		return open(ctx, u)
	}
	err := NewError("Open", "", CodeUnsupported, fmt.Sprintf("this kmsfs cannot use %s: key sources yet", u.Scheme))
	return nil, WithHint(err, "use the embedded key store: local:PATH")
}
