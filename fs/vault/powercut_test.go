package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// history is what a file has been since it was last synced: the synced state first.
type history struct {
	was    [][]byte
	synced bool // when there was something in it
}

// TestPowerCut cuts the power at moments of operation lists, between any two calls of the backing file system or two pages
// of a write, with any subset of what was not synced lost, by pages or by sectors, and again while the vault recovers.
// Whatever was synced reads back, each chunk as it was then or as it was written since; nothing of it is refused.
func TestPowerCut(t *testing.T) {
	lists, stride, policies := effort(t, 1, 12, 300), effort[int64](t, 211, 43, 1), effort[uint64](t, 3, 3, 6)
	var cuts atomic.Uint64
	t.Cleanup(func() { t.Logf("%d cut points, %d crash states", cuts.Load(), cuts.Load()*policies) })
	for _, chunk := range []int{4096, 65536} {
		for seed := range lists {
			t.Run(fmt.Sprintf("%d/%d", chunk, seed), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(uint64(seed), uint64(chunk)))
				list := make([]byte, 30*opSize)
				for i := range list {
					list[i] = byte(r.Uint32())
				}
				for at := int64(seed) % stride; cutPower(t, chunk, list, at, policies, seed%2 == 1); at += stride {
					cuts.Add(1)
				}
			})
		}
	}
}

// cutPower cuts at moment at of the list; false: the list was done by then.
func cutPower(t *testing.T, chunk int, list []byte, at int64, policies uint64, renew bool) bool {
	k := &killer{at: -1, pages: true}
	fs := memfs.New(memfs.Config{Hook: k.hook})
	ks := &memoryKeys{}
	makeVault(t, fs.Root, ks, chunk)
	e := &engine{chunk: int64(chunk), renew: renew}
	e.vaults = []*vault.Vault{openVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})}
	v := e.vaults[0]
	e.run(nil)
	for _, name := range fileNames { // the names are durable
		n, err := e.node(v, name)
		if err != nil {
			t.Fatal(err)
		}
		v.Forget(n, 1)
	}
	if err := v.Fsync(v.Root(), vault.SyncAll); err != nil {
		t.Fatal(err)
	}
	since := map[string]history{}
	for _, name := range fileNames {
		since[name] = history{was: [][]byte{{}}}
	}
	k.arm(at)
	var err error
	for l := list; len(l) >= opSize && err == nil; l = l[opSize:] {
		op := slices.Clone(l[:opSize])
		name := fileNames[int(op[1])%len(fileNames)]
		switch op[0] % 20 {
		case 9, 10, 11, 13: // what would change names, and copies, that the model does not follow when they fail
			op[0] = 0
		case 15, 16, 17, 18, 19:
			err = e.sync(v, name, vault.SyncScope(op[2]%2))
			if err == nil {
				since[name] = history{was: [][]byte{slices.Clone(e.files[name].data)}, synced: len(e.files[name].data) > 0 || e.files[name].xattr != ""}
			}
			continue
		}
		err = e.run(op)
		h := since[name]
		now := slices.Clone(e.files[name].data)
		// Cutting a file to nothing is one truncation, of which the crash here may keep the pages alone.
		since[name] = history{append(h.was, now), h.synced && len(now) > 0}
	}
	if err != nil && !k.reached() {
		t.Fatalf("moment %d: %v\n%s", at, err, strings.Join(e.steps, "\n"))
	}
	if k.reached() {
		for i := range policies {
			seed := uint64(at)<<8 | i
			p := memfs.Policy{Sectors: i%2 == 0, Choose: memfs.Random(seed)}
			again := &killer{at: -1, pages: true}
			if i%3 == 2 { // once more, while it recovers
				again.arm(rand.New(rand.NewPCG(seed, 1)).Int64N(60))
			}
			if why := recovers(fs.Crash(p), ks, again, seed, since); why != "" {
				t.Fatalf("moment %d, policy %d: %s\nafter %v:\n       %s", at, i, why, err, strings.Join(e.steps, "\n       "))
			}
		}
	}
	v.Close()
	return k.reached()
}

// sync makes a file durable.
func (e *engine) sync(v *vault.Vault, name string, scope vault.SyncScope) error {
	e.note("sync %s %d", name, scope)
	n, err := e.node(v, name)
	if err != nil {
		return err
	}
	defer v.Forget(n, 1)
	return v.Fsync(n, scope)
}

// recovers opens what a crash has left and says what is wrong with it.
func recovers(fs *memfs.FS, ks *memoryKeys, again *killer, seed uint64, since map[string]history) string {
	if again.at >= 0 {
		// The crashed file system has no hook: what it holds is copied into one that has.
		cut := fs.WithHook(again.hook)
		if v, err := vault.Open(ctx, cut.Root(), ks, vault.Options{}); err == nil {
			for _, name := range fileNames {
				readAll(v, name)
			}
			v.Close()
		}
		fs = cut.Crash(memfs.Policy{Sectors: true, Choose: memfs.Random(seed + 77)})
	}
	for round, access := range []vault.Access{vault.ReadOnly, vault.ReadWrite, vault.ReadWrite} {
		v, err := vault.Open(ctx, fs.Root(), ks, vault.Options{Access: access})
		if err != nil {
			return fmt.Sprintf("round %d: open: %v", round, err)
		}
		lost := false
		for _, name := range fileNames {
			m, err := readAll(v, name)
			if errors.Is(err, vault.ErrCorrupt) && !since[name].synced {
				lost = true
				continue // its first block, or what says that there is one, has not reached the disk
			}
			if err != nil {
				return fmt.Sprintf("round %d: %s: %v", round, name, err)
			}
			if why := since[name].explains(m.data); why != "" {
				return fmt.Sprintf("round %d: %s: %s", round, name, why)
			}
		}
		if round == 1 { // what was being reencrypted is finished, the rest is too
			for _, name := range fileNames {
				if n, _, err := v.Lookup(v.Root(), name); err == nil {
					err := v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{})[0].Err
					v.Forget(n, 1)
					if err != nil && (!errors.Is(err, vault.ErrCorrupt) || since[name].synced) {
						return fmt.Sprintf("reencrypt %s: %v", name, err)
					}
				}
			}
		}
		if err := errors.Join(v.Flush(), v.Close()); err != nil && !(lost && errors.Is(err, vault.ErrCorrupt)) {
			return fmt.Sprintf("round %d: close: %v", round, err)
		}
	}
	return ""
}

// explains says why got cannot be what a crash leaves of a file with this history; "" if it can.
func (h history) explains(got []byte) string {
	lo, hi := len(h.was[0]), 0
	for _, v := range h.was {
		lo, hi = min(lo, len(v)), max(hi, len(v))
	}
	if len(got) < lo || len(got) > hi {
		return fmt.Sprintf("%d bytes, and it had %d to %d", len(got), lo, hi)
	}
	for from := 0; from < len(got); from += 4096 {
		g := got[from:min(from+4096, len(got))]
		if !slices.ContainsFunc(h.was, func(v []byte) bool {
			want := make([]byte, len(g))
			if from < len(v) {
				copy(want, v[from:])
			}
			return bytes.Equal(g, want)
		}) {
			return fmt.Sprintf("bytes from %d of %d are none of the %d that they have been", from, len(got), len(h.was))
		}
	}
	return ""
}
