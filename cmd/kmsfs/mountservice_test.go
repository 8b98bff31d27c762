package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manager is the notification socket of a service manager.
type manager struct {
	t    *testing.T
	path string
	c    *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &manager{t, path, c}
}

// next is what the manager is told next, "" where that is nothing for so long.
func (m *manager) next(wait time.Duration) string {
	m.t.Helper()
	if err := m.c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		m.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := m.c.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// told waits for a message that begins so, over pings.
func (m *manager) told(want string) string {
	m.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		switch got := m.next(time.Second); {
		case strings.HasPrefix(got, want):
			return got
		case got != "" && got != "WATCHDOG=1":
			m.t.Fatalf("told %q, want %q", got, want)
		}
	}
	m.t.Fatalf("not told %q", want)
	return ""
}

// TestService: a mount in the foreground says when it is ready, pings, says that it stops, and goes on pinging until it has
// ended. One in the background says nothing.
func TestService(t *testing.T) {
	b, m := mountBench(t, "p"), newManager(t)
	b.ok("init --key-store keys v")
	b.mkdir("p")
	cmd := b.command("mount", "--foreground", "v", "p")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=200000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got, want := m.told("READY=1"), "READY=1\nSTATUS="+b.dir+"/v is mounted on "+b.dir+"/p"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	b.write("p/file", "it answers")
	for range 5 {
		m.told("WATCHDOG=1")
	}
	sendSignal(t, cmd.Process.Pid, syscall.SIGTERM)
	m.told("STOPPING=1\nSTATUS=Unmounting " + b.dir + "/p")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	quiet := func(what string, env ...string) {
		t.Helper()
		for m.next(10*time.Millisecond) != "" {
		}
		cmd := b.command("mount", "v", "p")
		cmd.Env = append(cmd.Env, env...)
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if got := m.next(500 * time.Millisecond); got != "" {
			t.Errorf("%s: told %q", what, got)
		}
		b.ok("umount p")
	}
	quiet("in the background", "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=200000")
}

// TestWatchdog: pings come while the check passes, and only then; one that hangs does not pass.
func TestWatchdog(t *testing.T) {
	m := newManager(t)
	env := map[string]string{"NOTIFY_SOCKET": m.path, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())}
	a := &app{env: func(name string) string { return env[name] }}
	var answer atomic.Pointer[error]
	hangs := errors.New("hangs")
	answer.Store(new(error))
	s := a.startService(mountPlan{Vault: "/v", Mountpoint: "/p"}, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
		err := *answer.Load()
		if err == hangs {
			<-ctx.Done()
			return ctx.Err()
		}
		return err
	})
	defer s.stop()
	m.told("READY=1")
	for range 3 {
		m.told("WATCHDOG=1")
	}
	for _, err := range []error{errors.New("statfs: EIO"), hangs} {
		answer.Store(&err)
		m.told("STATUS=The mount does not answer")
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			if got := m.next(50 * time.Millisecond); got != "" {
				t.Errorf("%v: told %q", err, got)
			}
		}
		answer.Store(new(error))
		if got := m.told("WATCHDOG=1"); !strings.Contains(got, "STATUS=/v is mounted") {
			t.Errorf("well again: told %q", got)
		}
		m.told("WATCHDOG=1")
	}
	var gone error = syscall.ENOTCONN // what is left to be written is being written
	answer.Store(&gone)
	for range 3 {
		m.told("WATCHDOG=1")
	}
	env["WATCHDOG_PID"] = "1"
	if every := a.watchdogTime(); every != 0 {
		t.Errorf("another process is asked for a ping every %v", every)
	}
}

// TestUnit: the service runs what there is, and systemd has nothing to say about it.
func TestUnit(t *testing.T) {
	b := newBench(t)
	b.fails(2, "unknown flag", "kmsfs mount --help", "unit v p -- --bla")
	b.fails(2, "no flag of mount", "kmsfs unit", "unit v p -- q")
	b.fails(2, "MOUNTPOINT is missing", "unit VAULT", "unit v")
	r := b.run([]string{"unit", "my %vault $HOME", "p", "--", "--allow-other", "--log-file=/var/log/a b"})
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	for _, want := range []string{"Type=notify\n", "WatchdogSec=", "LimitCORE=0\n", "LimitMEMLOCK=infinity\n",
		`ExecStart=/usr/local/bin/kmsfs mount --foreground --allow-other "--log-file=/var/log/a b" "` + b.dir + `/my %%vault $$HOME" ` + b.dir + "/p\n",
		"umount --lazy " + b.dir + "/p\n", `RequiresMountsFor="` + b.dir + `/my %%vault $HOME" ` + b.dir + "\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the unit lacks %q:\n%s", want, r.stdout)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing: apt-get install systemd")
	}
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	b.write("kmsfs-test.service", strings.ReplaceAll(r.stdout, "/usr/local/bin/kmsfs", program))
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", b.dir+"/kmsfs-test.service").CombinedOutput()
	if text := string(out); err != nil && strings.Contains(text, "kmsfs-test") || strings.Contains(text, "Unknown key") || strings.Contains(text, "ignoring") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, text)
	}
}
