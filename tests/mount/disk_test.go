package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// image is an ext4 file system in a sparse file, in a loop device.
type image struct {
	t        *testing.T
	path, at string
	mounted  bool
}

// newImage makes one of size bytes, as dir/image, and mounts it.
func newImage(t *testing.T, dir string, size int64) *image {
	t.Helper()
	lab.NeedRoot(t)
	lab.Need(t, "mkfs.ext4", "losetup")
	i := &image{t: t, path: dir + "/image", at: lab.Subdir(t, lab.Dir(t), "fs", 0o755)}
	check(t, os.WriteFile(i.path, nil, 0o600), "image")
	check(t, os.Truncate(i.path, size), "image")
	lab.Run(t, "/", "mkfs.ext4", "-q", "-F", "-O", "ea_inode", "-J", "size=4", "-m", "0", i.path)
	if err := i.mount(); err != nil {
		t.Skipf("%v (loop devices and ext4 are needed; in a container: --privileged)", err)
	}
	t.Cleanup(func() {
		if i.mounted {
			i.unmount()
		}
	})
	return i
}

func (i *image) mount() error {
	out, err := exec.Command("mount", "-o", "loop,nodev,errors=remount-ro", "-t", "ext4", i.path, i.at).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount ext4: %w: %s", err, out)
	}
	i.mounted = true
	return nil
}

func (i *image) unmount() {
	i.t.Helper()
	i.mounted = false
	if out, err := exec.Command("umount", i.at).CombinedOutput(); err != nil {
		i.t.Errorf("umount: %v: %s", err, out)
		_ = unix.Unmount(i.at, unix.MNT_DETACH)
	}
}

// device is the loop device's name.
func (i *image) device() string {
	return filepath.Base(lab.Run(i.t, "/", "findmnt", "-n", "-o", "SOURCE", i.at))
}

// worker writes files and knows what fsync(2) has confirmed of each, and what was written since.
type worker struct {
	t         *testing.T
	dir       string
	random    *rand.Rand
	confirmed map[string][]byte
	since     map[string][][]byte
	fails     map[error]int
}

func newWorker(t *testing.T, dir string) *worker {
	return &worker{t: t, dir: dir, random: rand.New(rand.NewPCG(1, 2)), confirmed: map[string][]byte{}, since: map[string][][]byte{}, fails: map[error]int{}}
}

// content is size bytes that do not come again.
func (w *worker) content(size int) []byte {
	b := make([]byte, size)
	for i := 0; i < size; i += 8 {
		x := w.random.Uint64()
		for k := i; k < min(i+8, size); k++ {
			b[k] = byte(x)
			x >>= 8
		}
	}
	return b
}

// write makes b the content of a file, as far as the disk lets it, and returns whether fsync has confirmed that.
func (w *worker) write(name string, b []byte) error {
	err := func() error {
		f, err := os.OpenFile(w.dir+"/"+name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		w.since[name] = append(w.since[name], b)
		_, err = f.WriteAt(b, 0)
		if e := f.Sync(); err == nil {
			err = e
		}
		return errors.Join(err, f.Close())
	}()
	var no unix.Errno
	switch {
	case err == nil:
		w.confirmed[name], w.since[name] = b, nil
	case errors.As(err, &no):
		w.fails[no]++
	default:
		w.t.Fatal(err)
	}
	return err
}

// look reads what was confirmed: each chunk as it was then or as it was written since.
func (w *worker) look(when string) {
	w.t.Helper()
	if len(w.confirmed) < 5 {
		w.t.Fatalf("%s: only %d files were confirmed", when, len(w.confirmed))
	}
	for _, name := range slices.Sorted(maps.Keys(w.confirmed)) {
		want := w.confirmed[name]
		got, err := os.ReadFile(w.dir + "/" + name)
		if err != nil {
			w.t.Errorf("%s: %v", when, err)
			continue
		}
		for at := 0; at < len(want); at += 4096 {
			part := func(b []byte) []byte { return b[min(at, len(b)):min(at+4096, len(b))] }
			if !bytes.Equal(part(got), part(want)) && !slices.ContainsFunc(w.since[name], func(b []byte) bool { return bytes.Equal(part(got), part(b)) }) {
				w.t.Errorf("%s: %s, %d bytes of %d: at %d it is neither as it was confirmed nor as it was written since", when, name, len(got), len(want), at)
				break
			}
		}
	}
}

// only fails the test where anything has failed with another errno.
func (w *worker) only(errnos ...error) {
	w.t.Helper()
	for err, n := range w.fails {
		if !slices.Contains(errnos, err) {
			w.t.Errorf("%d times %v", n, err)
		}
	}
	if len(w.fails) == 0 {
		w.t.Error("nothing has failed: the test shows nothing")
	}
}

// TestFullDisk fills a real file system: what was confirmed stays, also where it is written over on the full disk, deleting makes
// room again, and the vault unmounts and mounts.
func TestFullDisk(t *testing.T) {
	i := newImage(t, lab.Dir(t), 48<<20)
	m := lab.MountNew(t, lab.Options{Vault: lab.Subdir(t, i.at, "work", 0o755)})
	w := newWorker(t, m.Dir)
	full := 0
	for n := 0; full < 8 && n < 1000; n++ { // ever smaller
		if err := w.write(fmt.Sprintf("f%03d", n), w.content([]int{1 << 20, 300_000, 20_000, 700}[full/2])); err != nil {
			full++
		}
	}
	w.only(unix.ENOSPC)
	w.look("on the full disk")
	for k, name := range slices.Sorted(maps.Keys(w.confirmed)) { // with no room for a journal either
		if k%3 == 0 {
			_ = w.write(name, w.content(len(w.confirmed[name])))
		}
	}
	w.only(unix.ENOSPC)
	w.look("written over on the full disk")
	check(t, m.Remount(), "remount on the full disk")
	w.look("after a remount on the full disk")
	gone := 0
	for k, name := range slices.Sorted(maps.Keys(w.confirmed)) {
		if k%2 == 0 {
			check(t, os.Remove(m.Dir+"/"+name), "remove")
			gone += len(w.confirmed[name])
			delete(w.confirmed, name)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // the daemon closes what was deleted when the kernel has forgotten it
		var st unix.Statfs_t
		check(t, unix.Statfs(m.Dir, &st), "statfs")
		if free := int(st.Bavail * uint64(st.Bsize)); free > gone*3/4 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("of %d bytes that were deleted %d have come free", gone, free)
		}
	}
	for n := range gone / 2 >> 20 {
		check(t, w.write(fmt.Sprintf("g%03d", n), w.content(1<<20)), "write with room again")
	}
	w.look("with room again")
	check(t, m.Remount(), "remount")
	w.look("after another remount")
	t.Logf("%d files confirmed, failures: %v", len(w.confirmed), w.fails)
}

// TestReadOnlyDisk has the file system below turn read-only, as ext4 does when it finds an error: EROFS for who writes, reads go
// on, nothing that was confirmed is lost, and with the disk writable again all works.
func TestReadOnlyDisk(t *testing.T) {
	lab.Need(t, "findmnt")
	i := newImage(t, lab.Dir(t), 64<<20)
	m := lab.MountNew(t, lab.Options{Vault: lab.Subdir(t, i.at, "work", 0o755)})
	w := newWorker(t, m.Dir)
	for n := range 12 {
		check(t, w.write(fmt.Sprintf("f%03d", n), w.content(200_000)), "write")
	}
	check(t, w.write("f003", w.content(200_000)), "write over")
	trigger := "/sys/fs/ext4/" + i.device() + "/trigger_fs_error"
	if err := os.WriteFile(trigger, []byte("1"), 0); err != nil {
		t.Skipf("%v (a kernel with ext4's trigger_fs_error is needed)", err)
	}
	for n := range 8 {
		if err := w.write(fmt.Sprintf("f%03d", n), w.content(200_000)); err == nil {
			t.Errorf("file %d is confirmed on a disk that cannot be written", n)
		}
	}
	if err := os.Mkdir(m.Dir+"/new", 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("mkdir: %v", err)
	}
	if err := os.Remove(m.Dir + "/f011"); !errors.Is(err, unix.EROFS) {
		t.Errorf("remove: %v", err)
	}
	if err := os.Rename(m.Dir+"/f010", m.Dir+"/f011"); !errors.Is(err, unix.EROFS) {
		t.Errorf("rename: %v", err)
	}
	w.only(unix.EROFS, unix.EIO) // of ext4: EIO where its journal is gone
	w.look("on the read-only disk")
	if out, err := exec.Command("umount", m.Dir).CombinedOutput(); err != nil {
		t.Errorf("the mount does not end: %s", out)
	}
	_ = m.Kill() // what could not be written is no reason to live on
	i.unmount()
	fsck(t, i.path)
	check(t, i.mount(), "mount again")
	check(t, m.Start(), "mount the vault again")
	w.look("on a disk that works again")
	check(t, w.write("f000", w.content(200_000)), "write again")
	w.look("at the end")
	t.Logf("%d files confirmed, failures: %v", len(w.confirmed), w.fails)
}

// fsck mends an image.
func fsck(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-f", "-y", path).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
}

// TestDiskErrors has a real disk fail under a real file system: its image is on a file system with less room, so that the kernel
// is refused while it writes back. What fsync(2) confirmed is there when the disk works again.
func TestDiskErrors(t *testing.T) {
	lab.NeedRoot(t)
	small := lab.Subdir(t, lab.Dir(t), "small", 0o700)
	if err := unix.Mount("none", small, "tmpfs", unix.MS_NODEV, "size=40m"); err != nil {
		t.Skipf("mount tmpfs: %v (in a container: --cap-add SYS_ADMIN)", err)
	}
	t.Cleanup(func() { check(t, unix.Unmount(small, unix.MNT_DETACH), "unmount the small disk") })
	i := newImage(t, small, 256<<20)
	m := lab.MountNew(t, lab.Options{Vault: lab.Subdir(t, i.at, "work", 0o755)})
	w := newWorker(t, m.Dir)
	for n := 0; n < 300 && len(w.fails) == 0; n++ {
		_ = w.write(fmt.Sprintf("f%03d", n), w.content(300_000+n*1000))
	}
	for n := range 30 { // over and new, on the failing disk
		_ = w.write(fmt.Sprintf("f%03d", n*2), w.content(290_000))
		_ = w.write(fmt.Sprintf("g%03d", n), w.content(5000))
	}
	w.only(unix.EIO, unix.ENOSPC, unix.EROFS)
	if out, err := exec.Command("umount", m.Dir).CombinedOutput(); err != nil {
		t.Errorf("the mount does not end: %s", out)
	}
	_ = m.Kill()
	i.unmount()
	if err := unix.Mount("none", small, "tmpfs", unix.MS_REMOUNT|unix.MS_NODEV, "size=400m"); err != nil {
		t.Fatal(err)
	}
	fsck(t, i.path)
	check(t, i.mount(), "mount again")
	check(t, m.Start(), "mount the vault again")
	w.look("on a disk that works again")
	check(t, w.write("last", w.content(500_000)), "write again")
	check(t, m.Remount(), "remount")
	w.look("at the end")
	if log := m.Log(); strings.Contains(log, "damaged or forged") {
		t.Errorf("the log has damage:\n%s", log)
	}
	t.Logf("%d files confirmed, failures: %v", len(w.confirmed), w.fails)
}
