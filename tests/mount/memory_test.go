package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// TestMemoryUnderLoad has many programs write over and read files at once, more of them than the daemon has threads.
func TestMemoryUnderLoad(t *testing.T) {
	const (
		programs = 80
		size     = 2 << 20
		most     = 500 << 20 // 64 threads, each with 4 MiB of buffers, and what they seal
	)
	lab.NeedRoot(t)
	if lab.Race {
		t.Skip("the race detector's memory would be measured: run it without -race")
	}
	m := lab.MountNew(t, lab.Options{})
	var peak int64
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.PID())); err == nil {
				pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
				peak = max(peak, pages*int64(os.Getpagesize()))
			}
		}
	}()
	var wg sync.WaitGroup
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for i := range programs {
		wg.Go(func() {
			path := filepath.Join(m.Dir, strconv.Itoa(i))
			for range 2 {
				if err := writeOver(path, data); err != nil {
					t.Errorf("program %d: %v", i, err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("program %d reads %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-watched
	t.Logf("%d MiB at most", peak>>20)
	if peak == 0 || peak > most {
		t.Errorf("%d bytes at most, want no more than %d", peak, most)
	}
}

// writeOver writes data to a file, past the cache of the kernel, without truncating it first.
func writeOver(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_DIRECT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return errors.Join(err, f.Sync())
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
