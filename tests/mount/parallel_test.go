package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
)

// TestParallel lets many writers, renamers and readers work in the same directories at once. What each leaves behind
// depends on it alone, so the same work on a plain directory leaves the same.
func TestParallel(t *testing.T) {
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		plain := lab.Dir(t)
		for _, dir := range []string{plain, m.Dir} {
			parallelWork(t, dir)
		}
		same(t, plain, m.Dir, posix.Options{})
		check(t, m.Remount(), "remount")
		same(t, plain, m.Dir, posix.Options{})
	})
}

func parallelWork(t *testing.T, dir string) {
	t.Helper()
	workers, rounds := 8, lab.Sized(40, 16)
	for _, sub := range []string{"a", "b"} {
		check(t, os.Mkdir(filepath.Join(dir, sub), 0o755), "mkdir")
	}
	errs := make([]error, 2*workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { errs[w] = churn(dir, w, rounds) })
		wg.Go(func() { errs[workers+w] = appendLines(filepath.Join(dir, "log"), w, rounds*5) })
	}
	wg.Wait()
	check(t, errors.Join(errs...), "in "+dir)
	sortLog(t, filepath.Join(dir, "log"), workers*rounds*5)
}

// churn writes files, reads them back, moves them between two directories, and leaves every third behind.
func churn(dir string, w, rounds int) error {
	for i := range rounds {
		name := fmt.Sprintf("w%d-%d", w, i)
		a, b := filepath.Join(dir, "a", name), filepath.Join(dir, "b", name)
		data := bytes.Repeat([]byte(name+";"), 1+i*i*64000/(rounds*rounds))
		if err := os.WriteFile(a+".tmp", data, 0o644); err != nil {
			return err
		}
		if err := errors.Join(os.Rename(a+".tmp", a), os.Rename(a, b)); err != nil {
			return err
		}
		got, err := os.ReadFile(b)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data) {
			return fmt.Errorf("%s: read back %d bytes that are not the %d written", b, len(got), len(data))
		}
		if i%3 != 0 {
			err = os.Remove(b)
		} else {
			err = errors.Join(os.Link(b, a), os.Truncate(b, int64(len(data)/2)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// appendLines appends to a file that others append to.
func appendLines(path string, w, n int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	for i := range n {
		if _, err := fmt.Fprintf(f, "%d %d %s\n", w, i, strings.Repeat("z", i%90)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// sortLog holds that no line of the log is lost or torn, and puts the lines in order.
func sortLog(t *testing.T, path string, want int) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err, "the log")
	lines := slices.Collect(strings.Lines(string(b)))
	slices.Sort(lines)
	if got := len(slices.Compact(slices.Clone(lines))); got != want || len(lines) != want {
		t.Errorf("%s has %d lines, %d of them different, want %d", path, len(lines), got, want)
	}
	check(t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644), "sorting the log")
}
