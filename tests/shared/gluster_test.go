package shared_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// TestGluster runs the scenarios on two mounts of a vault on a GlusterFS volume with two replicas, each through a client of its
// own, and ends and restarts the servers of the replicas meanwhile. Everything runs in namespaces of its own, for mounts,
// processes and the network: it uses no port of this machine, and ends with the test, whatever happens.
func TestGluster(t *testing.T) {
	if !lab.IsKMSFS() {
		t.Skip("two mounts of one vault are about kmsfs: unset KMSFS_TEST_FS")
	}
	if os.Getenv(childEnv) == "gluster" {
		inGluster(t)
		return
	}
	lab.NeedRoot(t)
	for _, program := range []string{"glusterd", "gluster", "glusterfs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing: apt-get install glusterfs-server glusterfs-client", program)
		}
	}
	lab.NeedFUSE(t, 0)
	lab.Binary(t, "cmd/kmsfs") // before there is no network
	args := []string{"-test.run=^TestGluster$", "-test.v", "-test.timeout=0"}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childEnv+"=gluster")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.Contains(out, []byte("--- SKIP: TestGluster ")) {
		t.Skipf("%s", out)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in its namespaces: %v", err)
	}
}

// volume is a GlusterFS volume of two bricks, and its clients.
type volume struct {
	t       *testing.T
	dir     string
	clients [2]string
}

// inGluster is TestGluster in the namespaces.
func inGluster(t *testing.T) {
	v := startGluster(t)
	for _, c := range v.clients {
		t.Logf("%s is a client", c)
	}
	check(t, os.Mkdir(v.clients[0]+"/vault", 0o755))
	a := lab.MountNew(t, lab.Options{Shared: true, Backing: v.clients[0] + "/vault"})
	p := &pair{[2]*lab.Mount{a, lab.MountBeside(t, a, v.clients[1]+"/vault", lab.Options{Shared: true})}}
	run(t, p)
	t.Run("like a plain directory", func(t *testing.T) { metamorphosis(t, a) })
	t.Run("brick", func(t *testing.T) { v.bricks(p) })
}

// startGluster starts everything, or skips the test and says what failed.
func startGluster(t *testing.T) *volume {
	t.Helper()
	v := &volume{t: t, dir: lab.Dir(t)}
	need := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Skipf("GlusterFS does not start here: %s: %v", what, err)
		}
	}
	need("private mounts", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	need("/proc", unix.Mount("proc", "/proc", "proc", 0, ""))
	need("the loopback interface", tell(exec.Command("ip", "link", "set", "lo", "up")))
	for _, dir := range []string{"/var/lib/glusterd", "/run/gluster", "/var/log/glusterfs"} {
		need(dir, os.MkdirAll(dir, 0o755))
		need(dir, unix.Mount("none", dir, "tmpfs", 0, ""))
	}
	need("the place for logs", os.Mkdir("/var/log/glusterfs/bricks", 0o755))
	vol := `volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
    option glusterd-sockfile ` + socket + `
    option transport-type socket
    option transport.socket.bind-address ` + host + `
    option transport.address-family inet
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
`
	need("glusterd", os.WriteFile(v.dir+"/glusterd.vol", []byte(vol), 0o600))
	need("glusterd", tell(exec.Command("glusterd", "-f", v.dir+"/glusterd.vol", "-p", v.dir+"/glusterd.pid")))
	need("glusterd", eventually(func() error { return v.gluster("volume", "list") }))
	args := []string{"volume", "create", "v", "replica", "2"}
	for i := range 2 {
		args = append(args, fmt.Sprintf("%s:%s", host, lab.Subdir(t, v.dir, fmt.Sprint("brick", i), 0o755)))
	}
	need("volume create", v.gluster(append(args, "force")...))
	// What caches in the client: see SEMANTICS.md, "Shared storage".
	for _, o := range []string{"write-behind", "io-cache", "read-ahead", "quick-read", "stat-prefetch", "open-behind", "readdir-ahead"} {
		need("volume set", v.gluster("volume", "set", "v", "performance."+o, "off"))
	}
	need("volume start", v.gluster("volume", "start", "v"))
	for i := range v.clients {
		v.clients[i] = lab.Subdir(t, v.dir, fmt.Sprint("client", i), 0o755)
		need("client", tell(exec.Command("glusterfs", "-s", host, "--volfile-id", "v", "--attribute-timeout=0", "--entry-timeout=0",
			"--negative-timeout=0", v.clients[i])))
		t.Cleanup(func() {
			if err := eventually(func() error { return unix.Unmount(v.clients[i], 0) }); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
		need("client", eventually(func() error {
			var st unix.Statfs_t
			if err := unix.Statfs(v.clients[i], &st); err != nil || st.Type != unix.FUSE_SUPER_MAGIC {
				return fmt.Errorf("not mounted: %v", err)
			}
			return nil
		}))
	}
	return v
}

const (
	host   = "127.0.0.2" // 127.0.0.1 is refused for bricks
	socket = "/run/gluster/glusterd.socket"
)

// gluster runs the command of that name.
func (v *volume) gluster(args ...string) error {
	return tell(exec.Command("gluster", append([]string{"--mode=script", "--glusterd-sock=" + socket}, args...)...))
}

// tell runs a command; the error has what it said.
func tell(c *exec.Cmd) error {
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", c, err, bytes.TrimSpace(out))
	}
	return nil
}

// bricks ends the server of one replica in the middle of a load and starts it again, then the other one's. Nothing fails and
// nothing wrong is read; in the end each replica alone has everything.
func (v *volume) bricks(p *pair) {
	t := v.t
	dir := "bricks"
	check(t, os.Mkdir(p.path(0, dir), 0o755))
	for round := range 2 {
		file := filepath.Join(dir, fmt.Sprint("f", round))
		fill(t, p.path(0, file))
		third := seconds(t) / 3
		done := make(chan error, 1)
		go func() {
			time.Sleep(third)
			err := v.endBrick(round)
			time.Sleep(third)
			if err == nil {
				err = v.gluster("volume", "start", "v", "force")
			}
			done <- err
		}()
		p.load(t, 2, func(side, id int, going func() bool) error {
			w := overwriter{r: rand.New(rand.NewPCG(uint64(id), 2)), id: id, writes: id < 2}
			for n := 0; going(); n++ {
				if err := w.once(p.path(side, file), n); err != nil {
					return err
				}
				if err := os.WriteFile(p.path(side, dir, fmt.Sprintf("new-%d-%d", id, n%8)), stamp(id, n), 0o600); err != nil {
					return err
				}
			}
			return nil
		})
		check(t, <-done)
		check(t, v.healed())
		for side := range p.mounts {
			checkBlocks(t, p.path(side, file))
		}
	}
	for brick := range 2 {
		check(t, v.endBrick(brick))
		for side := range p.mounts {
			for round := range 2 {
				checkBlocks(t, p.path(side, dir, fmt.Sprint("f", round)))
			}
		}
		check(t, v.gluster("volume", "start", "v", "force"))
		check(t, v.healed())
	}
}

// endBrick ends the server of a replica with SIGKILL.
func (v *volume) endBrick(i int) error {
	name := strings.ReplaceAll(strings.TrimPrefix(fmt.Sprintf("%s/brick%d", v.dir, i), "/"), "/", "-")
	b, err := os.ReadFile("/run/gluster/vols/v/" + host + "-" + name + ".pid")
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	return unix.Kill(pid, unix.SIGKILL)
}

// healed waits until both replicas are there and have the same.
func (v *volume) healed() error {
	var out []byte
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		_ = v.gluster("volume", "heal", "v") // it begins by itself too, later
		var err error
		out, err = exec.Command("gluster", "--mode=script", "--glusterd-sock="+socket, "volume", "heal", "v", "info").Output()
		if err == nil && bytes.Count(out, []byte("Number of entries: 0\n")) == 2 && bytes.Count(out, []byte("Status: Connected")) == 2 {
			return nil
		}
	}
	return fmt.Errorf("the replicas still differ: %s", out)
}

func metamorphosis(t *testing.T, m *lab.Mount) {}
