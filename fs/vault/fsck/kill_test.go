package fsck_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
)

// stride is how many moments are passed over for each that is tried: none with KMSFS_LONG=1.
func stride(few int64) int64 {
	if os.Getenv("KMSFS_LONG") == "1" {
		return 1
	}
	if testing.Short() {
		return 7 * few
	}
	return few
}

// each runs f for each kind of harm, and for all together.
func each(t *testing.T, f func(t *testing.T, b *bed, before state)) {
	for _, name := range append(slices.Sorted(maps.Keys(harms)), "all") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := harmed(t, name)
			before, err := b.look(b.fs)
			if err != nil {
				t.Fatal(err)
			}
			f(t, b, before)
		})
	}
}

// TestRepair mends each kind of harm, and all together: once is enough, and what read before reads as it did.
func TestRepair(t *testing.T) {
	each(t, func(t *testing.T, b *bed, before state) {
		_, did, err := b.repair(b.fs)
		if err != nil || len(did) == 0 {
			t.Fatalf("%d mended, %v", len(did), err)
		}
		if why := b.sound(b.fs, before, 0); why != "" {
			t.Error(why)
		}
	})
}

// sound says what is wrong with a vault that was mended at least once; did is how much mending it now may do.
func (b *bed) sound(fs *memfs.FS, before state, most int) string {
	left, did, err := b.repair(fs)
	if err != nil {
		return fmt.Sprintf("repair: %v", err)
	}
	if len(did) > most {
		return fmt.Sprintf("%d were mended once more, such as %s of %s: %s", len(did), did[0].Kind, did[0].Stored, did[0].Done)
	}
	if why := cmp.Or(clean(left), left.Unsure); why != "" {
		return why
	}
	now, err := b.look(fs)
	if err != nil {
		return err.Error()
	}
	return cmp.Or(worse(before, now), lost(before, now), b.readable(now))
}

// interrupted says what is wrong with what an interrupted repair has left.
func (b *bed) interrupted(fs *memfs.FS, before state) string {
	now, err := b.look(fs)
	if err != nil {
		return err.Error()
	}
	if why := cmp.Or(worse(before, now), lost(before, now)); why != "" {
		return "before it is mended again: " + why
	}
	if left, _, err := b.repair(fs); err != nil {
		return fmt.Sprintf("repair: %v", err)
	} else if why := clean(left); why != "" {
		return why
	}
	return b.sound(fs, before, 0)
}

// TestRepairKilled ends a repair at moments between two calls that change something: what a kill leaves, and what a power cut does with
// any of what was not synced lost, is no worse than before, and is mended by the next.
func TestRepairKilled(t *testing.T) {
	var moments, cuts atomic.Int64
	t.Cleanup(func() { t.Logf("%d moments, %d power cuts", moments.Load(), cuts.Load()) })
	each(t, func(t *testing.T, b *bed, before state) {
		step := stride(37)
		for at := int64(0); ; at += step {
			fs := b.fs.WithHook(nil)
			fs.FailAt(at)
			_, _, err := b.repair(fs)
			if err == nil && fs.Ops() <= at {
				break
			}
			moments.Add(1)
			if why := b.interrupted(fs.Kill(), before); why != "" {
				t.Fatalf("killed at moment %d: %s", at, why)
			}
			for i, names := range []memfs.Names{memfs.InOrder, memfs.PerDirectory, memfs.InOrder} {
				cuts.Add(1)
				p := memfs.Policy{Names: names, Sectors: i == 0, Choose: memfs.Random(uint64(at)<<4 | uint64(i))}
				if why := b.interrupted(fs.Crash(p), before); why != "" {
					t.Fatalf("power cut %d at moment %d: %s", i, at, why)
				}
			}
		}
	})
}

// TestRepairFaults fails calls of a repair, once and from then on: it ends, and nothing is worse; the next one mends what is left.
func TestRepairFaults(t *testing.T) {
	var failed atomic.Int64
	t.Cleanup(func() { t.Logf("%d calls failed", failed.Load()) })
	each(t, func(t *testing.T, b *bed, before state) {
		step := stride(211)
		for k, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			only := func(o faults.Op) bool { return errno == syscall.EIO || o.Changes() }
			for at := int64(k); ; at += step {
				c := faults.Nth(at, errno, only)
				fs := b.fs.WithHook(c.Hook)
				_, _, err := b.repair(fs)
				if c.Count() <= at {
					break
				}
				failed.Add(1)
				if err != nil && !errors.Is(err, errno) && !errors.Is(err, syscall.EIO) {
					t.Fatalf("%v at call %d: %v", errno, at, err)
				}
				if why := b.interrupted(fs.Kill(), before); why != "" {
					t.Fatalf("%v at call %d: %s\nafter %v", errno, at, why, err)
				}
			}
		}
	})
}

// TestRepairBlind fails the opening of .kmsfs/tmp, once: no record is taken for nobody's while something could not be looked at.
func TestRepairBlind(t *testing.T) {
	b := harmed(t, "a directory taken apart with something in it")
	before, err := b.look(b.fs)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); ; at++ {
		c := faults.Nth(at, syscall.EIO, func(o faults.Op) bool { return o.Call == faults.OpenDir && o.Name == "tmp" })
		fs := b.fs.WithHook(c.Hook)
		b.repair(fs)
		if c.Count() <= at {
			break
		}
		if why := b.interrupted(fs.Kill(), before); why != "" {
			t.Errorf("time %d: %s", at, why)
		}
	}
}
