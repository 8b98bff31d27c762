package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kmsfs/keysource"
)

// controlBench is a control server for the mount at /m, with verbs of the test, and an app that reaches it.
func controlBench(t *testing.T, verbs map[string]controlHandler) (*app, mountEntry, *controlServer) {
	t.Helper()
	run, err := os.MkdirTemp("/tmp", "kmsfs-ctl") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	a := &app{uid: os.Geteuid(), stdout: io.Discard, stderr: io.Discard, env: func(string) string { return run }}
	dir := controlDir(a.uid, run)
	m := mountEntry{Mountpoint: filepath.Join(run, "m")}
	if err := makeControlDir(dir, a.uid); err != nil {
		t.Fatal(err)
	}
	l, err := listenControl(t.Context(), controlSocket(dir, m.Mountpoint), a.uid)
	if err != nil {
		t.Fatal(err)
	}
	s := newControlServer(slog.New(slog.DiscardHandler))
	for verb, h := range verbs {
		s.handle(verb, h)
	}
	s.start(l)
	t.Cleanup(s.stop)
	return a, m, s
}

// TestControlAnswers: lines come at once and in order; an error keeps code and hint; a panic is an error and ends nothing.
func TestControlAnswers(t *testing.T) {
	next := make(chan struct{})
	a, m, s := controlBench(t, map[string]controlHandler{
		"lines": func(_ context.Context, in json.RawMessage, send func(any) error) error {
			if err := send(in); err != nil {
				return err
			}
			<-next // which the caller closes when it has the first line
			return send("second")
		},
		"fail":  func(context.Context, json.RawMessage, func(any) error) error { return hintf(errBusy, "wait") },
		"panic": func(context.Context, json.RawMessage, func(any) error) error { panic(errors.New("of secretname")) },
	})
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	var got []string
	err := a.control(t.Context(), m, "lines", map[string]int{"n": 1}, func(line json.RawMessage) error {
		if got = append(got, string(line)); len(got) == 1 {
			close(next)
		}
		return nil
	})
	if want := `{"n":1} "second"`; err != nil || strings.Join(got, " ") != want {
		t.Errorf("lines %q, %v, want %s", got, err, want)
	}
	if err := a.control(t.Context(), m, "panic", nil, nil); exitOf(err).code != 1 || !strings.Contains(err.Error(), "failed at panic") {
		t.Errorf("panic: %v", err)
	}
	if text := log.String(); !strings.Contains(text, "controlserver_test.go") || strings.Contains(text, "secretname") || strings.Contains(text, "0x") {
		t.Errorf("the log of the panic lacks where it was, or has more: %s", text)
	}
	if err := a.control(t.Context(), m, "fail", nil, nil); exitOf(err).code != 24 || keysource.Hint(err) != "wait" {
		t.Errorf("fail: %v, %s", err, keysource.Hint(err))
	}
	if err := a.control(t.Context(), m, "none", nil, nil); exitOf(err).code != 29 || !strings.Contains(err.Error(), "another version") {
		t.Errorf("a verb that is not there: %v", err)
	}
	if err := a.control(t.Context(), m, "fail", strings.Repeat("x", controlBody), nil); exitOf(err).code != exitUsage {
		t.Errorf("a request that is too long: %v", err)
	}
}

// TestControlEnds: the end of the caller and that of the mount end what is under way, and stop waits for it.
func TestControlEnds(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{}, 1)
	a, m, s := controlBench(t, map[string]controlHandler{
		"wait": func(ctx context.Context, _ json.RawMessage, send func(any) error) error {
			begun <- struct{}{}
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond) // stop must not be faster
			ended <- struct{}{}
			return ctx.Err()
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() { answer <- a.control(ctx, m, "wait", nil, nil) }()
	<-begun
	cancel()
	<-ended
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up: %v", err)
	}
	go func() { answer <- a.control(t.Context(), m, "wait", nil, nil) }()
	<-begun
	s.stop()
	select {
	case <-ended:
	default:
		t.Error("stop did not wait")
	}
	if err := <-answer; err == nil {
		t.Error("a verb that the mount's end has cut short is done")
	}
	if err := a.control(t.Context(), m, "wait", nil, nil); exitOf(err).code != 29 {
		t.Errorf("after the end: %v", err)
	}
}

// TestControlBounds: no more requests than there may be are under way; one more is refused, not queued.
func TestControlBounds(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	a, m, _ := controlBench(t, map[string]controlHandler{
		"wait": func(context.Context, json.RawMessage, func(any) error) error {
			begun <- struct{}{}
			<-end
			return nil
		},
	})
	done := make(chan error, controlRequests)
	for range controlRequests {
		go func() { done <- a.control(t.Context(), m, "wait", nil, nil) }()
		<-begun
	}
	err := a.control(t.Context(), m, "wait", nil, nil)
	if exitOf(err).code != 29 || !strings.Contains(err.Error(), http.StatusText(http.StatusServiceUnavailable)) {
		t.Errorf("one more: %v", err)
	}
	close(end)
	for range controlRequests {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
