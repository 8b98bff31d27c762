// Package powercut_test cuts the power of a disk under a real file system with a vault on it: the disk is a file on a FUSE
// mount of the test, which remembers each write and flush, under a loop device. A worker on the mount notes what it was told
// is durable; then disks are made as a cut at random moments may have left them, with any of the unflushed blocks or sectors
// lost, and everything that was promised is looked for.
package powercut_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// TestPowerCut cuts the power KMSFS_TEST_CUTS times (70) on each file system. A long run:
//
//	KMSFS_TEST_CUTS=1000 go test -timeout 0 ./tests/powercut
func TestPowerCut(t *testing.T) {
	lab.NeedRoot(t)
	lab.Need(t, "losetup")
	lab.NeedFUSE(t, 0)
	cuts := 70
	if testing.Short() {
		cuts = 8
	}
	cuts = number(t, "KMSFS_TEST_CUTS", cuts)
	seed := uint64(number(t, "KMSFS_TEST_SEED", int(time.Now().UnixNano()&0xffffff)))
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			if failed := cutPower(t, kind, cuts, seed, honest); failed > 0 {
				t.Errorf("%d failures", failed)
			}
		})
	}
}

// TestControls cuts the power of what is known: ext4 itself and go-fuse's loopback on it keep the same promises, and a disk that takes
// no notice of flushes is found out.
func TestControls(t *testing.T) {
	lab.NeedRoot(t)
	lab.Need(t, "losetup")
	lab.NeedFUSE(t, 0)
	cuts := number(t, "KMSFS_TEST_CUTS", 12)
	seed := uint64(number(t, "KMSFS_TEST_SEED", int(time.Now().UnixNano()&0xffffff)))
	for name, d := range map[string]honesty{"plain": honest, "loopback": honest, "kmsfs": lying} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KMSFS_TEST_FS", name)
			if failed := cutPower(t, "ext4", cuts, seed, d); (failed > 0) != (d == lying) {
				t.Errorf("%d failures", failed)
			}
		})
	}
}

// honesty says whether a disk keeps what it was told to flush.
type honesty bool

const (
	honest honesty = true
	lying  honesty = false
)

func number(t *testing.T, env string, usual int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// mkfs has the options of mkfs for each kind; no discards, which the disk does not take.
func mkfs(kind string) []string {
	switch kind {
	case "ext4":
		return []string{"-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-O", "ea_inode", "-J", "size=8"}
	case "xfs":
		return []string{"-q", "-K", "-f"}
	}
	return []string{"-q", "-K", "-f"}
}

// cutPower works on a file system of that kind, and returns after how many cuts something was wrong.
func cutPower(t *testing.T, kind string, cuts int, seed uint64, how honesty) (failed int) {
	lab.Need(t, "mkfs."+kind)
	t.Logf("KMSFS_TEST_SEED=%d", seed)
	d := &disk{}
	device := d.loopDevice(t)
	lab.Run(t, "/", "mkfs."+kind, append(mkfs(kind), device)...)
	at := lab.Subdir(t, lab.Dir(t), "fs", 0o755)
	if out, err := exec.Command("mount", "-t", kind, device, at).CombinedOutput(); err != nil {
		t.Skipf("mount %s: %v: %s (the %s module is needed)", kind, err, out, kind)
	}
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	m := lab.MountNew(t, lab.Options{Vault: lab.Subdir(t, at, "work", 0o755)})
	unix.Sync()
	start := d.now()
	d.lie(how == lying)
	w := newWorker(m.Dir, d.now, seed)
	steps := number(t, "KMSFS_TEST_STEPS", 250)
	for i := range steps {
		if err := w.step(i); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if i%40 == 39 && m.Dir != m.Backing {
			time.Sleep(time.Second / 4) // let what is deferred happen
		}
	}
	end := d.now()
	if m.Dir != m.Backing {
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	unmount(t, at)
	mounted = false
	h := &history{log: d.events(), durable: map[int64][]byte{}}
	random := rand.New(rand.NewPCG(seed, 2))
	points := make([]int, cuts)
	for i := range points {
		points[i] = start + (end-start)*i/cuts + random.IntN((end-start)/cuts+1)
	}
	image := filepath.Join(lab.Dir(t), "image")
	for i, point := range points {
		torn := i%2 == 1 && lab.IsKMSFS() && kind != "btrfs" // which, like a plain file, does not survive half of its blocks
		if err := h.cut(image, point, torn, random); err != nil {
			t.Fatal(err)
		}
		if wrong := look(t, kind, image, at, m, w, point); len(wrong) > 0 {
			failed++
			t.Logf("cut %d at write %d of %d (sectors torn: %v): %s", i, point, end, torn, strings.Join(wrong, "; "))
		}
		if failed >= 5 {
			break
		}
	}
	promises := 0
	for _, n := range w.names {
		promises += len(n.promises)
	}
	t.Logf("%d cuts among %d writes and flushes, %d promises, %d failures", len(points), end-start, promises, failed)
	if promises < steps/3 {
		t.Errorf("only %d promises were made in %d steps", promises, steps)
	}
	return failed
}

// look mounts the image of a disk, and the vault on it, where they were, and returns what is wrong.
func look(t *testing.T, kind, image, at string, m *lab.Mount, w *worker, point int) []string {
	t.Helper()
	if out, err := exec.Command("mount", "-t", kind, "-o", "loop", image, at).CombinedOutput(); err != nil {
		return []string{"the file system below does not mount: " + string(out)}
	}
	defer unmount(t, at)
	if m.Dir == m.Backing {
		return w.check(m.Dir, point)
	}
	if err := m.Start(); err != nil {
		return []string{err.Error()}
	}
	wrong := w.check(m.Dir, point)
	if err := m.Unmount(); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// unmount unmounts what is mounted there; who has just ended may hold it for a moment.
func unmount(t *testing.T, dir string) {
	t.Helper()
	var err error
	for range 100 {
		if err = unix.Unmount(dir, 0); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("unmount %s: %v", dir, err)
	_ = unix.Unmount(dir, unix.MNT_DETACH)
}
