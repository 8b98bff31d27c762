package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"unicode/utf8"

	"kmsfs/keysource"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
)

// targetPrefix begins X-Amz-Target.
const targetPrefix = "TrentService."

// call is one request on its way.
type call struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	name  string // of the operation, "" until it is known
	call  kms.Call
	begun int64 // the clock, in nanoseconds since the server was made
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/healthz" && readOnly(r):
		s.health(w)
	case r.URL.Path == "/metrics" && readOnly(r):
		s.metrics.handler.ServeHTTP(w, r)
	case r.URL.Path != "/":
		http.NotFound(w, r)
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "a request is a POST", http.StatusMethodNotAllowed)
	default:
		s.serveCall(w, r)
	}
}

// readOnly tells that a request asks for a page.
func readOnly(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// health answers whether calls would be served.
func (s *Server) health(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := s.cfg.Audit.Ready(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "audit log: not writable\n")
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// serveCall answers one request of the protocol.
func (s *Server) serveCall(w http.ResponseWriter, r *http.Request) {
	c := &call{s: s, w: w, r: r, begun: s.now()}
	c.call.RequestID = audit.NewID()
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	if err := s.verifier.CheckHeader(r); err != nil { // before a stranger's body takes any memory
		s.refused(c, err)
		c.fail(err)
		return
	}
	if r.ContentLength > MaxBodySize {
		c.fail(errTooLarge())
		return
	}
	waiting, done := context.WithTimeout(r.Context(), s.cfg.Timeout)
	give, err := s.bodies.take(waiting, r.ContentLength)
	done()
	if err != nil {
		c.fail(err)
		return
	}
	defer give()
	buffer := s.buffers.get()
	defer s.buffers.put(buffer)
	body, err := readBody(r, buffer)
	if err != nil {
		c.fail(err)
		return
	}
	op, err := c.admit(body)
	if err != nil {
		c.fail(err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.Timeout)
	defer cancel()
	out, err := c.perform(ctx, op, body)
	if w, ok := out.(interface{ Wipe() }); ok {
		defer w.Wipe()
	}
	if err != nil {
		c.fail(err)
		return
	}
	c.answer(out, buffer)
}

// admit authenticates the caller and finds the operation.
func (c *call) admit(body []byte) (kms.Operation, error) {
	accessKeyID, err := c.s.verifier.Verify(c.r, body)
	if err != nil {
		c.s.refused(c, err)
		return kms.Operation{}, err
	}
	id, ok := c.s.cfg.Users.Lookup(accessKeyID)
	if !ok { // disabled since then
		return kms.Operation{}, keysource.NewError("", "", "UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	c.call.Caller = id.Caller
	name, ok := strings.CutPrefix(c.r.Header.Get("X-Amz-Target"), targetPrefix)
	op, known := c.s.operations[name]
	if !ok || !known {
		return op, keysource.NewError("", "", codeUnknownOperation, "The operation is not known or not supported.")
	}
	c.name = name
	c.call.EventID = audit.NewID()
	c.call.SourceIP, c.call.SecureTransport = source(c.r)
	return op, nil
}

// perform does the operation and writes it into the audit log.
func (c *call) perform(ctx context.Context, op kms.Operation, body []byte) (out any, err error) {
	room, err := c.s.cfg.Audit.Reserve(roomFor(op, body))
	if err != nil {
		return nil, errUnaudited(err)
	}
	defer room.Release()
	in := op.NewInput()
	if w, ok := in.(interface{ Wipe() }); ok {
		defer w.Wipe()
	}
	if err = decode(body, in); err == nil {
		out, err = c.do(ctx, op, in)
	}
	if failed := room.Append(c.record(op, err)); failed != nil {
		return out, errUnaudited(failed)
	}
	return out, err
}

// do calls the operation; a panic is an error.
func (c *call) do(ctx context.Context, op kms.Operation, in any) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			attrs := []any{"operation", op.Name, "request", c.call.RequestID}
			if c.s.cfg.Bug != nil {
				attrs = append(attrs, c.s.cfg.Bug(p)...)
			}
			c.s.cfg.Logger.Error("panic in an operation", attrs...)
			out, err = nil, errors.New("panic")
		}
	}()
	return op.Do(ctx, c.s.cfg.Service, &c.call, in)
}

// errUnaudited is for a call that the audit log has no room for.
func errUnaudited(cause error) error {
	return &keysource.Error{Code: keysource.CodeInternal, Kind: keysource.ErrUnavailable, Message: "audit log", Err: cause}
}

// decode reads a request. Members that are not known are ignored, as AWS does.
func decode(body []byte, in any) error {
	if len(body) == 0 {
		return nil
	}
	if !utf8.Valid(body) { // which encoding/json would change without a word
		return keysource.NewError("", "", codeSerialization, "The body is not UTF-8.")
	}
	err := json.Unmarshal(body, in)
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrongType): // its text would hold the value
		return keysource.NewError("", "", codeSerialization, "The member "+wrongType.Field+" has a value of another type.")
	}
	return keysource.NewError("", "", codeSerialization, "The body is not the JSON of this operation.")
}

// source is where a request comes from, and whether nobody in between can read it. Of a unix socket there is no address:
// what net/http has for one is the path that the client bound its end to, which can look like any address.
func source(r *http.Request) (netip.Addr, bool) {
	if onUnix(r) {
		return netip.Addr{}, true
	}
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, r.TLS != nil
	}
	return at.Addr().Unmap(), r.TLS != nil
}

// onUnix tells that a request came over a unix socket.
func onUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// sourceName is the source of a request for people and records.
func sourceName(r *http.Request) string {
	if at, _ := source(r); at.IsValid() {
		return at.String()
	}
	if onUnix(r) {
		return "unix socket"
	}
	return "unknown"
}
