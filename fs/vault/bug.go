package vault

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
)

// ErrBug: this program is wrong. The log has the stack.
var ErrBug = errors.New("vault: a bug in this program")

// Bug returns what is to be logged of a panic, as pairs for slog, in the deferred function that has recovered v: what it says
// and where it came from. There is no plaintext and no key in it: of an error, which may name a file, only the type is told, and
// of the stack functions and lines alone. (What debug.Stack prints has the arguments too, among them parts of arrays.)
func Bug(v any) []any {
	r, elsewhere := v.(*relayed)
	if elsewhere {
		v = r.value
	}
	text := fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case runtime.Error:
		text = v.Error()
	case string: // a programmer wrote it
		text = v
	}
	stack := callers()
	if elsewhere {
		stack = r.stack + " < " + stack
	}
	return []any{"panic", text, "stack", stack}
}

// relayed is a panic of another goroutine.
type relayed struct {
	value any
	stack string
}

// callers is the stack of who calls the caller, innermost first.
func callers() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var stack []string
	for more := true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); !strings.HasPrefix(f.Function, "runtime.") {
			stack = append(stack, fmt.Sprintf("%s (%s:%d)", shortName(f.Function), path.Base(f.File), f.Line))
		}
	}
	return strings.Join(stack, " < ")
}

// shortName is a function's name without the path of its module.
func shortName(function string) string {
	if short, ours := strings.CutPrefix(function, "kmsfs/"); ours {
		return short
	}
	return path.Base(function)
}

// guarded calls f, which nobody waits for to end well, and turns a panic into ErrBug: else the panic would end the process, and
// the mount with it.
func (v *Vault) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			v.counts.panics.Add(1)
			v.log.Error("a bug in deferred work", Bug(p)...)
			err = ErrBug
		}
	}()
	return f()
}

// inTwo calls f in a goroutine of its own and returns what waits for it, and panics as f did: who called can be told then.
func inTwo(f func()) (wait func()) {
	ended := make(chan *relayed, 1)
	go func() {
		defer func() {
			var r *relayed
			if p := recover(); p != nil {
				r = &relayed{p, callers()}
			}
			ended <- r
		}()
		f()
	}()
	return func() {
		if p := <-ended; p != nil {
			panic(p)
		}
	}
}
