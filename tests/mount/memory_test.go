package mount_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// TestMemory lists, reads and rewrites a tree and watches the daemon's memory, which must stay within bounds and come
// back when the kernel has let go of the files. KMSFS_TEST_FILES says how many files (3000); the promise is for 200000:
//
//	KMSFS_TEST_FILES=200000 go test -timeout 0 -run TestMemory ./tests/mount
func TestMemory(t *testing.T) {
	const (
		perDir = 500
		most   = 300 << 20
		rest   = 60 << 20 // above the start, when idle
	)
	lab.NeedRoot(t)
	if lab.Race {
		t.Skip("the race detector's memory would be measured: run it without -race")
	}
	count := 3000
	if s := os.Getenv("KMSFS_TEST_FILES"); s != "" {
		n, err := strconv.Atoi(s)
		check(t, err, "KMSFS_TEST_FILES")
		count = n
	}
	m := lab.MountNew(t, lab.Options{})
	start, peak := rss(t, m), int64(0)
	watch := func() { peak = max(peak, rss(t, m)) }
	for i := range count {
		dir := filepath.Join(m.Dir, strconv.Itoa(i/perDir))
		if i%perDir == 0 {
			watch()
			check(t, os.Mkdir(dir, 0o755), "mkdir")
		}
		check(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte(strings.Repeat("x", i%9000)), 0o644), "create")
	}
	check(t, filepath.WalkDir(m.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			watch()
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, append(b, "rewritten"...), 0o644)
	}), "reading and rewriting")
	watch()
	check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0), "drop caches")
	idle := rss(t, m)
	for end := time.Now().Add(2 * time.Minute); idle > start+rest && time.Now().Before(end); idle = rss(t, m) {
		time.Sleep(time.Second)
	}
	t.Logf("%d files: %d MiB at the start, %d at most, %d when idle", count, start>>20, peak>>20, idle>>20)
	if limit := max(most, start); peak > limit {
		t.Errorf("%d bytes at most, want no more than %d", peak, limit)
	}
	if idle > start+rest {
		t.Errorf("%d bytes when idle, %d at the start", idle, start)
	}
}

// rss is the daemon's resident memory.
func rss(t *testing.T, m *lab.Mount) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.PID()))
	check(t, err, "statm")
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	check(t, err, "statm")
	return pages * int64(os.Getpagesize())
}
