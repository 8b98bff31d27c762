package bug_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"kmsfs/fs/vault/bug"
)

// panicsIn returns what is logged of the panic of f, "" where it does not panic.
func panicsIn(f func()) (logged string) {
	defer func() {
		if p := recover(); p != nil {
			logged = fmt.Sprint(bug.Attrs(p)...)
		}
	}()
	f()
	return ""
}

func innermost() { panic("too far in") }

// TestGroup: the panic of a goroutine is that of who waits, with the stack of both; the others are told to end, and are waited for.
func TestGroup(t *testing.T) {
	stop := make(chan struct{})
	ended := 0
	g := bug.Group{Stop: func() { close(stop) }}
	for range 3 {
		g.Go(func() { <-stop })
	}
	g.Go(innermost)
	logged := panicsIn(func() {
		defer func() { ended++ }()
		g.Wait()
	})
	for _, want := range []string{"too far in", "bug_test.innermost", "bug_test.TestGroup"} {
		if !strings.Contains(logged, want) {
			t.Errorf("%q is missing in %s", want, logged)
		}
	}
	if ended != 1 {
		t.Error("Wait has not panicked")
	}
	var calm bug.Group
	calm.Go(func() { ended++ })
	if logged := panicsIn(calm.Wait); logged != "" || ended != 2 {
		t.Errorf("without a panic: %q", logged)
	}
}

// TestGuard: a panic is an error and a line in the log, which says nothing of what an error may name.
func TestGuard(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	if err := bug.Guard(log, func() error { panic(errors.New("the plaintext name")) }); err != bug.Err {
		t.Errorf("the panic is %v", err)
	}
	if s := b.String(); strings.Contains(s, "plaintext name") || !strings.Contains(s, "errors.errorString") || !strings.Contains(s, "bug_test.TestGuard") {
		t.Errorf("logged: %s", s)
	}
	b.Reset()
	want := errors.New("another")
	if err := bug.Guard(log, func() error { return want }); err != want || b.Len() > 0 {
		t.Errorf("an error is %v, and is logged: %s", err, b.String())
	}
}
