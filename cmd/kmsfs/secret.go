package main

import (
	"bytes"
	"context"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

// secretFlags say what opens a key store.
type secretFlags struct {
	passphraseFrom string
	masterKeyFile  string
}

// add defines the flags.
func (s *secretFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.passphraseFrom, "passphrase-from", "",
		"`SOURCE` of a passphrase: prompt, fd:N or command:PROGRAM ARG...; a new key store is sealed under it")
	f.StringVar(&s.masterKeyFile, "master-key-file", "",
		"`FILE` with the master key of the key store (default: master.key in the key store)")
}

// source returns where the passphrase comes from, and whether the user asked for one.
func (s *secretFlags) source(a *app) (src passphrase.Source, asked bool, err error) {
	src, err = a.parsePassphrase(s.passphraseFrom)
	return src, s.passphraseFrom != "", err
}

// parsePassphrase reads the value of --passphrase-from; empty is prompt.
func (a *app) parsePassphrase(from string) (passphrase.Source, error) {
	kind, rest, has := strings.Cut(from, ":")
	switch {
	case from == "" || from == "prompt":
		return hinted(passphrase.Terminal(passphrase.TerminalConfig{})), nil
	case kind == "fd" && has:
		fd, err := strconv.ParseUint(rest, 10, 16)
		if err != nil {
			return nil, hintf(faultf(errUsage, "--passphrase-from fd: %q is not a number", rest),
				"--passphrase-from fd:3 3</path/of/a/file")
		}
		return passphrase.FD(int(fd)), nil
	case kind == "command" && has && strings.TrimSpace(rest) != "":
		return passphrase.Command(strings.Fields(rest), a.stderr), nil
	}
	return nil, hintf(faultf(errUsage, "--passphrase-from is not prompt, fd:N or command:PROGRAM ARG..."),
		"a passphrase never stands on the command line; name where it comes from")
}

// hinted adds what to do where there is no terminal.
func hinted(src passphrase.Source) passphrase.Source {
	return func(ctx context.Context, purpose passphrase.Purpose) ([]byte, error) {
		p, err := src(ctx, purpose)
		return p, keysource.WithHint(err, "run kmsfs on a terminal, or give --passphrase-from fd:N or command:PROGRAM")
	}
}

// remembered asks src once and answers the same from then on: with --init, a mount makes a key store and then opens
// it. forget wipes what is remembered.
func remembered(src passphrase.Source) (again passphrase.Source, forget func()) {
	var kept []byte
	again = func(ctx context.Context, purpose passphrase.Purpose) ([]byte, error) {
		if kept == nil {
			p, err := src(ctx, purpose)
			if err != nil {
				return nil, err
			}
			kept = p
		}
		return bytes.Clone(kept), nil
	}
	return again, func() { clear(kept) }
}
