package sidecar_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/sidecar"
)

// ledger is what a scenario knows of its records.
type ledger struct {
	locs   []envelope.Locator
	state  []state
	zeroed []int // since the last sync
}

// state is what of a record may be found.
type state struct {
	old, new, erased bool
}

// scenario appends, erases and replaces with two sidecars, as a mount and a rewrap do, until something fails.
func (l *ledger) scenario(fs *memfs.FS) error {
	mount, err := sidecar.Open(fs.Root(), volume)
	if err != nil {
		return err
	}
	defer mount.Close()
	rewrap, err := sidecar.Open(fs.Root(), volume)
	if err != nil {
		return err
	}
	defer rewrap.Close()
	w := mount.NewWriter(time.Now)
	defer w.Close()
	appends := func(n int) error {
		var batch []*envelope.Record
		for i := range n {
			batch = append(batch, record(len(l.locs)+i, "old", 1))
		}
		locs, err := w.Append(batch)
		for range locs {
			l.state = append(l.state, state{old: true})
		}
		l.locs = append(l.locs, locs...)
		return err
	}
	zero := func(which ...int) error {
		var locs []envelope.Locator
		for _, i := range which {
			l.state[i].erased = true
			locs = append(locs, l.locs[i])
		}
		l.zeroed = append(l.zeroed, which...)
		_, err := mount.Zero(locs, func(id uint64) bool { return id == w.Table() })
		return err
	}
	replace := func(wrappings int, between func() error) error {
		by := map[uint64][]sidecar.Change{}
		raws := map[uint64]map[uint32][]byte{}
		for i, loc := range l.locs {
			if raws[loc.Table] == nil {
				b, z, err := rewrap.Slots(loc.Table, 0, sidecar.TableSlots)
				if err != nil {
					if errors.Is(err, sidecar.ErrNoRecord) {
						continue
					}
					return err
				}
				raws[loc.Table] = map[uint32][]byte{}
				for s := 0; (s+1)*z <= len(b); s++ {
					raws[loc.Table][uint32(s)] = b[s*z : (s+1)*z]
				}
			}
			raw := raws[loc.Table][loc.Slot]
			if bytes.Count(raw, []byte{0}) == len(raw) {
				continue
			}
			if !l.state[i].erased || l.state[i].old {
				l.state[i].new = true
			}
			by[loc.Table] = append(by[loc.Table], sidecar.Change{Slot: loc.Slot, Seen: raw, Record: record(i, "new", wrappings)})
		}
		if err := between(); err != nil {
			return err
		}
		for id, changes := range by {
			left, err := rewrap.Replace(id, changes)
			if err != nil {
				return err
			}
			for i, loc := range l.locs {
				moved := false
				for _, c := range changes {
					moved = moved || loc.Table == id && c.Slot == loc.Slot
				}
				for _, slot := range left {
					moved = moved && slot != loc.Slot
				}
				if moved {
					l.state[i].old = false
				}
			}
		}
		return nil
	}
	sync := func() error {
		done := l.zeroed
		if err := fs.Root().SyncFS(); err != nil {
			return err
		}
		for _, i := range done {
			l.state[i] = state{erased: true}
		}
		l.zeroed = nil
		return nil
	}
	for _, step := range []func() error{
		func() error { return appends(20) },
		func() error { return zero(3, 4) },
		func() error { return replace(1, func() error { return errors.Join(appends(5), zero(7)) }) },
		func() error { return appends(20) },
		func() error { return zero(8, 9, 10, 11, 12, 13, 14, 15, 16, 17) },
		sync,
		func() error { return replace(8, func() error { return zero(22, 23) }) },
		func() error { return appends(3) },
		sync,
		func() error { return replace(8, func() error { return nil }) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// check looks at what a crash has left.
func (l *ledger) check(t *testing.T, fs *memfs.FS, what string) {
	t.Helper()
	s := open(t, fs)
	for i, loc := range l.locs {
		got := version(s, loc, i)
		st := l.state[i]
		ok := st.old && got == fmt.Sprintf("old %d", i) || st.new && got == fmt.Sprintf("new %d", i) ||
			st.erased && (strings.HasSuffix(got, envelope.ErrErased.Error()) || strings.Contains(got, "missing") || strings.Contains(got, "ends before"))
		if !ok {
			t.Fatalf("%s: record %d, %+v, is %q", what, i, st, got)
		}
	}
	w := s.NewWriter(time.Now)
	defer w.Close()
	if _, err := w.Append([]*envelope.Record{record(1000, "old", 1)}); err != nil {
		t.Fatalf("%s: append after it: %v", what, err)
	}
	ids, err := s.Tables()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		for slot, raw := range seen(t, s, id) {
			r, err := envelope.ParseRecord(raw)
			if err != nil {
				continue
			}
			if left, err := s.Replace(id, []sidecar.Change{{Slot: slot, Seen: raw, Record: r}}); err != nil || len(left) > 0 {
				t.Fatalf("%s: replace after it: %v %v", what, left, err)
			}
			break
		}
	}
}

// TestCrash cuts a scenario before each of its operations. What is found then, after kill -9 and after cuts of the power,
// is every record as it was or as it was to be, none lost, and none that was erased durably.
func TestCrash(t *testing.T) {
	policies := uint64(12)
	if testing.Short() {
		policies = 3
	}
	cuts := 0
	for k := int64(0); ; k++ {
		fs := place(t, memfs.Config{})
		fs.FailAt(fs.Ops() + k)
		l := &ledger{}
		err := l.scenario(fs)
		if err != nil && !errors.Is(err, memfs.ErrCrashed) {
			t.Fatalf("cut %d: %v", k, err)
		}
		l.check(t, fs.Kill(), fmt.Sprintf("cut %d, kill", k))
		for seed := range policies {
			p := memfs.Policy{Names: memfs.Names(seed % 3), Sectors: seed%2 == 0, Choose: memfs.Random(seed<<16 | uint64(k))}
			l.check(t, fs.Crash(p), fmt.Sprintf("cut %d, policy %d", k, seed))
			cuts++
		}
		if err == nil {
			break
		}
	}
	t.Logf("%d cuts of the power", cuts)
	if cuts < 100 {
		t.Error("the scenario is too short")
	}
}
