package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// detaching says how to unmount.
type detaching int

// The two ways to unmount.
const (
	unmountNow    detaching = iota
	unmountLazily           // at once out of the tree, ended when nobody uses it
)

// umountCommand is kmsfs umount.
func (a *app) umountCommand() *cobra.Command {
	lazy := false
	cmd := &cobra.Command{
		Use:     "umount MOUNTPOINT",
		Aliases: []string{"unmount"},
		Short:   "Unmount and wait until everything is in the vault",
		Long: `Unmount, and wait until the daemon has written everything to the vault and ended, so that the vault can be copied,
mounted again or unplugged. umount(8) and fusermount3 -u unmount too, without the wait.`,
		Example: "  kmsfs umount ~/plain",
		Args:    args("MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			how := unmountNow
			if lazy {
				how = unmountLazily
			}
			return a.umount(cmd.Context(), args[0], how)
		},
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "z", false, "detach the mount now, end it when nothing uses it any more; do not wait")
	return cmd
}

// umount unmounts path and waits for the daemon.
func (a *app) umount(ctx context.Context, path string, how detaching) error {
	target, err := resolve(path)
	if err != nil {
		return err
	}
	m, err := mountAt(target)
	if err != nil {
		return err
	}
	pidfd := -1
	if pid := m.pid(); pid != 0 && how == unmountNow {
		if pidfd, err = unix.PidfdOpen(pid, 0); err == nil {
			defer unix.Close(pidfd)
		} else {
			pidfd = -1 // it has just ended
		}
	}
	if err := a.detach(target, how); err != nil {
		switch {
		case isBusy(err):
			return hintf(faultf(errBusy, "%s is busy", target),
				"fuser -vm %s shows who uses it; or: kmsfs umount --lazy %[1]s", quote(target))
		case errors.Is(err, unix.EPERM) || strings.Contains(err.Error(), "not permitted"):
			return hintf(faultf(iofs.ErrPermission, "%s was mounted by another user", target), "sudo kmsfs umount %s", quote(target))
		}
		return err
	}
	if pidfd < 0 {
		return nil
	}
	return waitForExit(ctx, pidfd)
}

// mountAt finds the kmsfs mount on target, a resolved path.
func mountAt(target string) (mountEntry, error) {
	mounts, err := kmsfsMounts()
	if err != nil {
		return mountEntry{}, err
	}
	for _, m := range mounts {
		if m.Mountpoint == target {
			return m, nil
		}
	}
	err = faultf(errNotMounted, "%s is not a mount of kmsfs", target)
	for _, m := range mounts {
		if m.Source == target && m.Type == reverseType {
			return mountEntry{}, hintf(err, "it is shown in reverse; kmsfs umount %s", quote(m.Mountpoint))
		}
		if m.Vault == target {
			return mountEntry{}, hintf(err, "it is the vault; kmsfs umount %s", quote(m.Mountpoint))
		}
	}
	return mountEntry{}, err
}

// detach unmounts: root by umount2(2), everybody else by fusermount3(1), which is set-uid.
func (a *app) detach(target string, how detaching) error {
	if a.uid == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if how == unmountLazily {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(target, flags); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		return nil
	}
	args := []string{"-u"}
	if how == unmountLazily {
		args = append(args, "-z")
	}
	out, err := exec.Command("fusermount3", append(args, "--", target)...).CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return faultf(errNoFusermount, "fusermount3 is missing")
	case err != nil:
		return fmt.Errorf("unmount %s: %w: %s", target, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// waitForExit waits for the end of the process behind pidfd.
func waitForExit(ctx context.Context, pidfd int) error {
	const step = 100 * time.Millisecond
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(step.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the daemon: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return ctx.Err()
}
