package vault_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// fault fails one call.
type fault struct {
	at   int64
	err  error
	part bool // a write is done up to its first page
	n    atomic.Int64
	on   atomic.Bool
}

func (f *fault) hook(op faults.Op) error {
	if !f.on.Load() || f.n.Add(1)-1 != f.at {
		return nil
	}
	if first := 4096 - op.Off%4096; f.part && op.Call == faults.WriteAt && op.Len > first {
		return &faults.Partial{N: first, Err: f.err}
	}
	return f.err
}

// TestFaults fails each backing call of operation lists in turn.
func TestFaults(t *testing.T) {
	lists, stride := effort(t, 2, 4, 100), effort[int64](t, 17, 3, 1)
	before := runtime.NumGoroutine()
	for seed := range lists {
		for i, kind := range []error{syscall.EIO, syscall.ENOSPC} {
			r := rand.New(rand.NewPCG(uint64(seed), 5))
			list := make([]byte, 25*opSize)
			for i := range list {
				list[i] = byte(r.Uint32())
			}
			for at := int64(seed) % stride; ; at += stride {
				f := &fault{at: at, err: kind, part: i == 1}
				if failFiles(t, list, f, &memoryKeys{}, seed%2 == 1); f.n.Load() <= at {
					break
				}
			}
		}
	}
	noLeaks(t, before)
}

// TestKeyFaults fails each call of the keysource in turn.
func TestKeyFaults(t *testing.T) {
	before := runtime.NumGoroutine()
	for seed := range effort(t, 1, 4, 4) {
		r := rand.New(rand.NewPCG(uint64(seed), 6))
		list := make([]byte, 30*opSize)
		for i := range list {
			list[i] = byte(r.Uint32())
		}
		calls := 0
		for at := 1; at == 1 || at < calls; at += effort(t, 5, 1, 1) { // 0 is the volume key of Create
			f := &fault{at: -1, err: keysource.ErrUnavailable}
			ks := &memoryKeys{fail: func(call int) error {
				if call == at && f.on.Load() {
					return f.err
				}
				return nil
			}}
			failFiles(t, list, f, ks, true)
			calls = ks.calls
		}
	}
	noLeaks(t, before)
}

func noLeaks(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Fatalf("%d goroutines, were %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// failFiles runs the list with one fault in it. What fails leaves old or new, and everything goes on.
func failFiles(t *testing.T, list []byte, f *fault, ks *memoryKeys, renew bool) {
	t.Helper()
	fs := memfs.New(memfs.Config{Hook: f.hook})
	var handles atomic.Int64
	at := func() backing.Dir { return countHandles(fs.Root(), &handles) }
	makeVault(t, at, ks, 4096)
	e := &engine{chunk: 4096, renew: renew, lax: true}
	var notes []string
	open := func() (v *vault.Vault, err error) {
		for range 2 { // the fault may be in it
			if v, err = vault.Open(ctx, at(), ks, vault.Options{KeepEvery: time.Hour}); err == nil {
				break
			}
		}
		return v, err
	}
	e.remount = func() ([]*vault.Vault, error) {
		for _, v := range e.vaults {
			if err := v.Close(); err != nil {
				if !errors.Is(err, f.err) {
					return nil, err
				}
				notes = append(notes, "close: "+err.Error())
			}
		}
		v, err := open()
		return []*vault.Vault{v}, err
	}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%v at call %d: %s\nnotes: %q\nafter: %s", f.err, f.at, fmt.Sprintf(format, args...), notes, strings.Join(e.steps, "\n       "))
	}
	e.vaults, _ = e.remount()
	e.run(nil)
	f.on.Store(true)
	for l := list; len(l) >= opSize; l = l[opSize:] {
		before := map[string]*modelFile{}
		for name, m := range e.files {
			before[name] = &modelFile{data: slices.Clone(m.data), xattr: m.xattr, exists: m.exists}
		}
		if l[0]%20 == 13 {
			continue
		}
		err := e.run(l[:opSize])
		if err == nil {
			continue
		}
		notes = append(notes, err.Error())
		if !errors.Is(err, f.err) && !errors.Is(err, vault.ErrUnfinished) {
			fail("%v", err)
		}
		for _, name := range fileNames { // old or new, and it can be read now
			got, err := readAll(e.vaults[0], name)
			if err != nil {
				fail("read %s: %v", name, err)
			}
			if why := between(before[name], e.files[name], got); why != "" {
				fail("%s: %s", name, why)
			}
			e.files[name] = got
		}
	}
	f.on.Store(false)
	if err := e.compareAll(); err != nil {
		fail("%v", err)
	}
	var err error
	if e.vaults, err = e.remount(); err != nil {
		fail("%v", err)
	}
	if err := e.compareAll(); err != nil {
		fail("reopened: %v", err)
	}
	e.vaults[0].Close()
	if n := handles.Load(); n != 0 {
		fail("%d handles stay open", n)
	}
}
