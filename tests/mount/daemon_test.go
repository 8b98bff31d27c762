package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// proc reads a file of the daemon in /proc, with single spaces.
func proc(t *testing.T, m *lab.Mount, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", m.PID(), name))
	check(t, err, name)
	return strings.Join(strings.Fields(string(b)), " ")
}

// TestUndumpable: the daemon dumps no core, and another process of the same user cannot read its memory.
func TestUndumpable(t *testing.T) {
	lab.NeedRoot(t)
	m := lab.MountNew(t, lab.Options{UID: lab.Nobody})
	if got := proc(t, m, "limits"); !strings.Contains(got, "Max core file size 0 0 ") {
		t.Errorf("limits of the daemon: %s", got)
	}
	for _, name := range []string{"mem", "environ", "maps"} {
		path := fmt.Sprintf("/proc/%d/%s", m.PID(), name)
		st, err := os.Stat(path)
		check(t, err, "stat")
		if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 0 { // proc(5): root's, where a process is not dumpable
			t.Errorf("%s belongs to user %d", path, uid)
		}
		lab.As(lab.Nobody, func() { _, err = os.ReadFile(path) })
		if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
			t.Errorf("the user of the daemon reads %s: %v", path, err)
		}
	}
	check(t, errOf(lab.Nobody, func() error { return os.WriteFile(m.Dir+"/file", []byte("text"), 0o644) }), "write")
}

func errOf(id int, f func() error) (err error) {
	lab.As(id, func() { err = f() })
	return err
}

// TestLocked: root's daemon has all of its memory locked, what it gets later too, and gives back what it no longer needs.
func TestLocked(t *testing.T) {
	lab.NeedRoot(t)
	if lab.Race {
		t.Skip("the race detector's memory would be measured: run it without -race")
	}
	m := lab.MountNew(t, lab.Options{})
	start := rss(t, m)
	file := filepath.Join(m.Dir, "file")
	data := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB
	check(t, os.WriteFile(file, data, 0o644), "write")
	check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0), "drop caches")
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read: %d bytes, %v", len(got), err)
	}
	locked, all := anonymous(t, m)
	if all == 0 || locked != all {
		t.Errorf("%d of %d KiB of memory are locked", locked, all)
	}
	for end := time.Now().Add(20 * time.Second); rss(t, m) > start+20<<20 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
	}
	if idle := rss(t, m); idle > start+20<<20 {
		t.Errorf("%d bytes when idle, %d at the start", idle, start)
	}
	t.Logf("%d KiB locked, %d bytes at the start, %d when idle", locked, start, rss(t, m))
}

// anonymous is how much memory of the daemon is locked, of all that is no copy of a file, in KiB.
func anonymous(t *testing.T, m *lab.Mount) (locked, all int) {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", m.PID()))
	check(t, err, "smaps")
	n := 0
	for line := range strings.Lines(string(smaps)) {
		if rest, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			_, err := fmt.Sscan(rest, &n)
			check(t, err, "smaps")
		}
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		switch {
		case !ok || strings.Contains(flags, " dp"): // the latter is for getrandom(2), and is dropped where it would be swapped
		case strings.Contains(flags, " lo"):
			locked += n
			fallthrough
		default:
			all += n
		}
	}
	return locked, all
}

// TestFewFiles: a daemon that may have 256 files open serves many more: read, written, deleted while they are open, one after
// another and all at once. On a shared mount each file takes one while it is open.
func TestFewFiles(t *testing.T) {
	const limit = 256
	var own syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own), "getrlimit")
	for name, n := range map[string]struct{ many, each int }{"exclusive": {2000, 5000}, "shared": {100, 500}} {
		t.Run(name, func(t *testing.T) {
			if own.Cur < uint64(n.many)+100 {
				t.Skipf("the limit of open files is %d: ulimit -n %d", own.Cur, n.many+100)
			}
			m := lab.MountNew(t, lab.Options{Shared: name == "shared", Files: limit})
			if got := proc(t, m, "limits"); lab.IsKMSFS() && !strings.Contains(got, fmt.Sprintf("Max open files %d %[1]d ", limit)) {
				t.Fatalf("limits of the daemon: %s", got)
			}
			text := []byte("some text")
			files := make([]*os.File, n.many)
			for i := range files {
				f, err := os.OpenFile(filepath.Join(m.Dir, fmt.Sprint("open", i)), os.O_RDWR|os.O_CREATE, 0o644)
				check(t, err, fmt.Sprintf("file %d", i))
				defer f.Close()
				files[i] = f
				_, err = f.Write(text)
				check(t, err, fmt.Sprintf("write file %d", i))
			}
			for i, f := range files {
				check(t, f.Sync(), fmt.Sprintf("sync file %d", i))
			}
			check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0), "drop caches")
			got := make([]byte, len(text))
			for i, f := range files {
				_, err := f.ReadAt(got, 0)
				check(t, err, fmt.Sprintf("read file %d", i))
				_, err = f.WriteAt(text, 5000)
				check(t, err, fmt.Sprintf("grow file %d", i))
			}
			for i := range n.each {
				path := filepath.Join(m.Dir, fmt.Sprint("one", i%700))
				check(t, os.WriteFile(path, text, 0o644), fmt.Sprintf("round %d", i))
				if i%3 == 0 {
					check(t, os.Remove(path), fmt.Sprintf("remove in round %d", i))
				}
			}
			if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.PID())); err != nil || len(fds) >= limit {
				t.Errorf("the daemon has %d files open, %v", len(fds), err)
			}
		})
	}
}

// TestEndWhileWriting: SIGTERM, or a lazy unmount, while programs write. They go on until they are done, though the mount is
// detached, and all that write(2) took is there after the next mount.
func TestEndWhileWriting(t *testing.T) {
	for name, end := range map[string]func(m *lab.Mount) error{
		"SIGTERM":   func(m *lab.Mount) error { return syscall.Kill(m.PID(), syscall.SIGTERM) },
		"umount -l": func(m *lab.Mount) error { return unix.Unmount(m.Dir, unix.MNT_DETACH) },
	} {
		t.Run(name, func(t *testing.T) { endWhileWriting(t, end) })
	}
}

func endWhileWriting(t *testing.T, end func(m *lab.Mount) error) {
	lab.NeedRoot(t)
	m := lab.MountNew(t, lab.Options{})
	const writers = 4
	var written [writers]atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	line := bytes.Repeat([]byte("0123456789abcde\n"), 64)
	for w := range writers {
		f, err := os.OpenFile(filepath.Join(m.Dir, fmt.Sprint("log", w)), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		check(t, err, "create")
		wg.Go(func() {
			defer f.Close()
			for !stop.Load() && written[w].Load() < 64<<20 {
				n, err := f.Write(line)
				if err != nil {
					t.Errorf("a write while the mount ends: %v", err)
					return
				}
				written[w].Add(int64(n))
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	before := written[0].Load()
	check(t, end(m), "ending the mount")
	for last := time.Now().Add(20 * time.Second); mounted(m.Dir); time.Sleep(20 * time.Millisecond) { // after SIGTERM, 5 s
		if time.Now().After(last) {
			t.Fatal("the mount is not detached")
		}
	}
	time.Sleep(200 * time.Millisecond)
	stop.Store(true)
	wg.Wait()
	check(t, m.Ended(), "the end of the daemon")
	check(t, m.Start(), "mounting again")
	for w := range writers {
		got, err := os.ReadFile(filepath.Join(m.Dir, fmt.Sprint("log", w)))
		want := bytes.Repeat(line, int(written[w].Load())/len(line))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("writer %d: %d bytes were written, %d are there, %v", w, len(want), len(got), err)
		}
	}
	if written[0].Load() <= before {
		t.Error("nothing was written while the mount ended")
	}
}

// mounted says whether something of FUSE is mounted on dir.
func mounted(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
}
