// Command kmsfs mounts directories that are encrypted with keys of a key management service, and keeps the keys.
//
// Start with run; root.go has the verbs, chain.go the chain from key store to mount, exit.go the exit codes. Under the
// name mount.kmsfs it is the helper of mount(8), and with a channel to a parent it is the daemon of a mount.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"kmsfs/keysource"
)

// app is what the verbs need of the process, so that a test can stand in for it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) string
	uid            int
	notifySignals  func(chan<- os.Signal)
}

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.Getenv, uid: os.Geteuid(),
		notifySignals: notifyEnd}
	if err := conceal(); err != nil {
		a.report(err)
		os.Exit(exitOf(err).code)
	}
	if fd := os.Getenv(channelEnv); fd != "" {
		os.Exit(a.daemon(fd))
	}
	os.Exit(a.run(os.Args))
}

// notifyEnd has c told of the signals that end a mount: that of a terminal that goes away too, unless it is ignored (nohup(1), a
// daemon in the background).
func notifyEnd(c chan<- os.Signal) {
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(c, syscall.SIGHUP)
	}
}

// run does what args say and returns the exit code; args[0] is the name the program was called by.
func (a *app) run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second ctrl-C ends the process as if there were no handler
	if filepath.Base(args[0]) == helperName {
		err := a.mountHelper(ctx, args[1:])
		a.report(err)
		return exitOf(err).mount
	}
	root := a.rootCommand()
	root.SetArgs(args[1:])
	cmd, err := root.ExecuteContextC(ctx)
	if e := exitOf(err); e.code == exitUsage && keysource.Hint(err) == "" {
		err = hintf(err, "%s --help", cmd.CommandPath())
	}
	var child *commandExit
	if errors.As(err, &child) { // it has told what there was to tell
		return child.code
	}
	a.report(err)
	return exitOf(err).code
}

// report tells a person about err in two lines: what is wrong and what to do.
func (a *app) report(err error) {
	if err == nil {
		return
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.stderr, "kmsfs: error: interrupted")
		return
	}
	fmt.Fprintf(a.stderr, "kmsfs: error: %s\n", oneLine(err.Error()))
	hint := keysource.Hint(err)
	if hint == "" {
		hint = exitOf(err).hint
	}
	if hint != "" {
		fmt.Fprintf(a.stderr, "kmsfs: hint: %s\n", oneLine(hint))
	}
}

// oneLine is text without line ends and without bytes that a terminal would act on.
func oneLine(text string) string {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
}

// fault is an error with a kind, a row of the exit table.
type fault struct {
	kind error
	text string
	err  error // the cause, or nil
}

func (f *fault) Error() string { return f.text }

func (f *fault) Unwrap() []error {
	if f.err == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.err}
}

// faultf is a fault of one of the kinds in exit.go. A %w in format is the cause.
func faultf(kind error, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	f := &fault{kind: kind, text: err.Error()}
	if errors.Unwrap(err) != nil {
		f.err = err
	}
	return f
}

// hintf attaches a hint to err.
func hintf(err error, format string, args ...any) error {
	return keysource.WithHint(err, fmt.Sprintf(format, args...))
}
