package sidecar_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/sidecar"
)

var volume = envelope.VolumeID{7}

// place is a control directory on a fresh file system.
func place(t testing.TB, c memfs.Config) *memfs.FS {
	t.Helper()
	fs := memfs.New(c)
	root := fs.Root()
	defer root.Close()
	if err := root.Mkdir("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := root.SyncFS(); err != nil {
		t.Fatal(err)
	}
	return fs
}

func open(t testing.TB, fs *memfs.FS) *sidecar.Sidecar {
	t.Helper()
	s, err := sidecar.Open(fs.Root(), volume)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// record makes the nth record; its wrapped key says which version it is.
func record(n int, version string, wrappings int) *envelope.Record {
	r := &envelope.Record{ID: envelope.FileID{byte(n), byte(n >> 8), 1}, Created: 1}
	for i := range wrappings {
		r.Wrappings = append(r.Wrappings, envelope.Wrapping{
			ContextVersion: envelope.ContextVersion, KeyARN: fmt.Sprintf("arn:of/a/cmk/with/a/number/%d", i), Blob: []byte(fmt.Sprintf("%s %d", version, n)),
		})
	}
	return r
}

// fill appends n records in batches and returns where they are.
func fill(t testing.TB, s *sidecar.Sidecar, n int) []envelope.Locator {
	t.Helper()
	w := s.NewWriter(time.Now)
	defer w.Close()
	var locs []envelope.Locator
	for len(locs) < n {
		var batch []*envelope.Record
		for i := range min(100, n-len(locs)) {
			batch = append(batch, record(len(locs)+i, "old", 1))
		}
		l, err := w.Append(batch)
		if err != nil {
			t.Fatal(err)
		}
		locs = append(locs, l...)
	}
	return locs
}

// version reads the nth record.
func version(s *sidecar.Sidecar, loc envelope.Locator, n int) string {
	r, err := s.Record(loc, record(n, "", 1).ID)
	if err != nil {
		return err.Error()
	}
	return string(r.Wrappings[0].Blob)
}

// seen reads the slots of a table.
func seen(t testing.TB, s *sidecar.Sidecar, id uint64) map[uint32][]byte {
	t.Helper()
	m := map[uint32][]byte{}
	if err := s.ScanTable(context.Background(), id, func(p *sidecar.Part) error {
		for e := range p.Entries() {
			m[e.Loc.Slot] = bytes.Clone(e.Raw)
		}
		return p.Err
	}); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestReplace: what was seen changes, in slots that grow; what was erased or changed since does not.
func TestReplace(t *testing.T) {
	s := open(t, place(t, memfs.Config{}))
	locs := fill(t, s, 20)
	id := locs[0].Table
	was := seen(t, s, id)
	if left, err := s.Zero(locs[3:4], func(uint64) bool { return true }); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	if left, err := s.Replace(id, []sidecar.Change{{Slot: locs[5].Slot, Seen: was[locs[5].Slot], Record: record(5, "first", 1)}}); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	for round, wrappings := range []int{1, 8} {
		var changes []sidecar.Change
		for i := range 10 {
			changes = append(changes, sidecar.Change{Slot: locs[i].Slot, Seen: was[locs[i].Slot], Record: record(i, "new", wrappings)})
		}
		left, err := s.Replace(id, changes)
		if err != nil || fmt.Sprint(left) != "[4 6]" {
			t.Fatalf("left %v: %v", left, err)
		}
		for i := range 20 {
			want := fmt.Sprintf("old %d", i)
			switch {
			case i == 3:
				want = envelope.ErrErased.Error()
			case i == 5:
				want = "first 5"
			case i < 10:
				want = fmt.Sprintf("new %d", i)
			}
			if got := version(s, locs[i], i); !bytes.HasSuffix([]byte(got), []byte(want)) {
				t.Errorf("round %d: record %d is %q, not %q", round, i, got, want)
			}
		}
		for slot, raw := range seen(t, s, id) {
			if slot != 4 && slot != 6 {
				was[slot] = raw
			}
		}
	}
	if _, z, err := s.Slots(id, 1, 1); err != nil || z != 1024 {
		t.Errorf("slots of %d bytes: %v", z, err)
	}
	ids, err := s.Tables()
	if err != nil || len(ids) != 1 {
		t.Errorf("tables %v: %v", ids, err)
	}
}

// TestWriterFindsItsTableReplaced: appends go on in a table that has its name, and nothing is lost.
func TestWriterFindsItsTableReplaced(t *testing.T) {
	fs := place(t, memfs.Config{})
	s, other := open(t, fs), open(t, fs)
	w := s.NewWriter(time.Now)
	defer w.Close()
	a, err := w.Append([]*envelope.Record{record(0, "old", 1)})
	if err != nil {
		t.Fatal(err)
	}
	was := seen(t, other, a[0].Table)
	if got := version(s, a[0], 0); got != "old 0" { // s keeps the table open
		t.Fatal(got)
	}
	if _, err := other.Replace(a[0].Table, []sidecar.Change{{Slot: 1, Seen: was[1], Record: record(0, "new", 1)}}); err != nil {
		t.Fatal(err)
	}
	b, err := w.Append([]*envelope.Record{record(1, "old", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if b[0].Table == a[0].Table {
		t.Error("the writer went on in a table that was replaced")
	}
	for _, r := range []*sidecar.Sidecar{s, other} {
		if got := version(r, a[0], 0); got != "new 0" {
			t.Error(got)
		}
		if got := version(r, b[0], 1); got != "old 1" {
			t.Error(got)
		}
	}
	if _, err := other.Zero(b, func(uint64) bool { return false }); err != nil { // which removes the table
		t.Fatal(err)
	}
	c, err := w.Append([]*envelope.Record{record(2, "old", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if got := version(other, c[0], 2); got != "old 2" {
		t.Error(got)
	}
}

// TestLockExcludes: two sidecars, as of two processes, and the goroutines of one, exclude each other, also after the file of
// the lock was removed.
func TestLockExcludes(t *testing.T) {
	dir := t.TempDir()
	at := func() backing.Dir {
		d, err := backing.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	if err := at().Mkdir("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	var all []*sidecar.Sidecar
	for range 3 {
		s, err := sidecar.Open(at(), volume)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		all = append(all, s)
	}
	var within, total atomic.Int64 // the race detector knows nothing of locks of files
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for range 50 {
				if err := all[i%3].Locked(func() error {
					if within.Add(1) != 1 {
						return errors.New("two at once")
					}
					time.Sleep(50 * time.Microsecond)
					within.Add(-1)
					total.Add(1)
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := total.Load(); n != 300 {
		t.Errorf("%d of 300", n)
	}
	if err := at().Unlink("keys.lock"); err != nil {
		t.Fatal(err)
	}
	if err := all[0].Locked(func() error { _, err := at().StatAt("keys.lock"); return err }); err != nil {
		t.Errorf("the lock of a removed file was taken: %v", err)
	}
}

// TestReadersWriteNothing: reading makes no lock, nor anything else.
func TestReadersWriteNothing(t *testing.T) {
	fs := place(t, memfs.Config{})
	w, err := sidecar.Open(fs.Root(), volume)
	if err != nil {
		t.Fatal(err)
	}
	locs := fill(t, w, 5)
	w.Close()
	if err := fs.Root().Unlink("keys.lock"); err != nil {
		t.Fatal(err)
	}
	before := fs.Ops()
	s := open(t, fs)
	for i, loc := range locs {
		if got := version(s, loc, i); got != fmt.Sprintf("old %d", i) {
			t.Error(got)
		}
	}
	if err := s.Scan(context.Background(), sidecar.ScanOptions{Parallel: 4}, func(*sidecar.Part) error { return nil }); err != nil {
		t.Error(err)
	}
	if n := fs.Ops() - before; n != 0 {
		t.Errorf("%d operations that write", n)
	}
}

// TestScan: every record once, in shards too; damage is told and ends nothing.
func TestScan(t *testing.T) {
	fs := place(t, memfs.Config{})
	s := open(t, fs)
	locs := fill(t, s, 5000)
	count := func(o sidecar.ScanOptions) (records, damaged, tables int, last int) {
		var mu sync.Mutex
		if err := s.Scan(context.Background(), o, func(p *sidecar.Part) error {
			mu.Lock()
			defer mu.Unlock()
			if p.Err != nil {
				tables++
			}
			if p.Last {
				last++
			}
			for e := range p.Entries() {
				if e.Err != nil {
					damaged++
				} else {
					records++
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if r, d, b, last := count(sidecar.ScanOptions{Parallel: 3}); r != 5000 || d != 0 || b != 0 || last != 3 {
		t.Errorf("%d records, %d damaged, %d bad tables, %d ended", r, d, b, last)
	}
	total := 0
	for i := range 4 {
		r, _, _, _ := count(sidecar.ScanOptions{Shard: i, Shards: 4})
		total += r
	}
	if total != 5000 {
		t.Errorf("%d records in shards", total)
	}
	keys, err := fs.Root().OpenDir("keys")
	if err != nil {
		t.Fatal(err)
	}
	damage := func(loc envelope.Locator) {
		f, err := keys.Open(envelope.TableName(loc.Table), syscall.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("damage"), int64(loc.Slot)*512+100); err != nil {
			t.Fatal(err)
		}
	}
	damage(locs[10])
	damage(envelope.Locator{Table: locs[4999].Table})
	left := 0
	for _, l := range locs {
		if l.Table != locs[4999].Table {
			left++
		}
	}
	if r, d, b, _ := count(sidecar.ScanOptions{Parallel: 2}); r != left-1 || d != 1 || b != 1 {
		t.Errorf("%d records of %d, %d damaged, %d bad tables", r, left-1, d, b)
	}
	stop := errors.New("stop")
	if err := s.Scan(context.Background(), sidecar.ScanOptions{}, func(*sidecar.Part) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// TestReplaceBoundary: a table whose slots fill whole parts, and one of more than one part, are replaced whole.
func TestReplaceBoundary(t *testing.T) {
	fs := place(t, memfs.Config{})
	s := open(t, fs)
	locs := fill(t, s, sidecar.TableSlots-1)
	id := locs[0].Table
	was := seen(t, s, id)
	last := len(locs) - 1
	for _, wrappings := range []int{1, 8, 8} {
		if left, err := s.Replace(id, []sidecar.Change{{Slot: locs[last].Slot, Seen: was[locs[last].Slot], Record: record(last, "new", wrappings)}}); err != nil || len(left) > 0 {
			t.Fatal(left, err)
		}
		was = seen(t, s, id)
		for i, loc := range locs {
			want := fmt.Sprintf("old %d", i)
			if i == last {
				want = fmt.Sprintf("new %d", i)
			}
			if got := version(s, loc, i); got != want {
				t.Fatalf("record %d is %q", i, got)
			}
		}
	}
}
