package vault_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// TestLostWrites has the disk fail while the kernel writes back, at moments of operation lists: what was not durable then
// never gets there unless it is written again, and only the first sync tells. What is said to be durable afterwards must be.
func TestLostWrites(t *testing.T) {
	stride, policies := effort[int64](t, 41, 29, 1), effort[uint64](t, 2, 3, 5)
	lostWrites(t, effort(t, 2, 4, 40), stride, func(t *testing.T, list []byte, at int64, renew bool, told *atomic.Int64) bool {
		return loseWrites(t, list, at, never, policies, renew, told)
	})
}

// TestLostWritesPowerCut is TestLostWrites with a power cut at a moment soon after, as while what was lost is written again, or put
// in place.
func TestLostWritesPowerCut(t *testing.T) {
	stride, policies := effort[int64](t, 83, 37, 3), effort[uint64](t, 2, 3, 5)
	lostWrites(t, effort(t, 2, 4, 40), stride, func(t *testing.T, list []byte, at int64, renew bool, told *atomic.Int64) bool {
		r := rand.New(rand.NewPCG(uint64(at), 3))
		reached := true
		for _, most := range []int64{8, 25, 80} {
			reached = loseWrites(t, list, at, at+1+r.Int64N(most), policies, renew, told) && reached
		}
		return reached
	})
}

// never is a moment that does not come.
const never = 1 << 62

// lostWrites calls do for moments of operation lists, until it returns that a list was done by then.
func lostWrites(t *testing.T, lists int, stride int64, do func(t *testing.T, list []byte, at int64, renew bool, told *atomic.Int64) bool) {
	t.Helper()
	var lost, told atomic.Int64
	t.Run("lists", func(t *testing.T) {
		for seed := range lists {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(uint64(seed), 17))
				list := make([]byte, 25*opSize)
				for i := range list {
					list[i] = byte(r.Uint32())
				}
				for at := int64(seed) % stride; do(t, list, at, seed%2 == 1, &told); at += stride {
					lost.Add(1)
				}
			})
		}
	})
	t.Logf("%d moments, %d operations failed", lost.Load(), told.Load())
	if told.Load() < lost.Load()/4 {
		t.Error("hardly anybody was told of a failure")
	}
}

// loseWrites loses writes at moment at of the list, and cuts the power at moment cut; false: the list was done by the first.
func loseWrites(t *testing.T, list []byte, at, cut int64, policies uint64, renew bool, told *atomic.Int64) bool {
	var fs *memfs.FS
	var calls atomic.Int64
	var on atomic.Bool
	fs = memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if !on.Load() || !op.Changes() {
			return nil
		}
		switch calls.Add(1) - 1 {
		case at:
			fs.LoseWrites(syscall.EIO)
		case cut:
			if first := 4096 - op.Off%4096; cut%2 == 0 && op.Call == faults.WriteAt && op.Len > first {
				return &faults.Partial{N: first, Err: memfs.ErrCrashed}
			}
			return memfs.ErrCrashed
		}
		return nil
	}})
	ks := &memoryKeys{}
	makeVault(t, fs.Root, ks, 4096)
	e := &engine{chunk: 4096, renew: renew}
	e.vaults = []*vault.Vault{openVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})}
	v := e.vaults[0]
	defer v.Close()
	e.run(nil)
	since := map[string]history{}
	for _, name := range fileNames { // the names are durable
		n, err := e.node(v, name)
		if err != nil {
			t.Fatal(err)
		}
		v.Forget(n, 1)
		since[name] = history{was: [][]byte{{}}}
	}
	if err := v.Fsync(v.Root(), vault.SyncAll); err != nil {
		t.Fatal(err)
	}
	durable := func(name string) {
		m := e.files[name]
		since[name] = history{was: [][]byte{slices.Clone(m.data)}, synced: len(m.data) > 0 || m.xattr != ""}
	}
	on.Store(true)
	isCut := func() bool { return calls.Load() > cut }
	for l := list; len(l) >= opSize && !isCut(); l = l[opSize:] {
		op := slices.Clone(l[:opSize])
		name := fileNames[int(op[1])%len(fileNames)]
		switch op[0] % 20 {
		case 9, 10, 11, 13:
			op[0] = 0
		case 15, 16, 17, 18, 19:
			if e.sync(v, name, vault.SyncScope(op[2]%2)) == nil {
				durable(name)
			} else {
				told.Add(1)
			}
			continue
		}
		err := e.run(op)
		now := slices.Clone(e.files[name].data)
		h := since[name]
		since[name] = history{append(h.was, now), h.synced && len(now) > 0}
		if err == nil || isCut() {
			continue
		}
		told.Add(1)
		e.note("failed: %v", err)
		got, err := readAll(v, name)
		if isCut() { // by what is done in the background
			break
		}
		if err != nil {
			t.Fatalf("moment %d: %s: %v\n       %s", at, name, err, strings.Join(e.steps, "\n       "))
		}
		e.files[name] = got
		h = since[name]
		since[name] = history{append(h.was, slices.Clone(got.data)), h.synced && len(got.data) > 0}
	}
	reached := calls.Load() > at
	again := func(what string, do func() error) bool {
		for try := 0; !isCut(); try++ {
			err := do()
			switch {
			case err == nil:
				return true
			case try == 3 && !isCut():
				t.Fatalf("moment %d: %s: %v\nafter:\n       %s", at, what, err, strings.Join(e.steps, "\n       "))
			}
		}
		return false
	}
	for _, name := range fileNames {
		if again("sync "+name, func() error { return e.sync(v, name, vault.SyncAll) }) {
			durable(name)
		}
	}
	if cut != never {
		again("flush", v.Flush)
	}
	for i := range policies {
		seed := uint64(at)<<8 | i
		p := memfs.Policy{Sectors: i%2 == 0, Choose: memfs.Random(seed)}
		if i == 0 {
			p = memfs.Policy{} // all is lost that can be
		}
		k := &killer{at: -1, pages: true}
		if i%3 == 2 && cut != never { // once more, while it recovers
			k.arm(rand.New(rand.NewPCG(seed, 1)).Int64N(60))
		}
		if why := recovers(fs.Crash(p), ks, k, seed, since); why != "" {
			t.Fatalf("moment %d, cut at %d, policy %d: %s\nafter:\n       %s", at, cut, i, why, strings.Join(e.steps, "\n       "))
		}
	}
	return reached
}

// TestSettleAfterLoss: what the disk has lost is not settled, by nobody's sync but the keeper's own, and is there when the keeper
// says that all is done.
func TestSettleAfterLoss(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	ks := &memoryKeys{}
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	defer v.Close()
	for _, s := range []step{put("a", pattern(1, 8192)), put("b", pattern(2, 9000)), flush(), write("a", 8192, 3, 200_000)} {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	fs.LoseWrites(syscall.EIO)
	want := slices.Concat(pattern(1, 8192), pattern(3, 200_000)) // nothing of it is in the journal
	failed := 0
	for {
		err := v.Flush()
		after := openVault(t, fs.Crash(memfs.Policy{}).Root, ks, vault.Options{})
		m, rerr := readAll(after, "a")
		if rerr != nil {
			t.Errorf("after %d failures, %v: %v", failed, err, rerr)
		} else if err == nil && !slices.Equal(m.data, want) {
			t.Errorf("after %d failures all is said to be done, and %d bytes are not as they were written", failed, len(m.data))
		}
		after.Close()
		if err == nil {
			break
		}
		if failed++; failed == 5 {
			t.Fatal(err)
		}
	}
	if failed == 0 {
		t.Error("nobody was told")
	}
}

// losing is a file system that loses all writes that are not durable at the nth sync of any kind from now on, when lose is n.
// The syncs of the stock of keys, which is filled in the background, are not counted.
func losing() (fs *memfs.FS, lose *atomic.Int64) {
	lose = new(atomic.Int64)
	fs = memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if !syncs(op) || lose.Load() <= 0 || bytes.Contains(debug.Stack(), []byte("(*pool).write(")) {
			return nil
		}
		if lose.Add(-1) == 0 {
			fs.LoseWrites(syscall.EIO)
		}
		return nil
	}})
	return fs, lose
}

func doAll(t *testing.T, v *vault.Vault, ss ...step) {
	t.Helper()
	for _, s := range ss {
		if err := s.do(v); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
}

// TestSyncAfterFailedTruncation: where the disk has lost what a truncation wrote first, and nobody has the file open, the sync
// that succeeds says that it is as it reads.
func TestSyncAfterFailedTruncation(t *testing.T) {
	fs, lose := losing()
	ks := &memoryKeys{}
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	defer v.Close()
	doAll(t, v, put("c", pattern(1, 1_306_624)), flush(), flush())
	lose.Store(1)
	if err := truncate("c", 102).do(v); err == nil {
		t.Fatal("nobody was told")
	}
	for try := 0; ; try++ {
		err := fsync("c", vault.SyncAll).do(v)
		if err == nil {
			break
		}
		if try == 3 {
			t.Fatal(err)
		}
	}
	crashed := fs.Crash(memfs.Policy{})
	want, err := readAll(v, "c")
	if err != nil || len(want.data) != 102 {
		t.Fatalf("%d bytes, %v", len(want.data), err)
	}
	after := openVault(t, crashed.Root, ks, vault.Options{})
	defer after.Close()
	if m, err := readAll(after, "c"); err != nil || !slices.Equal(m.data, want.data) {
		t.Errorf("%d bytes are synced, and %d are there: %v", len(want.data), len(m.data), err)
	}
}

// TestAppendAfterFailedSync: a file whose size was settled gets longer only when it is durable that it may, also where a first
// try could not be made so. Else a power cut would leave a file that is longer than its header vouches for, which is refused.
func TestAppendAfterFailedSync(t *testing.T) {
	fs, lose := losing()
	ks := &memoryKeys{}
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	defer v.Close()
	doAll(t, v, put("a", pattern(1, 8192)), flush(), flush(), fsync("a", vault.SyncAll), fsync("", vault.SyncAll))
	lose.Store(1)
	if err := write("a", 8192, 2, 5000).do(v); err == nil {
		t.Fatal("nobody was told")
	}
	doAll(t, v, write("a", 8192, 3, 5000))
	for seed := range uint64(40) {
		after := openVault(t, fs.Crash(memfs.Policy{Choose: memfs.Random(seed)}).Root, ks, vault.Options{})
		m, err := readAll(after, "a")
		if err != nil || len(m.data) < 8192 || !slices.Equal(m.data[:8192], pattern(1, 8192)) {
			t.Errorf("policy %d: %v", seed, err)
		}
		after.Close()
	}
}

// TestFailedSyncOfMany: where the files of the journal are many, and are synced at once, what is in place of them is known durable
// before the journal is given up, also of what the journal alone had vouched for and nobody writes again.
func TestFailedSyncOfMany(t *testing.T) {
	var fs *memfs.FS
	var on, lost atomic.Bool
	var mu sync.Mutex
	var cuts []*memfs.FS
	fs = memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if on.Load() && op.Changes() {
			if syncs(op) && !lost.Swap(true) {
				fs.LoseWrites(syscall.EIO)
			}
			mu.Lock()
			cuts = append(cuts, fs.Crash(memfs.Policy{}))
			mu.Unlock()
		}
		return nil
	}})
	ks := &memoryKeys{}
	v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	defer v.Close()
	const files = 20
	name := func(i int) string { return fmt.Sprint("f", i) }
	for i := range files {
		doAll(t, v, put(name(i), pattern(byte(i), 9000)), fsync(name(i), vault.SyncAll))
	}
	doAll(t, v, fsync("", vault.SyncAll), flush())
	for i := range files {
		doAll(t, v, write(name(i), 0, 77, 100))
	}
	doAll(t, v, truncate("f0", 5000))
	on.Store(true)
	for try := 0; v.Flush() != nil; try++ {
		if try == 5 {
			t.Fatal("it cannot be flushed")
		}
	}
	on.Store(false)
	for i, cut := range cuts {
		if i%effort(t, 9, 5, 1) != 0 {
			continue
		}
		after := openVault(t, cut.Root, ks, vault.Options{})
		if m, err := readAll(after, "f0"); err != nil || !slices.Equal(m.data[100:5000], pattern(0, 9000)[100:5000]) {
			t.Fatalf("cut %d of %d: %v", i, len(cuts), err)
		}
		after.Close()
	}
}

// TestTwoVersionsInTheJournal: a chunk was synced, written over, and the sync of that fails. Whenever the power is cut then, also
// while it is put in place, it is as it was synced or as it was written since: both stood in the journal alone.
func TestTwoVersionsInTheJournal(t *testing.T) {
	for _, apart := range []string{"in one journal file", "in two"} {
		t.Run(apart, func(t *testing.T) {
			var fs *memfs.FS
			var on, losing atomic.Bool
			var mu sync.Mutex
			var cuts []*memfs.FS
			fs = memfs.New(memfs.Config{Hook: func(op faults.Op) error {
				if losing.Load() && syncs(op) {
					fs.LoseWrites(syscall.EIO)
				}
				if on.Load() && op.Changes() {
					mu.Lock()
					defer mu.Unlock()
					for range 3 {
						p := memfs.Policy{Sectors: len(cuts)%2 == 0, Choose: memfs.Random(uint64(len(cuts)))}
						cuts = append(cuts, fs.Crash(p))
					}
				}
				return nil
			}})
			ks := &memoryKeys{}
			v := newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
			defer v.Close()
			first, last := pattern(2, 4096), pattern(3, 4096)
			doAll(t, v, put("a", pattern(1, 12_000)), put("i", pattern(1, 2000)), flush(), fsync("a", vault.SyncAll), fsync("i", vault.SyncAll),
				fsync("", vault.SyncAll), write("a", 4096, 2, 4096), write("i", 0, 2, 2000), fsync("a", vault.SyncData), fsync("i", vault.SyncData))
			if apart == "in two" {
				losing.Store(true)
				if v.Flush() == nil { // the first journal file stays
					t.Fatal("nobody was told")
				}
				losing.Store(false)
			}
			on.Store(true)
			doAll(t, v, write("a", 4096, 3, 4096), write("i", 0, 3, 2000))
			losing.Store(true)
			if fsync("a", vault.SyncData).do(v) == nil {
				t.Fatal("nobody was told")
			}
			losing.Store(false)
			for try := 0; v.Flush() != nil; try++ {
				if try == 5 {
					t.Fatal("it cannot be flushed")
				}
			}
			on.Store(false)
			for i, cut := range cuts {
				if i%effort(t, 3, 2, 1) != 0 {
					continue
				}
				after := openVault(t, cut.Root, ks, vault.Options{})
				m, err := readAll(after, "a")
				if err != nil || len(m.data) != 12_000 || !slices.Equal(m.data[4096:8192], first) && !slices.Equal(m.data[4096:8192], last) {
					t.Fatalf("cut %d of %d: %v", i, len(cuts), err)
				}
				m, err = readAll(after, "i")
				if err != nil || !slices.Equal(m.data, pattern(2, 2000)) && !slices.Equal(m.data, pattern(3, 2000)) {
					t.Fatalf("cut %d of %d: inline: %v", i, len(cuts), err)
				}
				after.Close()
			}
			t.Logf("%d crash states", len(cuts))
		})
	}
}
