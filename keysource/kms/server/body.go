package server

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"kmsfs/keysource"
)

// MaxBodySize is the largest body of a request in bytes: a policy of 32 KiB or a blob of 6 KiB with its context has room.
const MaxBodySize = 256 << 10

// The memory that bodies may take. Nearly all calls, those with data keys among them, bring a small body, which never waits
// for the large ones of others.
const (
	smallBody     = 8 << 10
	maxBodyMemory = 32 << 20 // of all that are not small
)

// bodyRoom bounds the memory of bodies of calls that are under way: as many large ones as there are slots. It is safe for
// concurrent use.
type bodyRoom struct{ slots chan struct{} }

func newBodyRoom() bodyRoom { return bodyRoom{make(chan struct{}, maxBodyMemory/MaxBodySize)} }

// take waits for the room of a body of size bytes, negative where the client did not say. It returns what gives the room
// back.
func (b bodyRoom) take(ctx context.Context, size int64) (give func(), err error) {
	if size >= 0 && size <= smallBody {
		return func() {}, nil
	}
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-ctx.Done():
		return nil, keysource.NewError("", "", keysource.CodeThrottling, "Rate exceeded")
	}
}

// readBody reads the body into buffer.
func readBody(r *http.Request, buffer *buffer) ([]byte, error) {
	if r.ContentLength > 0 {
		buffer.Grow(int(r.ContentLength) + bytes.MinRead) // or it would leave copies behind as it grows
	}
	if _, err := buffer.ReadFrom(io.LimitReader(r.Body, MaxBodySize+1)); err != nil {
		return nil, keysource.NewError("", "", codeSerialization, "The body cannot be read.")
	}
	if buffer.Len() > MaxBodySize {
		return nil, errTooLarge()
	}
	return buffer.Bytes(), nil
}

func errTooLarge() error {
	return keysource.NewError("", "", codeTooLarge, "The request has more than 262144 bytes.")
}
