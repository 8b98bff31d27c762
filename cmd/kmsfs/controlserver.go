package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"kmsfs/fs/vault/bug"
	"kmsfs/keysource"
)

// Bounds of the control server.
const (
	controlRequests   = 16       // under way at once
	controlBody       = 64 << 10 // bytes of a request
	controlHead       = 10 * time.Second
	controlLineTime   = 30 * time.Second // for the caller to take one line
	controlStop       = 5 * time.Second  // for answers under way to be taken
	controlPath       = "/v1/"           // a verb follows
	controlMetrics    = "/metrics"
	controlLinesType  = "application/jsonl"
	controlHeaderSize = 8 << 10
)

// controlHandler does one verb. request is the JSON of the caller, and may be empty. send gives the caller one line, at
// once; the caller gets the error of the handler too, with its hint and exit code. ctx ends when the caller goes away and
// when the mount ends. It is called for several callers at once, after the mount answers and before its vault closes.
type controlHandler func(ctx context.Context, request json.RawMessage, send func(line any) error) error

// controlLine is a line of an answer. The last one has Done or Error; an answer without is cut short.
type controlLine struct {
	Line  json.RawMessage `json:"line,omitempty"`
	Done  bool            `json:"done,omitempty"`
	Error *failure        `json:"error,omitempty"`
}

// controlServer is the HTTP server of a daemon's control socket: POST /v1/VERB has JSON lines as its answer.
type controlServer struct {
	log    *slog.Logger
	mux    *http.ServeMux
	slots  chan struct{}
	server *http.Server
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // the server and what it has under way
	once   sync.Once
}

// newControlServer makes a server without verbs.
func newControlServer(log *slog.Logger) *controlServer {
	s := &controlServer{log: log, mux: http.NewServeMux(), slots: make(chan struct{}, controlRequests)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.server = &http.Server{Handler: http.HandlerFunc(s.admit), ReadHeaderTimeout: controlHead, ReadTimeout: controlHead,
		IdleTimeout: controlHead, MaxHeaderBytes: controlHeaderSize, BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	return s
}

// handle registers a verb, before start.
func (s *controlServer) handle(verb string, h controlHandler) {
	s.mux.HandleFunc("POST "+controlPath+verb, func(w http.ResponseWriter, r *http.Request) { s.do(w, r, verb, h) })
}

// page registers what GET path shows, before start.
func (s *controlServer) page(path string, h http.Handler) {
	s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(controlLineTime))
		defer func() { // what net/http logs of a panic has arguments of functions in it
			if p := recover(); p != nil {
				s.log.Error("a bug in a page", append([]any{"path", path}, bug.Attrs(p)...)...)
				panic(http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// start serves the callers of l, which the server closes.
func (s *controlServer) start(l net.Listener) {
	s.wg.Go(func() {
		if err := s.server.Serve(l); err != nil && s.ctx.Err() == nil {
			s.log.Error("the control socket ended", "err", err)
		}
	})
}

// stop ends what is under way, waits for it and closes the socket. The zero pointer has nothing to stop.
func (s *controlServer) stop() {
	if s == nil {
		return
	}
	s.once.Do(func() {
		s.cancel()
		ctx, cancel := context.WithTimeout(context.Background(), controlStop)
		defer cancel()
		if s.server.Shutdown(ctx) != nil {
			_ = s.server.Close()
		}
		s.wg.Wait()
	})
}

// admit bounds how many requests are under way.
func (s *controlServer) admit(w http.ResponseWriter, r *http.Request) {
	s.wg.Add(1)
	defer s.wg.Done()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		s.mux.ServeHTTP(w, r)
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// do answers one request.
func (s *controlServer) do(w http.ResponseWriter, r *http.Request, verb string, h controlHandler) {
	out := http.NewResponseController(w)
	write := func(line controlLine) error {
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		if err := out.SetWriteDeadline(time.Now().Add(controlLineTime)); err != nil {
			return err
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return err
		}
		return out.Flush()
	}
	w.Header().Set("Content-Type", controlLinesType)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, controlBody))
	if err != nil || len(body) > 0 && !json.Valid(body) {
		_ = write(controlLine{Error: newFailure(faultf(errUsage, "the request is not JSON of at most %d bytes", controlBody))})
		return
	}
	err = s.call(r.Context(), verb, h, body, func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return write(controlLine{Line: b})
	})
	if err != nil {
		_ = write(controlLine{Error: newFailure(err)})
		return
	}
	_ = write(controlLine{Done: true})
}

// call calls a handler. A panic of it is an error of its caller, and the mount lives on.
func (s *controlServer) call(ctx context.Context, verb string, h controlHandler, body []byte, send func(any) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a bug in a control verb", append([]any{"verb", verb}, bug.Attrs(p)...)...)
			err = fmt.Errorf("the daemon failed at %s; its log has more", verb)
		}
	}()
	s.log.Info("control", "verb", verb)
	return h(ctx, body, send)
}

// newFailure is err as it goes to another process.
func newFailure(err error) *failure {
	e := exitOf(err)
	f := &failure{Code: e.code, Text: oneLine(err.Error()), Hint: keysource.Hint(err)}
	if f.Hint == "" {
		f.Hint = e.hint
	}
	const most = 16 << 10
	f.Text, f.Hint = f.Text[:min(len(f.Text), most)], f.Hint[:min(len(f.Hint), most)]
	return f
}
