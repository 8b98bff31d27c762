package fs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/vault"
)

// journal is a log that a test reads while others write to it.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// within fails the test where f does not end in time.
func within(t *testing.T, what string, f func() error) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
		return nil
	}
}

// TestPanic has a call of the backing panic below each kind of request: the caller gets EIO, the log where it came from, and
// whoever comes next an answer.
func TestPanic(t *testing.T) {
	var in atomic.Pointer[faults.Call]
	hook := func(op faults.Op) error {
		if c := in.Load(); c != nil && *c == op.Call && in.CompareAndSwap(c, nil) {
			panic(fmt.Errorf("of %s", "secretname")) // an error may hold a name: its text must not be logged
		}
		return nil
	}
	var log journal
	m := mountOver(t, vault.Options{KeepEvery: time.Hour, JournalFor: time.Hour}, fs.Options{Log: log.logger()}, hook)
	path := func(name string) string { return filepath.Join(m.dir, "secretname"+name) }
	old := bytes.Repeat([]byte("old "), 20000)
	for _, name := range []string{"read", "written", "synced", "renamed", "removed", "stays"} {
		if err := os.WriteFile(path(name), old, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.remount()
	before := m.server.Stats().Panics
	cases := []struct {
		call faults.Call
		do   func() error
	}{
		{faults.StatAt, func() error { _, err := os.Lstat(path("none")); return err }},
		{faults.ReadAt, func() error { _, err := os.ReadFile(path("read")); return err }},
		{faults.WriteAt, func() error { return overwrite(path("written")) }},
		{faults.Sync, func() error { return syncFile(path("synced")) }},
		{faults.Rename, func() error { return os.Rename(path("renamed"), path("new")) }},
		{faults.Unlink, func() error { return os.Remove(path("removed")) }},
		{faults.Statfs, func() error { var st syscall.Statfs_t; return syscall.Statfs(m.dir, &st) }},
	}
	for i, c := range cases {
		in.Store(&c.call)
		err := within(t, string(c.call), c.do)
		if in.Swap(nil) != nil {
			t.Errorf("%s: nothing has panicked", c.call)
			continue
		}
		if !errors.Is(err, syscall.EIO) && (err != nil || c.call != faults.ReadAt) { // the kernel reads a page once more
			t.Errorf("%s: the caller got %v", c.call, err)
		}
		if got := m.server.Stats().Panics - before; got < uint64(i)+1 {
			t.Errorf("%s: %d panics are counted, want %d or more", c.call, got, i+1)
		}
		what := fmt.Sprintf("after the panic in %s", c.call)
		if err := within(t, what, func() error {
			entries, err := os.ReadDir(m.dir)
			for _, e := range entries {
				_, e := e.Info()
				err = errors.Join(err, e)
			}
			return errors.Join(err, os.WriteFile(path(fmt.Sprint("after", i)), old, 0o644), os.Remove(path(fmt.Sprint("after", i))))
		}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got, err := os.ReadFile(path("stays")); err != nil || !bytes.Equal(got, old) {
			t.Errorf("%s another file reads %d bytes, %v", what, len(got), err)
		}
	}
	if _, err := os.ReadFile(path("written")); err == nil {
		if err := overwrite(path("written")); err != nil && !errors.Is(err, syscall.EIO) {
			t.Errorf("a file whose change has panicked: %v", err)
		}
	}
	text := log.String()
	for _, want := range []string{"a bug", "op=write", "op=unlink", "fs/vault.(*Vault).Write", "fs.(*worker).handle", "panic=*errors.errorString"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "secretname") || strings.Contains(text, "0x") {
		t.Errorf("the log has a name, or arguments:\n%s", text)
	}
	m.remount()
	for _, name := range []string{"read", "written", "synced", "stays"} {
		got, err := os.ReadFile(path(name))
		if err != nil || len(got) != len(old) || !bytes.Equal(got[10:], old[10:]) {
			t.Errorf("%s reads %d bytes after a remount, %v", name, len(got), err)
		}
	}
}

// overwrite changes the first bytes of a file, and syncs it.
func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("new"), 0)
	return errors.Join(err, f.Sync())
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// TestHung: a request that takes long is told of, and counted, and told of once more when it ends; what waits, and where, is in
// the log. Check fails while the file system below does not answer, and only then.
func TestHung(t *testing.T) {
	var hold atomic.Pointer[chan struct{}]
	hook := func(op faults.Op) error {
		if c := hold.Load(); c != nil && (op.Call == faults.Sync || op.Call == faults.Statfs) {
			<-*c
		}
		return nil
	}
	var log journal
	m := mountOver(t, vault.Options{}, fs.Options{Log: log.logger(), HungAfter: 300 * time.Millisecond}, hook)
	file := filepath.Join(m.dir, "secretname")
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		return m.server.Check(ctx)
	}
	if err := check(); err != nil {
		t.Errorf("a mount that answers: %v", err)
	}
	c := make(chan struct{})
	hold.Store(&c)
	ended := make(chan error, 1)
	go func() { ended <- syncFile(file) }()
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not come:\n%s", what, log.String())
			}
		}
	}
	await("a line", func() bool { return strings.Contains(log.String(), "a request takes long") })
	if s := m.server.Stats(); s.UnderWay != 1 || s.Hung != 1 || s.Oldest < 300*time.Millisecond {
		t.Errorf("counted: %+v", s)
	}
	for range 2 {
		if err := check(); !errors.Is(err, fs.ErrHung) {
			t.Errorf("a file system that does not answer: %v", err)
		}
	}
	if _, err := os.ReadFile(file); err != nil {
		t.Errorf("another request: %v", err)
	}
	time.Sleep(700 * time.Millisecond)
	hold.Store(nil)
	close(c)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	await("the end", func() bool { return strings.Contains(log.String(), "has ended") })
	await("an answer", func() bool { return check() == nil })
	text := log.String()
	for _, want := range []string{"op=fsync", `waits="chan receive"`, "fs/vault.(*Vault).Fsync", "took="} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "a request takes long"); n != 1 || strings.Contains(text, "secretname") {
		t.Errorf("told %d times, or by name:\n%s", n, text)
	}
	await("rest", func() bool { s := m.server.Stats(); return s.UnderWay == 0 && s.Oldest == 0 })
}
