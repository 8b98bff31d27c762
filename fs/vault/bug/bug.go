// Package bug keeps a panic from ending the process, and the mount with it: it becomes an error of whoever asked for the work, and
// a line in the log. Start with [Guard] for work that nobody waits for, and with [Group] for work that is shared out: there the
// panic of a goroutine goes on in the one that waits.
package bug

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"strings"
	"sync"
)

// Err: this program is wrong. The log has the stack.
var Err = errors.New("a bug in this program")

// Attrs returns what is to be logged of a panic, as pairs for slog, in the deferred function that has recovered v: what it says
// and where it came from. There is no plaintext and no key in it: of an error, which may name a file, only the type is told, and
// of the stack functions and lines alone. (What debug.Stack prints has the arguments too, among them parts of arrays.)
func Attrs(v any) []any {
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

// Guard calls f and returns a panic of it as Err, which is logged.
func Guard(log *slog.Logger, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("a bug in deferred work", Attrs(p)...)
			err = Err
		}
	}()
	return f()
}

// Group is a sync.WaitGroup whose Wait panics where one of its goroutines did. The zero Group is ready for use.
type Group struct {
	Stop func() // called after a panic, to have the other goroutines end soon; nil where they end anyway

	wg    sync.WaitGroup
	mu    sync.Mutex
	first *relayed
}

// Go calls f in a goroutine of its own.
func (g *Group) Go(f func()) {
	g.wg.Go(func() {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			g.mu.Lock()
			if g.first == nil {
				g.first = &relayed{p, callers()}
			}
			g.mu.Unlock()
			if g.Stop != nil {
				g.Stop()
			}
		}()
		f()
	})
}

// Wait waits until all have ended, and then panics as the first of them did that has panicked.
func (g *Group) Wait() {
	g.wg.Wait()
	if g.first != nil {
		panic(g.first)
	}
}
