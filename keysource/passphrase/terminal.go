package passphrase

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// TerminalConfig says how [Terminal] asks. The zero value is ready.
type TerminalConfig struct {
	// Path is the terminal; empty is /dev/tty, the one that the process was started from, so that it works with
	// standard input and output redirected.
	Path string
	// Prompt is what the passphrase is for; empty is "Passphrase".
	Prompt string
}

// Terminal asks a person, without showing what is typed; for Purpose New twice. Where there is no terminal it fails
// with ErrNoTerminal. The terminal shows again what is typed when ctx ends.
func Terminal(cfg TerminalConfig) Source {
	if cfg.Path == "" {
		cfg.Path = "/dev/tty"
	}
	if cfg.Prompt == "" {
		cfg.Prompt = "Passphrase"
	}
	return func(ctx context.Context, purpose Purpose) ([]byte, error) {
		// O_NOCTTY: asking must not make it the controlling terminal of a daemon.
		tty, err := os.OpenFile(cfg.Path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoTerminal, err)
		}
		defer tty.Close()
		if !term.IsTerminal(int(tty.Fd())) {
			return nil, ErrNoTerminal
		}
		p, err := ask(ctx, tty, cfg.Prompt+": ")
		if err != nil || purpose != New {
			return p, err
		}
		again, err := ask(ctx, tty, cfg.Prompt+" again: ")
		defer clear(again)
		if err == nil && !bytes.Equal(p, again) {
			err = ErrMismatch
		}
		if err != nil {
			clear(p)
			return nil, err
		}
		return p, nil
	}
}

// ask prompts for one line. Unlike term.ReadPassword it can be interrupted by ctx, and then leaves the terminal as it
// was.
func ask(ctx context.Context, tty *os.File, prompt string) ([]byte, error) {
	fd := int(tty.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTerminal, err)
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	quiet.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	restore := uint(unix.TCSETS)
	defer func() { _ = unix.IoctlSetTermios(fd, restore, old) }()
	if _, err := tty.WriteString(prompt); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	buf := make([]byte, bufferSize)
	defer clear(buf)
	n, err := readFD(ctx, fd, buf, untilLine)
	_, _ = tty.WriteString("\n")
	if err != nil || n == len(buf) {
		restore = unix.TCSETSF // what is still unread must not show up at a shell prompt
	}
	if err != nil {
		return nil, err
	}
	return trim(buf[:n])
}
