package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// thawPatience is how long the answer to a thaw is waited for.
const thawPatience = 30 * time.Second

// freezeCommand is kmsfs freeze.
func (a *app) freezeCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "freeze VAULT|MOUNTPOINT -- COMMAND [ARGUMENT...]",
		Short: "Run a command while nothing changes in a vault",
		Long: `Run COMMAND, a backup or a snapshot, while nothing changes in the vault, so that what it copies is of one moment. Where the
vault is mounted here: all that was written until then is made durable, and whoever changes something on the mount is held until
COMMAND ends; reading goes on. Where it is not, nobody can mount it meanwhile, but for reading. With --shared only the mounts of this
machine are held.

The exit code is that of COMMAND, 128 and the signal where one ended it. After --timeout the mount thaws by itself, whatever
happens, also where kmsfs was killed; if COMMAND had not ended by then the exit code is 33, whatever COMMAND returned: the copy may not
be of one moment. SIGINT, SIGTERM and SIGHUP are passed to COMMAND, which is waited for.

COMMAND must not write to the mount: it would wait for itself, and cannot be killed meanwhile; --timeout ends that.`,
		Example: `  kmsfs freeze ~/vault -- restic -r /backup/restic backup ~/vault
  kmsfs freeze --timeout 5s ~/plain -- btrfs subvolume snapshot -r /data /data/.snapshots/today`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case len(args) == 0 || dash == 0:
				return hintf(faultf(errUsage, "VAULT|MOUNTPOINT is missing"), "%s", cmd.UseLine())
			case dash != 1 || len(args) < 2 || args[0] == "" || args[1] == "":
				return hintf(faultf(errUsage, "-- COMMAND is missing behind VAULT|MOUNTPOINT"), "%s", cmd.UseLine())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFreeze(timeout.Seconds()); err != nil {
				return err
			}
			if _, err := exec.LookPath(args[1]); err != nil { // before anybody is held
				return noCommand(args[1], err)
			}
			return a.freeze(cmd.Context(), args[0], timeout, args[1:])
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "thaw after `TIME` at the latest, up to 1h")
	return cmd
}

// commandExit is how a command ended that kmsfs was asked to run, where it did not succeed.
type commandExit struct{ code int }

func (c *commandExit) Error() string {
	return fmt.Sprintf("the command ended with exit code %d", c.code)
}

func noCommand(name string, err error) error {
	return hintf(faultf(errNoCommand, "the command %s cannot be started: %w", name, err), "name a program in PATH, or its path")
}

// freeze runs argv while nothing changes in the vault at path, or that is mounted there.
func (a *app) freeze(ctx context.Context, path string, timeout time.Duration, argv []string) error {
	signals := make(chan os.Signal, 8)
	a.notifySignals(signals)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	thaw, err := a.freezeVault(ctx, path, timeout)
	if err != nil {
		return err
	}
	if err = ctx.Err(); err == nil {
		err = a.runPassing(argv, signals)
	}
	if e := thaw(); e != nil {
		return e
	}
	return err
}

// freezeVault freezes all mounts of a vault that write to it here, or keeps it from being mounted where there are none. thaw
// fails where it was not frozen until then.
func (a *app) freezeVault(ctx context.Context, path string, timeout time.Duration) (thaw func() error, err error) {
	dir, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if m, err := mountAt(dir); err == nil {
		dir = m.Vault
	}
	thaws, missed := map[string]func() error{}, map[string]error{} // by device: a bind mount is the same mount, without a socket
	thaw = func() error {
		var errs []error
		for _, t := range thaws {
			errs = append(errs, t())
		}
		return errors.Join(errs...)
	}
	for _, m := range mountsOf(dir) {
		if _, readOnly := m.has("ro"); readOnly || thaws[m.Dev] != nil {
			continue
		}
		t, err := a.freezeMount(ctx, m, timeout)
		switch {
		case err == nil:
			thaws[m.Dev] = t
			delete(missed, m.Dev)
		case errors.Is(err, errNoControl):
			missed[m.Dev] = err
		default:
			_ = thaw()
			return nil, err
		}
	}
	for _, err := range missed {
		_ = thaw()
		return nil, err
	}
	if len(thaws) > 0 {
		return thaw, nil
	}
	held, err := lockVault(dir)
	if err != nil {
		return nil, err
	}
	return held.Close, nil
}

// lockVault keeps a vault that is not mounted here from being mounted for writing.
func lockVault(dir string) (io.Closer, error) {
	top, err := backing.OpenDir(dir)
	if err == nil {
		defer top.Close()
		var held io.Closer
		if held, err = vault.Lock(top); err == nil {
			return held, nil
		}
	}
	if errors.Is(err, vault.ErrLocked) {
		return nil, hintf(faultf(vault.ErrLocked, "the vault %s is mounted elsewhere, by another machine or in a container, or is being written to", dir),
			"kmsfs freeze there; or unmount it")
	}
	return nil, explain(err, mountPlan{Vault: dir})
}

// freezeMount freezes one mount.
func (a *app) freezeMount(ctx context.Context, m mountEntry, timeout time.Duration) (thaw func() error, err error) {
	id := rand.Text()
	thaw = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawPatience) // also after a signal
		defer cancel()
		err := a.control(ctx, m, "thaw", thawRequest{id}, nil)
		if err != nil {
			return hintf(faultf(errNotFrozen, "what was copied may not be of one moment: %w", err), "try again, with a longer --timeout than %v", timeout)
		}
		return nil
	}
	err = a.control(ctx, m, "freeze", freezeRequest{timeout.Seconds(), id}, func(json.RawMessage) error { return nil })
	if err != nil {
		if ctx.Err() != nil {
			_ = thaw() // it may have frozen without our having heard of it
		}
		return nil, err
	}
	return thaw, nil
}

// runPassing runs argv with the standard streams of kmsfs, and passes signals to it.
func (a *app) runPassing(argv []string, signals <-chan os.Signal) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	if err := cmd.Start(); err != nil {
		return noCommand(argv[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGTERM && inForeground() {
				continue // the terminal has sent it to COMMAND too, and two are more than one
			}
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			state := cmd.ProcessState
			switch status, _ := state.Sys().(syscall.WaitStatus); {
			case state.Success():
				return nil
			case state.Exited():
				return &commandExit{state.ExitCode()}
			case status.Signaled():
				return &commandExit{128 + int(status.Signal())}
			}
			return err
		}
	}
}

// inForeground tells whether the terminal sends its signals to this process and to those that it has started.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
