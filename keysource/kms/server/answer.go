package server

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"kmsfs/keysource/kms"
)

// contentType is that of all answers.
const contentType = "application/x-amz-json-1.1"

// buffer holds a request or an answer.
type buffer struct{ bytes.Buffer }

// bufferPool is a pool of buffers. It is safe for concurrent use.
type bufferPool struct{ pool sync.Pool }

// get takes an empty buffer.
func (p *bufferPool) get() *buffer {
	if b, ok := p.pool.Get().(*buffer); ok {
		return b
	}
	b := &buffer{}
	b.Grow(4 << 10)
	return b
}

// put overwrites a buffer and gives it back; a large one is dropped.
func (p *bufferPool) put(b *buffer) {
	all := b.Bytes()
	clear(all[:cap(all)])
	b.Reset()
	if b.Cap() <= 64<<10 {
		p.pool.Put(b)
	}
}

// answer sends the output of an operation. body, which held the request, is used again.
func (c *call) answer(out any, body *buffer) {
	clear(body.Bytes())
	body.Reset()
	if _, nothing := out.(*kms.NoOutput); !nothing {
		if err := json.NewEncoder(body).Encode(out); err != nil {
			c.fail(err)
			return
		}
	}
	c.send(http.StatusOK, body.Bytes())
	c.s.metrics.done(c.name, "", c.elapsed())
}

// fail sends an error, and logs what the client is not told.
func (c *call) fail(err error) {
	f := failureOf(err)
	if f.inner {
		c.s.cfg.Logger.Error("a call failed", slog.String("operation", c.name), slog.String("request", c.call.RequestID),
			slog.Any("error", err))
	}
	body, err := json.Marshal(struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}{f.code, f.message})
	if err != nil {
		body = nil // strings marshal
	}
	c.w.Header()["X-Amzn-Errortype"] = []string{f.code}
	c.send(f.status, body)
	c.s.metrics.done(c.name, f.code, c.elapsed())
}

// send writes the answer.
func (c *call) send(status int, body []byte) {
	h := c.w.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["Cache-Control"] = []string{"no-cache, no-store, must-revalidate, private"}
	h["X-Amzn-Requestid"] = []string{c.call.RequestID}
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body) // the client may be gone
}

// elapsed is the time since the call began.
func (c *call) elapsed() time.Duration { return time.Duration(c.s.now() - c.begun) }
