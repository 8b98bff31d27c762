package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// target is a directory to work in, and the daemon that serves it, if any.
type target struct {
	name, dir string
	daemon    *exec.Cmd
	exited    chan error
}

// patience is how long a mount may take to come or to go.
const patience = 30 * time.Second

func targetNames() []string {
	return []string{"plain", "loopback", "loopback-writeback", "kmsfs", "gocryptfs"}
}

// start makes the target below c.dir. It returns nil where a program is not installed.
func start(ctx context.Context, c config, name string) (*target, error) {
	home := filepath.Join(c.dir, name)
	backing, mount := filepath.Join(home, "backing"), filepath.Join(home, "mount")
	if err := errors.Join(os.MkdirAll(backing, 0o755), os.MkdirAll(mount, 0o755)); err != nil {
		return nil, err
	}
	switch name {
	case "plain":
		return &target{name: name, dir: backing}, nil
	case "loopback", "loopback-writeback":
		program, err := build(ctx, c.dir, "./tests/loopback")
		if err != nil {
			return nil, err
		}
		args := []string{backing, mount}
		if name == "loopback-writeback" {
			args = append([]string{"--writeback"}, args...)
		}
		return serve(name, mount, exec.Command(program, args...))
	case "kmsfs":
		program := c.kmsfs
		if program == "" {
			var err error
			if program, err = build(ctx, c.dir, "./cmd/kmsfs"); err != nil {
				return nil, err
			}
		}
		keys := filepath.Join(home, "keys")
		return serve(name, mount, exec.Command(program, "mount", "--init", "--foreground", "--key-store", keys, backing, mount))
	case "gocryptfs":
		program, err := exec.LookPath("gocryptfs")
		if err != nil {
			return nil, nil
		}
		pass := filepath.Join(home, "pass")
		if err := os.WriteFile(pass, []byte("not a secret"), 0o600); err != nil {
			return nil, err
		}
		if err := command(ctx, home, program, "-q", "-init", "-scryptn", "12", "-passfile", pass, backing); err != nil {
			return nil, err
		}
		return serve(name, mount, exec.Command(program, "-q", "-fg", "-passfile", pass, backing, mount))
	}
	return nil, fmt.Errorf("no such target; there are %v", targetNames())
}

// build builds a command of this module.
func build(ctx context.Context, dir, pkg string) (string, error) {
	program := filepath.Join(dir, "bin", filepath.Base(pkg))
	return program, command(ctx, ".", "go", "build", "-o", program, pkg)
}

// serve starts a daemon and waits until it has mounted.
func serve(name, mount string, daemon *exec.Cmd) (*target, error) {
	t := &target{name: name, dir: mount, daemon: daemon, exited: make(chan error, 1)}
	daemon.Stderr = os.Stderr
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for peerbench, which unmounts
	if err := daemon.Start(); err != nil {
		return nil, err
	}
	go func() { t.exited <- daemon.Wait() }()
	const fuseMagic = 0x65735546
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-t.exited:
			return nil, fmt.Errorf("ended before it mounted: %w", err)
		default:
		}
		var st syscall.Statfs_t
		if syscall.Statfs(mount, &st) == nil && st.Type == fuseMagic {
			return t, nil
		}
	}
	return nil, errors.Join(errors.New("does not mount"), daemon.Process.Kill())
}

// stop unmounts and waits for the daemon's end.
func (t *target) stop() error {
	if t.daemon == nil {
		return nil
	}
	err := syscall.Unmount(t.dir, 0)
	for end := time.Now().Add(patience / 3); err == syscall.EBUSY && time.Now().Before(end); err = syscall.Unmount(t.dir, 0) {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("unmount %s: %w", t.dir, err), syscall.Unmount(t.dir, syscall.MNT_DETACH), t.daemon.Process.Kill())
	}
	select {
	case <-t.exited:
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s lives on after the unmount", t.name), t.daemon.Process.Kill())
	}
}

// empty removes what is in the target's directory.
func (t *target) empty() error {
	entries, err := os.ReadDir(t.dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(t.dir, e.Name())))
	}
	return err
}
