package main

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The states of a mount in the output of status.
const (
	stateMounted      = "mounted"
	stateGone         = "daemon gone"
	stateUnresponsive = "no answer"
)

// answerTime is how long a mount may take to answer before it counts as unresponsive.
const answerTime = 2 * time.Second

// stateOf asks the daemon of the mount on path something that the kernel does not know itself. The question may hang
// for ever: then its goroutine stays behind, in a process that is about to end.
func stateOf(path string) string {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) {
			return stateGone
		}
		return stateMounted // also where this user may not ask
	case <-time.After(answerTime):
		return stateUnresponsive
	}
}
