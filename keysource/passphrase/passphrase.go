// Package passphrase gets a passphrase from a person or from a program, never from the command line or the environment,
// where others can read it.
//
// Start with [Terminal], [FD] or [Command]; each returns a [Source]. All of them take off one newline at the end (and a
// carriage return before it), refuse an empty passphrase and one over MaxSize, and wipe the buffers that they used.
package passphrase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// MaxSize is the longest passphrase in bytes.
const MaxSize = 1024

// Errors of the sources.
var (
	// ErrEmpty: the passphrase is empty.
	ErrEmpty = errors.New("passphrase is empty")
	// ErrTooLong: the passphrase is longer than MaxSize.
	ErrTooLong = fmt.Errorf("passphrase is longer than %d bytes", MaxSize)
	// ErrMismatch: the two typed passphrases differ.
	ErrMismatch = errors.New("the passphrases differ")
	// ErrNoTerminal: there is no terminal to ask on.
	ErrNoTerminal = errors.New("no terminal to ask for the passphrase")
)

// Purpose says what the passphrase is for.
type Purpose int

// The purposes.
const (
	// Unlock opens what exists: asked once.
	Unlock Purpose = iota
	// New seals something new: a person is asked twice.
	New
)

// Source returns a passphrase, which the caller owns and wipes with clear. It ends with an error when ctx ends.
type Source func(ctx context.Context, purpose Purpose) ([]byte, error)

// trim takes the line end off raw, checks what is left and returns it in a slice of its own. raw is wiped.
func trim(raw []byte) ([]byte, error) {
	defer clear(raw)
	p := bytes.TrimSuffix(raw, []byte("\n"))
	if len(p) < len(raw) {
		p = bytes.TrimSuffix(p, []byte("\r"))
	}
	switch {
	case len(p) == 0:
		return nil, ErrEmpty
	case len(p) > MaxSize:
		return nil, ErrTooLong
	}
	return bytes.Clone(p), nil
}

// bufferSize holds the longest passphrase, its line end, and one byte more that shows one too long.
const bufferSize = MaxSize + 3
