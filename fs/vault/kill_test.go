package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// killer kills at the nth moment: before an operation that changes something or, in a write, between two pages, as a
// fatal signal does.
type killer struct {
	at    int64 // below 0: never
	pages bool
	n     atomic.Int64
}

func (k *killer) hook(op faults.Op) error {
	moment := atomic.LoadInt64(&k.at)
	if !op.Changes() || moment < 0 {
		return nil
	}
	units := int64(1)
	if op.Call == faults.WriteAt && k.pages && op.Len > 0 {
		units = (op.Off+op.Len-1)/4096 - op.Off/4096 + 1
	}
	end := k.n.Add(units)
	switch at := moment - (end - units); {
	case at < 0 || at >= units:
		return nil
	case at == 0:
		return memfs.ErrCrashed
	default:
		return &faults.Partial{N: (op.Off/4096+at)*4096 - op.Off, Err: memfs.ErrCrashed}
	}
}

// reached says whether the moment came.
func (k *killer) reached() bool {
	at := atomic.LoadInt64(&k.at)
	return at >= 0 && k.n.Load() > at
}

// arm sets the moment, also while the keys of a vault are made in the background.
func (k *killer) arm(at int64) { atomic.StoreInt64(&k.at, at) }

// TestKillFiles kills the vault at every moment of operation lists on files.
func TestKillFiles(t *testing.T) {
	lists, stride := effort(t, 3, 6, 200), effort[int64](t, 29, 3, 1)
	for _, kind := range []struct {
		name  string
		chunk int
		hosts int // 0: a mount that is alone
	}{{"4096", 4096, 0}, {"16384", 16384, 0}, {"two hosts", 4096, 2}} {
		lists, stride := lists, stride
		if kind.hosts > 0 {
			lists, stride = effort(t, 1, 2, 100), effort[int64](t, 29, 7, 1)
		}
		for seed := range lists {
			t.Run(fmt.Sprintf("%s/%d", kind.name, seed), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(uint64(seed), 99))
				list := make([]byte, 25*opSize)
				for i := range list {
					list[i] = byte(r.Uint32())
				}
				for at := int64(seed) % stride; ; at += stride {
					if !killFiles(t, kind.chunk, kind.hosts, list, at, seed%2 == 1 && kind.hosts == 0) {
						break
					}
				}
			})
		}
	}
}

// killFiles kills the vault at moment at of the list; false: the list was done by then.
func killFiles(t *testing.T, chunk, hosts int, list []byte, at int64, renew bool) bool {
	k := &killer{at: -1, pages: true}
	fs := memfs.New(memfs.Config{Hook: k.hook})
	ks := &memoryKeys{}
	makeVault(t, fs.Root, ks, chunk)
	o := vault.Options{}
	if hosts > 0 {
		o.Sharing = vault.Shared
	}
	e := &engine{chunk: int64(chunk), renew: renew}
	e.remount = func() (vv []*vault.Vault, err error) {
		for _, v := range e.vaults {
			v.Close()
		}
		for range max(hosts, 1) {
			v, err := vault.Open(ctx, fs.Root(), ks, o)
			if err != nil {
				return nil, err
			}
			vv = append(vv, v)
		}
		return vv, nil
	}
	e.vaults, _ = e.remount()
	e.run(nil)
	k.arm(at)
	before := maps.Clone(e.files)
	var err error
	for l := list; len(l) >= opSize && err == nil; l = l[opSize:] {
		for name, m := range e.files {
			before[name] = &modelFile{data: slices.Clone(m.data), xattr: m.xattr, exists: m.exists}
		}
		if l[0]%20 == 13 { // the model does not follow a copy that fails
			continue
		}
		err = e.run(l[:opSize])
	}
	for _, v := range e.vaults {
		v.Close()
	}
	if err != nil && !k.reached() {
		t.Fatalf("moment %d: %v", at, err)
	}
	// The kill is here, or nowhere: Close after it does nothing.
	after := fs.Kill()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("moment %d: %s\nafter: %v\n       %s", at, fmt.Sprintf(format, args...), err, strings.Join(e.steps, "\n       "))
	}
	var first map[string]*modelFile
	for round := range 3 {
		v, oerr := vault.Open(ctx, after.Root(), ks, o)
		if oerr != nil {
			fail("open: %v", oerr)
		}
		got := map[string]*modelFile{}
		for _, name := range fileNames {
			m, rerr := readAll(v, name)
			if rerr != nil {
				fail("round %d: %s: %v", round, name, rerr)
			}
			got[name] = m
			if why := between(before[name], e.files[name], m); why != "" {
				fail("round %d: %s: %s", round, name, why)
			}
			if hosts == 0 && m.exists && m.looked != int64(len(m.data)) {
				fail("round %d: %s: stat says %d bytes before it is read, %d are read", round, name, m.looked, len(m.data))
			}
			if round > 0 && (!bytes.Equal(first[name].data, m.data) || first[name].exists != m.exists) {
				fail("round %d: %s has changed", round, name)
			}
		}
		first = got
		if round == 1 { // goes on as before: the engine's own model check, on what is there
			e2 := &engine{vaults: []*vault.Vault{v}, chunk: int64(chunk), renew: renew, files: map[string]*modelFile{}}
			for name, m := range got {
				e2.files[name] = &modelFile{data: slices.Clone(m.data), xattr: m.xattr, exists: m.exists}
			}
			e2.remount = func() ([]*vault.Vault, error) { return e2.vaults, nil }
			if err := e2.run(list[len(list)/2:]); err != nil {
				fail("going on: %v\n       %s", err, strings.Join(e2.steps, "\n       "))
			}
			before, e.files, first = e2.files, e2.files, e2.files
		}
		if err := v.Flush(); err != nil {
			fail("flush: %v", err)
		}
		if err := v.Close(); err != nil {
			fail("close: %v", err)
		}
	}
	return k.reached()
}

// readAll reads a file whole.
func readAll(v *vault.Vault, name string) (*modelFile, error) {
	n, looked, err := v.Lookup(v.Root(), name)
	if errors.Is(err, syscall.ENOENT) {
		return &modelFile{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer v.Forget(n, 1)
	m := &modelFile{exists: true, data: make([]byte, 1<<20), looked: looked.Size}
	k, err := v.Read(ctx, n, m.data, 0)
	if err == nil && k == len(m.data) {
		m.data = make([]byte, 9<<20)
		k, err = v.Read(ctx, n, m.data, 0)
	}
	if err != nil {
		return nil, err
	}
	m.data = m.data[:k]
	st, err := v.Attr(n)
	if err == nil && st.Size != int64(k) {
		err = fmt.Errorf("stat says %d bytes, %d are read", st.Size, k)
	}
	if x, e := v.Getxattr(ctx, n, "user.test"); e == nil {
		m.xattr = string(x)
	} else if !errors.Is(e, syscall.ENODATA) {
		err = e
	}
	return m, err
}

// between says why got is neither before, nor after, nor chunk by chunk one of them; "" if it is.
func between(before, after, got *modelFile) string {
	if !before.exists && got.exists && len(got.data) == 0 {
		return "" // made to be written, or to be removed
	}
	if got.exists != before.exists && got.exists != after.exists {
		return fmt.Sprintf("exists: %v", got.exists)
	}
	if !got.exists || !(before.exists && after.exists) && bytes.Equal(got.data, before.data) {
		return ""
	}
	if got.xattr != before.xattr && got.xattr != after.xattr {
		return "attribute differs"
	}
	lo, hi := min(len(before.data), len(after.data)), max(len(before.data), len(after.data))
	if len(got.data) < lo || len(got.data) > hi {
		return fmt.Sprintf("%d bytes, was %d, to be %d", len(got.data), len(before.data), len(after.data))
	}
	part := func(b []byte, from, to int) []byte { // of b as if it were as long as got
		p := make([]byte, to-from)
		if from < len(b) {
			copy(p, b[from:min(to, len(b))])
		}
		return p
	}
	for from := 0; from < len(got.data); from += 4096 {
		to := min(from+4096, len(got.data))
		if g := got.data[from:to]; !bytes.Equal(g, part(before.data, from, to)) && !bytes.Equal(g, part(after.data, from, to)) {
			return fmt.Sprintf("bytes from %d are neither old nor new", from)
		}
	}
	return ""
}

// TestLookOpensNothing: after a clean end the size of a file follows from what is stored; no file is opened for it, but one of
// exactly a block.
func TestLookOpensNothing(t *testing.T) {
	opened := 0
	fs := memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if op.Call == faults.OpenStat {
			opened++
		}
		return nil
	}})
	ks := &memoryKeys{}
	v := newVault(t, fs.Root, ks, vault.Options{})
	sizes := map[string]int64{"none": 0, "one block": 3968, "small": 100, "groups": 300_000}
	for name, size := range sizes {
		for range 2 { // the second time through the journal
			n, _, err := v.Lookup(v.Root(), name)
			if errors.Is(err, syscall.ENOENT) {
				if err := put(name, pattern(1, size)).do(v); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Write(ctx, n, pattern(2, size), 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			v.Forget(n, 1)
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = openVault(t, fs.Root, ks, vault.Options{})
	opened = 0
	for name, size := range sizes {
		n, st, err := v.Lookup(v.Root(), name)
		if err != nil || st.Size != size {
			t.Errorf("%s: %d bytes, %v; want %d", name, st.Size, err, size)
		}
		v.Forget(n, 1)
	}
	if opened != 1 {
		t.Errorf("%d files were opened for a look at them, want 1", opened)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
