package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/keysource/passphrase"
)

// daemonVerb is the second word of a daemon's command line, which is for people and for kmsfs status alone: what the
// daemon does comes over the channel.
const daemonVerb = "daemon"

// background starts a daemon that does p, answers its questions, and returns when its mount answers or it failed. The
// daemon is a copy of this program in a session of its own.
func (a *app) background(ctx context.Context, p mountPlan, secret passphrase.Source) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// What the caller left open, such as its end of a pipe, must not stay open for as long as the mount.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // since Linux 5.11
	c, theirs, err := newChannel()
	if err != nil {
		return err
	}
	defer c.close()
	cmd := &exec.Cmd{
		Path: program, Args: []string{"kmsfs", daemonVerb, p.Vault, p.Mountpoint},
		Env:    append(os.Environ(), channelEnv+"=3"),
		Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	err = c.relay(ctx, p, secret)
	if err != nil && !isFailure(err) { // it did not end by itself
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	if err != nil {
		if state := cmd.Wait(); errors.Is(err, io.EOF) {
			err = fmt.Errorf("the daemon ended before the mount answered: %v", state)
		}
	}
	return err
}

// isFailure tells an error that the daemon reported itself.
func isFailure(err error) bool {
	var f *failure
	return errors.As(err, &f)
}

// relay is the parent's side of the channel.
func (c *channel) relay(ctx context.Context, p mountPlan, secret passphrase.Source) error {
	if err := c.sendJSON(msgPlan, p); err != nil {
		return err
	}
	for {
		kind, body, err := c.receive(ctx)
		if err != nil {
			return err
		}
		switch {
		case kind == msgReady:
			return nil
		case kind == msgFail:
			return readFailure(body)
		case kind == msgAsk && len(body) == 1:
			if err := c.answer(ctx, passphrase.Purpose(body[0]), secret); err != nil {
				return err
			}
		default:
			return fmt.Errorf("message %q of the daemon", kind)
		}
	}
}

// answer sends the passphrase, or says why there is none.
func (c *channel) answer(ctx context.Context, purpose passphrase.Purpose, secret passphrase.Source) error {
	text, err := secret(ctx, purpose)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return c.sendFailure(msgNone, err)
	}
	defer clear(text)
	return c.send(msgSecret, text)
}

// readPlan is the daemon's first message.
func (c *channel) readPlan(ctx context.Context) (p mountPlan, err error) {
	kind, body, err := c.receive(ctx)
	if err != nil {
		return p, err
	}
	if kind != msgPlan {
		return p, fmt.Errorf("message %q in place of the plan", kind)
	}
	return p, json.Unmarshal(body, &p)
}
