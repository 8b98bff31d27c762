package shared_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
	"kmsfs/tests/metamorphic"
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
	lab.Binary(t, "cmd/kmsfs")                      // before there is no network
	which := flag.Lookup("test.run").Value.String() // perhaps of its parts
	if !strings.Contains(which, "TestGluster") {
		which = "^TestGluster$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+which, "-test.v", "-test.timeout=0")
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
	dir     string
	clients [2]string
}

// inGluster is TestGluster in the namespaces.
func inGluster(t *testing.T) {
	v := startGluster(t)
	check(t, os.Mkdir(v.clients[0]+"/vault", 0o755))
	a := lab.MountNew(t, lab.Options{Shared: true, Backing: v.clients[0] + "/vault"})
	p := &pair{[]*lab.Mount{a, lab.MountBeside(t, a, v.clients[1]+"/vault", lab.Options{Shared: true})}}
	names := []string{"close to open", "names", "append", "append without locks", "overwrite", "rename and link", "deleted while open", "mkdir -p",
		"locks", "lock lists", "waiting for locks", "stopped", "sqlite", "exclusive creates", "creates", "directories", "rewrap", "kill"}
	if os.Getenv("KMSFS_TEST_SECONDS") != "" { // half a minute each
		names = append(names, "crowd", "git")
	}
	run(t, p, names...)
	t.Run("like a plain directory", func(t *testing.T) { metamorphosis(t, a) })
	t.Run("brick", func(t *testing.T) { v.bricks(t, p) })
	t.Run("caching client", func(t *testing.T) { v.cachingRefused(t, a) })
}

// startGluster starts everything, or skips the test and says what failed.
func startGluster(t *testing.T) *volume {
	t.Helper()
	v := &volume{dir: lab.Dir(t)}
	need := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Skipf("GlusterFS does not start here: %s: %v", what, err)
		}
	}
	need("private mounts", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	need("the mounts of others", letGoOfMounts())
	need("/proc", unix.Mount("proc", "/proc", "proc", 0, ""))
	need("the loopback interface", tell(exec.Command("ip", "link", "set", "lo", "up")))
	for _, dir := range []string{"/run", "/var/lib/glusterd", "/var/log/glusterfs"} {
		need(dir, unix.Mount("none", dir, "tmpfs", 0, "mode=0755"))
	}
	for _, dir := range []string{"/run/gluster", "/var/log/glusterfs/bricks"} {
		need(dir, os.Mkdir(dir, 0o755))
	}
	vol := `volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
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
	disks := lab.Subdir(t, v.dir, "disks", 0o755)
	need("memory", unix.Mount("none", disks, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(disks, unix.MNT_DETACH) }) // it ends with the namespace in any case
	for i := range 2 {
		disk, brick := fmt.Sprint(disks, "/", i), lab.Subdir(t, v.dir, fmt.Sprint("brick", i), 0o755)
		need("a disk", os.WriteFile(disk, nil, 0o600))
		need("a disk", os.Truncate(disk, 1<<30))
		need("a disk", tell(exec.Command("mkfs.ext4", "-q", "-F", disk)))
		need("a disk", tell(exec.Command("mount", "-o", "loop", disk, brick)))
		t.Cleanup(func() { _ = unix.Unmount(brick, unix.MNT_DETACH) })
		args = append(args, fmt.Sprintf("%s:%s", host, lab.Subdir(t, brick, "data", 0o755)))
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

// letGoOfMounts takes away, in this namespace, what other tests have mounted when it was made: their daemons and disks would be
// kept until it ends.
func letGoOfMounts() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	for _, line := range slices.Backward(lines) { // what is mounted on something comes after it
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if strings.HasPrefix(f[4], os.TempDir()+"/") || strings.Contains(line, " - fuse") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH) // those below another one have gone with it
		}
	}
	return nil
}

const host = "127.0.0.2" // 127.0.0.1 is refused for bricks

// gluster runs the command of that name.
func (v *volume) gluster(args ...string) error {
	return tell(exec.Command("gluster", append([]string{"--mode=script"}, args...)...))
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
func (v *volume) bricks(t *testing.T, p *pair) {
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

// cachingRefused holds that a client that caches is told of, with what to do, and not used.
func (v *volume) cachingRefused(t *testing.T, m *lab.Mount) {
	check(t, v.gluster("volume", "set", "v", "performance.quick-read", "on"))
	defer func() { check(t, v.gluster("volume", "set", "v", "performance.quick-read", "off")) }()
	layer := v.clients[0] + "/.meta/graphs/active/v-quick-read"
	check(t, eventually(func() error { _, err := os.Stat(layer); return err }))
	cmd := exec.Command(lab.Binary(t, "cmd/kmsfs"), "mount", "--shared", "--foreground", "--key-store", m.Keys(), m.Backing,
		lab.Subdir(t, lab.Dir(t), "mount", 0o755))
	out, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("for o in quick-read; do gluster volume set v performance.$o off; done")) {
		t.Errorf("mounted through a client that caches: %v\n%s", err, out)
	}
}

// endBrick ends the server of a replica with SIGKILL.
func (v *volume) endBrick(i int) error {
	name := strings.ReplaceAll(strings.TrimPrefix(fmt.Sprintf("%s/brick%d/data", v.dir, i), "/"), "/", "-")
	b, err := os.ReadFile("/run/gluster/vols/v/" + host + "-" + name + ".pid")
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	_, err = unix.Wait4(pid, nil, 0, nil) // this is process 1: without it glusterd would take it for alive
	return err
}

// healed waits until both replicas are there, for each client too, and have the same.
func (v *volume) healed() error {
	for _, client := range v.clients {
		for brick := range 2 {
			if err := eventually(func() error {
				b, err := os.ReadFile(fmt.Sprintf("%s/.meta/graphs/active/v-client-%d/private", client, brick))
				if err == nil && !bytes.Contains(b, []byte("connected = 1")) {
					err = fmt.Errorf("a client is not connected to brick %d: %s", brick, b)
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	var out []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		_ = v.gluster("volume", "heal", "v") // it begins by itself too, later
		var err error
		out, err = exec.Command("gluster", "--mode=script", "volume", "heal", "v", "info").Output()
		if err == nil && bytes.Count(out, []byte("Number of entries: 0\n")) == 2 && bytes.Count(out, []byte("Status: Connected")) == 2 {
			return nil
		}
	}
	return fmt.Errorf("the replicas still differ: %s", out)
}

// metamorphosis plays random lists of operations on the mount and on a plain directory of a local file system, without what
// GlusterFS 10.3 has not got.
func metamorphosis(t *testing.T, m *lab.Mount) {
	beside := lab.Dir(t)
	tree := func(name, root string) metamorphic.Contestant {
		return metamorphic.Contestant{Name: name, Fresh: func(run string) (posix.FS, error) {
			dir := filepath.Join(root, run)
			return posix.NewDir(dir), os.Mkdir(dir, 0o755)
		}}
	}
	a := &metamorphic.Arena{Remount: m.Remount, Contestants: []metamorphic.Contestant{tree("plain", beside), tree("mount", m.Dir)}}
	for seed, end := uint64(1), time.Now().Add(seconds(t)); time.Now().Before(end); seed++ {
		var ops []metamorphic.Op
		for _, op := range metamorphic.Generate(seed, 200, metamorphic.Limits{}) {
			switch {
			case op.Do == "rename" && op.Flags&unix.RENAME_EXCHANGE != 0: // it cannot
			case op.Mtime != nil && op.Mtime.Sec > time.Now().Unix(): // nothing but a later time takes its place
			default:
				ops = append(ops, op)
			}
		}
		var d *metamorphic.Divergence
		if err := a.Run(ops); errors.As(err, &d) {
			t.Fatalf("seed %d: %v\nall of it: %v", seed, d, d.Ops)
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
