package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/kms/server"
	"kmsfs/keysource/local"
)

// lockMemory keeps the memory of this process, present and future, out of the swap. Without the right to lock any amount,
// also as the user that it becomes, it locks nothing: a limit that is reached later would end the process.
func lockMemory(as *serverUser) error {
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited); err != nil && (as != nil || !mayLock()) {
		return fmt.Errorf("the limit RLIMIT_MEMLOCK is not infinite (LimitMEMLOCK=infinity in a systemd unit): %w", err)
	}
	return os.NewSyscallError("mlockall", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
}

// mayLock tells whether no limit counts for this process.
func mayLock() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}

// serverUser is whom the server becomes; nil is nobody else.
type serverUser struct {
	name     string
	uid, gid int
}

// serverUser looks the user up, and whether this process can become that one.
func (a *app) serverUser(name string) (*serverUser, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, hintf(faultf(errUsage, "--user: %w", err), "sudo useradd --system --shell /usr/sbin/nologin %s", quote(name))
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	switch {
	case uid == a.uid:
		return nil, nil // already
	case uid == 0:
		return nil, hintf(faultf(errUsage, "--user %s is root", name), "name a user who owns the key store and nothing else")
	case a.uid != 0:
		return nil, hintf(faultf(iofs.ErrPermission, "only root can become %s: %w", name, iofs.ErrPermission), "sudo kmsfs kms serve --user %s", quote(name))
	}
	return &serverUser{name, uid, gid}, nil
}

// own gives unix sockets to the user.
func (u *serverUser) own(listeners []*server.Listener) error {
	if u == nil {
		return nil
	}
	for _, l := range listeners {
		path := l.Addr().String()
		if l.Addr().Network() != "unix" || strings.HasPrefix(path, "@") {
			continue
		}
		if err := os.Lchown(path, u.uid, u.gid); err != nil {
			return err
		}
	}
	return nil
}

// become drops all privileges for good. dir is the key store, which the user must own, but for the master key file: that
// is best root's, who has read it by now.
func (u *serverUser) become(dir string) error {
	if u == nil {
		return nil
	}
	for _, name := range []string{"", local.StoreName, local.LockName, local.UsageName, identity.DocumentName} {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		if errors.Is(err, unix.ENOENT) && name != "" {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		if int(st.Uid) != u.uid {
			return hintf(faultf(iofs.ErrPermission, "%s belongs to user %d and not to %s", path, st.Uid, u.name),
				"sudo chown -R %s: %s && sudo chown root: %s", quote(u.name), quote(dir), quote(filepath.Join(dir, local.KeyFileName)))
		}
	}
	// The calls of package syscall act on all threads.
	for _, step := range []struct {
		name string
		err  func() error
	}{
		{"setgroups", func() error { return syscall.Setgroups([]int{u.gid}) }},
		{"setresgid", func() error { return syscall.Setresgid(u.gid, u.gid, u.gid) }},
		{"setresuid", func() error { return syscall.Setresuid(u.uid, u.uid, u.uid) }},
	} {
		if err := step.err(); err != nil {
			return os.NewSyscallError(step.name, err)
		}
	}
	if syscall.Setresuid(0, 0, 0) == nil {
		return errors.New("the privileges of root came back")
	}
	// A change of user makes a process dumpable again, where the system is set so.
	return os.NewSyscallError("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}
