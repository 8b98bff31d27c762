package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// memoryLimit is what the Go runtime tries to stay under, in bytes, unless GOMEMLIMIT says otherwise: the garbage of a
// burst is collected rather than kept.
const memoryLimit = 192 << 20

// gcPercent is how much garbage may come before it is collected, in percent of what is in use, unless GOGC says
// otherwise: little is in use, and each collection gets in the way of the requests.
const gcPercent = 400

// conceal keeps the memory of this process, which may come to hold a key or a passphrase, from core dumps and from other
// processes of the same user. The programs that it starts dump no core either: one of them may have the passphrase.
func conceal() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	return os.NewSyscallError("setrlimit RLIMIT_CORE", syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}))
}

// harden prepares this process to serve for long: as many descriptors as it may have, file modes as the callers ask for them,
// little garbage, and no end because nobody reads its log any more.
func harden(env func(string) string) error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // caught and not ignored: the programs that it starts would inherit that
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return os.NewSyscallError("getrlimit RLIMIT_NOFILE", err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("setrlimit RLIMIT_NOFILE %d: %w", files.Max, err)
	}
	syscall.Umask(0)
	if env("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if env("GOMEMLIMIT") == "" && debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(memoryLimit)
	}
	return nil
}

// keepOutOfSwap locks the memory of this process where it may. Else the log tells, once, and only where there is a swap that the
// keys could get into.
func keepOutOfSwap(log *slog.Logger) {
	err := lockMemory(nil)
	if err == nil {
		return
	}
	tell := log.Debug
	if swaps, e := os.ReadFile("/proc/swaps"); e != nil || bytes.Count(swaps, []byte("\n")) > 1 { // the first line is a title
		tell = log.Warn
	}
	tell("memory is not locked: keys may reach the swap", "err", err)
}

// openFiles is how many files the vault may keep open: of what this process may have, a part that leaves room for those
// being written, which are 32 times as many, and for the requests under way.
func openFiles() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0 // the vault's default
	}
	return int(max(4, min(files.Cur/64, 512)))
}
