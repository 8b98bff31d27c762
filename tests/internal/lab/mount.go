package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a mount; the zero value is an exclusive mount by and for the user who runs the test.
type Options struct {
	// Vault is the directory to keep the vault in; a new one if empty. The vault is Vault/vault.
	Vault string
	// Backing is an empty directory to keep the vault in, if not Vault/vault; what else there is stays below Vault.
	Backing string
	// UID is who runs the daemon, if not the user who runs the test; that must be root then.
	UID uint32
	// Access and the rest stand for the flags of kmsfs mount.
	Shared, ReadOnly, AllowOther bool
	// Flags are more flags for kmsfs mount; other file systems do not get them.
	Flags []string
	// Keysource is a URL to use in place of a new key store, and Env more of the daemon's environment.
	Keysource string
	Env       []string
}

// Mount is a mounted file system and its daemon.
type Mount struct {
	// Dir is where it is mounted.
	Dir string
	// Backing is where its files really are.
	Backing string

	t       testing.TB
	o       Options
	keys    string
	program string
	daemon  *exec.Cmd
	exited  chan error
	log     *tail
}

// patience is how long a daemon may take to mount or to end.
const patience = 60 * time.Second

// MountNew mounts what KMSFS_TEST_FS says over an empty vault and waits until it answers. At the end of the test it is
// unmounted; a daemon that does not end cleanly, races or panics fails the test.
func MountNew(t testing.TB, o Options) *Mount {
	t.Helper()
	if o.UID == 0 {
		o.UID = uint32(os.Geteuid())
	}
	NeedFUSE(t, o.UID)
	if o.Vault == "" {
		o.Vault = Dir(t)
	}
	if o.Backing == "" {
		o.Backing = Subdir(t, o.Vault, "vault", 0o755)
	}
	m := &Mount{t: t, o: o, Backing: o.Backing, keys: Subdir(t, o.Vault, "keys", 0o700),
		Dir: Subdir(t, Dir(t), "mount", 0o755), log: &tail{}}
	if fsName() == "plain" {
		m.Dir = m.Backing
		return m
	}
	m.program = Binary(t, map[bool]string{true: "cmd/kmsfs", false: "tests/loopback"}[IsKMSFS()])
	for _, dir := range []string{m.Backing, m.keys, m.Dir} {
		if err := os.Chown(dir, int(o.UID), int(o.UID)); err != nil {
			t.Fatal(err)
		}
	}
	return m.first()
}

// MountAgain mounts the vault of m, which is not mounted now, with other options, in the same place. Vault and UID of o
// do not count.
func MountAgain(t testing.TB, m *Mount, o Options) *Mount {
	t.Helper()
	o.Vault, o.UID = m.o.Vault, m.o.UID
	again := &Mount{t: t, o: o, Backing: m.Backing, keys: m.keys, Dir: m.Dir, program: m.program, log: &tail{}}
	return again.first()
}

// MountBeside mounts the vault of m, which is mounted, in one more place, as another host would. Its daemon finds the
// vault at backing, or where m has it if that is empty. Vault and UID of o do not count.
func MountBeside(t testing.TB, m *Mount, backing string, o Options) *Mount {
	t.Helper()
	o.Vault, o.UID = m.o.Vault, m.o.UID
	if backing == "" {
		backing = m.Backing
	}
	beside := &Mount{t: t, o: o, Backing: backing, keys: m.keys, Dir: Subdir(t, Dir(t), "mount", 0o755), program: m.program, log: &tail{}}
	return beside.first()
}

func (m *Mount) first() *Mount {
	m.t.Helper()
	m.t.Cleanup(m.cleanUp)
	if err := m.Start(); err != nil {
		m.t.Fatal(err)
	}
	return m
}

// IsKMSFS says whether the tests run on kmsfs itself.
func IsKMSFS() bool { return fsName() == "kmsfs" }

// fsName is the environment's choice.
func fsName() string {
	if s := os.Getenv("KMSFS_TEST_FS"); s != "" {
		return s
	}
	return "kmsfs"
}

// args are the daemon's arguments.
func (m *Mount) args() []string {
	var a []string
	if IsKMSFS() {
		a = []string{"mount", "--init", "--foreground"}
		if m.o.Keysource != "" {
			a = append(a, "--keysource", m.o.Keysource)
		} else {
			a = append(a, "--key-store", m.keys)
		}
		if m.o.Shared {
			a = append(a, "--shared")
		}
		a = append(a, m.o.Flags...)
	} else if fsName() == "loopback-writeback" && !m.o.Shared {
		a = []string{"--writeback"}
	}
	if m.o.ReadOnly {
		a = append(a, "--read-only")
	}
	if m.o.AllowOther {
		a = append(a, "--allow-other")
	}
	return append(a, m.Backing, m.Dir)
}

// Start mounts again after Unmount or Kill.
func (m *Mount) Start() error {
	m.daemon = exec.Command(m.program, m.args()...)
	m.daemon.Stdout, m.daemon.Stderr = m.log, m.log
	m.daemon.Env = append(append(os.Environ(), "HOME="+m.keys, "GORACE=halt_on_error=0"), m.o.Env...)
	if m.o.UID != uint32(os.Geteuid()) {
		m.daemon.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: m.o.UID, Gid: m.o.UID}}
	}
	if err := m.daemon.Start(); err != nil {
		return err
	}
	m.exited = make(chan error, 1)
	go func(c *exec.Cmd, exited chan<- error) { exited <- c.Wait() }(m.daemon, m.exited)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-m.exited:
			m.daemon = nil
			return fmt.Errorf("the daemon ended before it mounted: %v\n%s", err, m.log)
		default:
		}
		var st unix.Statfs_t
		if unix.Statfs(m.Dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer after %v\n%s", m.daemon, patience, m.log)
}

// Unmount unmounts and waits for the daemon's end, which must be clean.
func (m *Mount) Unmount() error {
	err := busyRetry(func() error {
		if !IsKMSFS() {
			return unix.Unmount(m.Dir, 0)
		}
		if out, err := exec.Command(m.program, "umount", m.Dir).CombinedOutput(); err != nil {
			return fmt.Errorf("kmsfs umount: %w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.wait()
}

// wait waits for the daemon's end. One that does not come is asked for its goroutines and killed.
func (m *Mount) wait() error {
	d := m.daemon
	m.daemon = nil
	select {
	case err := <-m.exited:
		if err != nil {
			return fmt.Errorf("the daemon ended with %w\n%s", err, m.log)
		}
		return nil
	case <-time.After(patience):
		_ = d.Process.Signal(syscall.SIGQUIT)
		time.Sleep(time.Second)
		_ = d.Process.Kill()
		return fmt.Errorf("the daemon lives on after the unmount\n%s", m.log)
	}
}

// Remount unmounts and mounts again.
func (m *Mount) Remount() error {
	if m.daemon == nil { // plain
		return nil
	}
	if err := m.Unmount(); err != nil {
		return err
	}
	return m.Start()
}

// Kill ends the daemon with SIGKILL, at whatever it is doing, and takes the dead mount away.
func (m *Mount) Kill() error {
	err := m.daemon.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-m.exited
	m.daemon = nil
	return errors.Join(err, unix.Unmount(m.Dir, unix.MNT_DETACH))
}

// Signal sends the daemon a signal. After SIGKILL, Kill takes the dead mount away.
func (m *Mount) Signal(s syscall.Signal) error { return m.daemon.Process.Signal(s) }

// Keys is the directory of the key store.
func (m *Mount) Keys() string { return m.keys }

// Log is what the daemon has logged, the end of it.
func (m *Mount) Log() string { return m.log.String() }

// PID is the daemon's process id.
func (m *Mount) PID() int { return m.daemon.Process.Pid }

// cleanUp unmounts what is still mounted and looks through the daemon's log.
func (m *Mount) cleanUp() {
	if m.daemon != nil {
		if err := m.Unmount(); err != nil {
			m.t.Errorf("unmount: %v", err)
		}
	}
	if m.daemon != nil { // it could not be unmounted
		if err := m.Kill(); err != nil {
			m.t.Errorf("kill: %v", err)
		}
	}
	log := m.log.String()
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		if strings.Contains(log, bad) {
			m.t.Errorf("the daemon's log has %q", bad)
		}
	}
	if m.t.Failed() && log != "" {
		m.t.Logf("the daemon's log:\n%s", log)
	}
}

// busyRetry calls f again for some seconds while it fails: a process that has just ended may hold the mount a moment.
func busyRetry(f func() error) error {
	err := f()
	for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); err = f() {
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
