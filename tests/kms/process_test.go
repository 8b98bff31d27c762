package kms_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsfs/tests/internal/lab"
)

// status is a field of /proc/PID/status.
func procStatus(t *testing.T, pid int, field string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("no %s in\n%s", field, text)
	return ""
}

// describe makes a call that needs the key store.
func describe(b *bench, k accessKey) error {
	_, err := sdk(b.urls[0], k, nil).DescribeKey(b.t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("alias/first")})
	return err
}

// TestConfined looks at what the process may still do.
func TestConfined(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.user("alice", "user")
	b.start()
	if err := describe(b, k); err != nil {
		t.Fatal(err)
	}
	pid := b.server.Process.Pid
	for field, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2"} {
		if got := procStatus(t, pid, field); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%q, %v", tasks, err)
	}
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil && (!strings.Contains(string(text), "NoNewPrivs:\t1") || !strings.Contains(string(text), "Seccomp:\t2")) {
			t.Errorf("%s is not confined", task)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("core dumps: %s, %v", limits, err)
	}
	if locked := procStatus(t, pid, "VmLck"); locked == "0 kB" && !strings.Contains(b.log.String(), "memory is not locked") {
		t.Error("memory is not locked, and nothing was said")
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || strings.Contains(string(text), k.Secret) {
		t.Errorf("%q, %v", text, err)
	}
	b.stop()
}

// TestUser: the server becomes another user, who owns the key store, and works on as that one.
func TestUser(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	b := newBench(t)
	k := b.user("alice", "user", "administrator")
	socket := filepath.Join(b.dir, "s")
	b.flags = []string{"--user", "nobody", "--listen", "127.0.0.1:0", "--listen", "unix:" + socket}
	if err := b.tryStart(); err == nil {
		t.Fatal("the server became a user who does not own the key store")
	}
	if text := b.log.String(); !strings.Contains(text, "hint: sudo chown -R nobody:") {
		t.Errorf("it said %s", text)
	}
	lab.Run(t, b.dir, "chown", "-R", "nobody:", b.store())
	lab.Run(t, b.dir, "chown", "root:", filepath.Join(b.store(), "master.key"))
	b.start()
	pid := b.server.Process.Pid
	nobody := fmt.Sprint(lab.Nobody)
	for field, want := range map[string]string{"Uid": strings.Repeat(nobody+" ", 4), "Gid": strings.Repeat(nobody+" ", 4), "Groups": nobody + " ",
		"CapEff": "0000000000000000 ", "CapPrm": "0000000000000000 "} {
		if got := procStatus(t, pid, field); got+" " != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
	if st, err := os.Stat(socket); err != nil || st.Sys().(*syscall.Stat_t).Uid != lab.Nobody || st.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", st, err)
	}
	// Another process of that user cannot look inside.
	lab.As(lab.Nobody, func() {
		for _, name := range []string{"mem", "environ", "maps"} {
			f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err == nil {
				n, readErr := f.Read(make([]byte, 16))
				_ = f.Close()
				if readErr == nil || n > 0 {
					t.Errorf("%s of the server can be read by its user", name)
				}
			}
		}
	})
	if err := describe(b, k); err != nil {
		t.Error(err)
	}
	if _, err := sdk(b.urls[0], k, nil).CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Errorf("a change: %v\n%s", err, b.log)
	}
	later := b.user("bob", "user") // by root, while the server runs as nobody
	eventually(t, "a new user", func() bool { return describe(b, later) == nil })
	b.stop()
	trail := b.verified()
	for _, want := range []string{`"eventName":"CreateUser"`, `"eventName":"AttachUserPolicy"`, `"serviceEventDetails":{"accessKeyId":"` + later.ID + `"`} {
		if !strings.Contains(trail, want) {
			t.Errorf("the audit log has no %s", want)
		}
	}
}

// TestSystemd: a socket of the service manager is served, and it is told.
func TestSystemd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.user("alice", "user")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	_ = l.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	told := func(want string) {
		t.Helper()
		_ = notify.SetReadDeadline(time.Now().Add(20 * time.Second))
		text := make([]byte, 100)
		n, err := notify.Read(text)
		if err != nil || string(text[:n]) != want {
			t.Fatalf("the service manager was told %q, %v, want %s\n%s", text[:n], err, want, b.log)
		}
	}
	// Only a process knows its own id before it runs.
	cmd := b.command("kms", "serve")
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", b.program}, cmd.Args[1:]...)
	cmd.Path, err = exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(b.dir, "notify"))
	cmd.ExtraFiles = []*os.File{file}
	b.log = &tail{}
	cmd.Stderr = b.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.server, b.urls = cmd, []string{"http://" + l.Addr().String()}
	t.Cleanup(func() { b.end(cmd, syscall.SIGKILL) })
	told("READY=1")
	if err := describe(b, k); err != nil {
		t.Error(err)
	}
	if code := b.status("/healthz"); code != 200 {
		t.Errorf("health: %d", code)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, b.log)
	}
}

// TestStartFails: what keeps a server from starting is said in two lines, before anything is made.
func TestStartFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()
	busy := strings.TrimPrefix(b.urls[0], "http://")
	for _, c := range []struct {
		code        int
		words, hint string
		flags       []string
	}{
		{24, "address already in use", "", []string{"--listen", busy}},
		{24, "in use by another process", "", []string{"--listen", "127.0.0.1:0"}}, // the audit log
		{2, "no TLS", "--tls-cert", []string{"--listen", "0.0.0.0:0"}},
		{2, "HOST:PORT", "", []string{"--listen", "x"}},
		{2, "belong together", "--tls-key", []string{"--tls-cert", "x"}},
		{2, "TLS certificate", "PEM", []string{"--tls-cert", "x", "--tls-key", "y"}},
		{2, "--user", "useradd", []string{"--user", "no-such-user"}},
		{2, "negative", "", []string{"--timeout", "-1s"}},
		{22, "no such file", "", []string{"--audit", "/no/such/directory/audit.log", "--listen", "127.0.0.1:0"}},
	} {
		cmd := b.command(append([]string{"kms", "serve"}, c.flags...)...)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.words) || !strings.Contains(string(out), "hint: ") && c.hint != "" ||
			!strings.Contains(string(out), c.hint) {
			t.Errorf("%q: exit code %d, %s", c.flags, cmd.ProcessState.ExitCode(), out)
		}
	}
	b.stop()
}
