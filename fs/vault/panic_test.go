package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/bug"
)

// errPanicked is what a call that panicked is taken to return.
var errPanicked = errors.New("panicked")

var errHangs = errors.New("hangs")

// catching calls f as the file system does: a panic is the end of the call, and of nothing else. It fails the test where
// f does not end.
func catching(t *testing.T, what string, f func() error) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				ended <- fmt.Errorf("%w: %v", errPanicked, bug.Attrs(p))
			}
		}()
		ended <- f()
	}()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<18)
		t.Errorf("%s hangs:\n%s", what, buf[:runtime.Stack(buf, true)])
		return errHangs
	}
}

// TestPanics has each backing call of operation lists panic in turn: whatever was held is let go of, nothing hangs, and after
// the vault has been opened anew each file is as before or as after.
func TestPanics(t *testing.T) {
	lists, stride := effort(t, 2, 4, 50), effort[int64](t, 23, 5, 1)
	seen := 0
	for seed := range lists {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		list := make([]byte, 25*opSize)
		for i := range list {
			list[i] = byte(r.Uint32())
		}
		for at := int64(seed) % stride; ; at += stride {
			f := &fault{at: at, err: errPanicked}
			panicOnce(t, list, f, seed%2 == 1)
			if f.n.Load() <= at {
				break
			}
			seen++
		}
	}
	t.Logf("%d panics", seen)
	if seen == 0 {
		t.Error("nothing has panicked")
	}
}

func panicOnce(t *testing.T, list []byte, f *fault, shared bool) {
	t.Helper()
	fs := memfs.New(memfs.Config{})
	hook := func(op faults.Op) error {
		if f.hook(op) != nil {
			panic(fmt.Sprintf("in %s of the backing", op.Call))
		}
		return nil
	}
	at := func() backing.Dir { return faults.Wrap(fs.Root(), hook) }
	ks := &memoryKeys{}
	makeVault(t, at, ks, 4096)
	var log syncBuffer
	e := &engine{chunk: 4096, lax: true}
	o := vault.Options{KeepEvery: time.Hour, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if shared {
		o.Sharing = vault.Shared
	}
	e.remount = func() ([]*vault.Vault, error) {
		for _, v := range e.vaults {
			if err := catching(t, "close", v.Close); err == errHangs { // else what cannot be put in place stays in the journal
				return nil, err
			}
		}
		v, err := vault.Open(ctx, at(), ks, o)
		return []*vault.Vault{v}, err
	}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("call %d: %s\nafter: %s\nlog: %s", f.at, fmt.Sprintf(format, args...), strings.Join(e.steps, "\n       "), log.String())
	}
	var err error
	if e.vaults, err = e.remount(); err != nil {
		fail("%v", err)
	}
	e.run(nil)
	calm := &engine{chunk: 4096, lax: true} // what the files would be after each step
	elsewhere, _ := inMemory()
	makeVault(t, elsewhere, ks, 4096)
	calm.vaults = []*vault.Vault{openVault(t, elsewhere, ks, o)}
	defer calm.vaults[0].Close()
	calm.run(nil)
	f.on.Store(true)
	for l := list; len(l) >= opSize; l = l[opSize:] {
		before := map[string]*modelFile{}
		for name, m := range e.files {
			before[name] = &modelFile{data: slices.Clone(m.data), xattr: m.xattr, exists: m.exists}
		}
		if code := l[0] % 20; code == 9 || code == 13 { // a remount; a copy, which may be of less than was asked for
			continue
		}
		if err := calm.run(l[:opSize]); err != nil {
			fail("without a panic: %v", err)
		}
		err := catching(t, "an operation", func() error { return e.run(l[:opSize]) })
		if f.n.Load() <= f.at {
			if err != nil {
				fail("%v", err)
			}
			continue
		}
		f.on.Store(false)
		e.note("%v", err)
		for _, name := range fileNames {
			err := catching(t, "reading", func() error { return readSome(e.vaults[0], name) })
			if err != nil && !errors.Is(err, bug.Err) {
				fail("reading %s while the vault is open: %v", name, err)
			}
		}
		if err := catching(t, "an operation on a new file", func() error { return makeFile(e.vaults[0], "another", "text") }); err != nil {
			fail("a new file: %v", err)
		}
		if e.vaults, err = e.remount(); err != nil {
			fail("%v", err)
		}
		for _, name := range fileNames {
			got, err := readAll(e.vaults[0], name)
			if err != nil && shared && strings.Contains(err.Error(), "stat says") {
				continue // what is shared is not mended: a file of which a kill has left the index alone is empty, whatever stat(2) says
			}
			if err != nil {
				fail("read %s: %v", name, err)
			}
			if why := between(before[name], calm.files[name], got); why != "" {
				fail("%s: %s", name, why)
			}
		}
		if got, err := readAll(e.vaults[0], "another"); err != nil || string(got.data) != "text" {
			fail("the new file: %v", err)
		}
		break
	}
	f.on.Store(false)
	if err := e.vaults[0].Close(); err != nil {
		fail("close: %v", err)
	}
}

func readSome(v *vault.Vault, name string) error {
	n, _, err := v.Lookup(v.Root(), name)
	if err == nil {
		defer v.Forget(n, 1)
		_, err = v.Read(ctx, n, make([]byte, 10000), 0)
	}
	if errors.Is(err, syscall.ENOENT) {
		err = nil
	}
	return err
}

func makeFile(v *vault.Vault, name, text string) error {
	n, _, err := v.Create(v.Root(), name, 0o644, who)
	if err != nil {
		return err
	}
	defer v.Forget(n, 1)
	_, err = v.Write(ctx, n, []byte(text), 0, vault.KeepPrivileges)
	v.Release(n)
	return err
}

// syncBuffer is a buffer for several writers.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestBroken: a file whose change has panicked is not used as it stands in memory. What the journal has of it comes with the next
// opening of the vault; without that, it is as on the disk as soon as it has been closed.
func TestBroken(t *testing.T) {
	f := &fault{err: errPanicked}
	fs := memfs.New(memfs.Config{})
	at := func() backing.Dir {
		return faults.Wrap(fs.Root(), func(op faults.Op) error {
			if (op.Call == faults.WriteAt || op.Call == faults.WritevAt) && bytes.Contains(debug.Stack(), []byte("(*Vault).Write(")) && f.hook(op) != nil {
				panic("in a write of the backing") // and not in the background
			}
			return nil
		})
	}
	ks := &memoryKeys{}
	makeVault(t, at, ks, 4096)
	v := openVault(t, at, ks, vault.Options{JournalFor: time.Hour})
	old := bytes.Repeat([]byte("old "), 5000)
	make := func(name string) *vault.Node {
		t.Helper()
		n, _, err := v.Create(v.Root(), name, 0o644, who)
		if err == nil {
			_, err = v.Write(ctx, n, old, 0, vault.KeepPrivileges)
		}
		if err == nil {
			err = v.Fsync(n, vault.SyncAll)
		}
		if err != nil {
			t.Fatal(err)
		}
		v.Release(n)
		return n
	}
	panics := func(n *vault.Node, off int64) {
		t.Helper()
		f.n.Store(0)
		f.on.Store(true)
		err := catching(t, "write", func() error { _, err := v.Write(ctx, n, []byte("lost"), off, vault.KeepPrivileges); return err })
		f.on.Store(false)
		if !errors.Is(err, errPanicked) {
			t.Fatalf("the write ended with %v", err)
		}
		_, reading := v.Read(ctx, n, []byte("0123"), 0)
		_, writing := v.Write(ctx, n, []byte("x"), 0, vault.KeepPrivileges)
		if !errors.Is(reading, bug.Err) || !errors.Is(writing, bug.Err) {
			t.Errorf("afterwards: read %v, write %v", reading, writing)
		}
	}
	appended := make("appended")
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	panics(appended, int64(len(old)))
	v.Forget(appended, 1)
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(v, "appended"); err != nil || !bytes.HasPrefix(got.data, old) {
		t.Errorf("closed and opened anew: %v", err)
	}
	over := make("over")
	if _, err := v.Write(ctx, over, []byte("new "), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	panics(over, 8000)
	if err := v.Close(); !errors.Is(err, bug.Err) {
		t.Errorf("closed with %v, want that something has stayed in the journal", err)
	}
	v = openVault(t, at, ks, vault.Options{})
	defer v.Close()
	copy(old, "new ")
	if got, err := readAll(v, "over"); err != nil || !bytes.Equal(got.data[:8000], old[:8000]) || len(got.data) != len(old) {
		t.Errorf("what was written before the panic: %v", err)
	}
}
