package sidecar_test

import (
	"bytes"
	"context"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/sidecar"
)

// FuzzTable: whatever stands in a key table, nothing panics, and what a replacement does not change is as it was.
func FuzzTable(f *testing.F) {
	const id, z = 7, envelope.MinSlotSize
	good := make([]byte, 4*z)
	h := envelope.TableHeader{SlotSize: z, ID: id, Volume: volume}
	if err := h.Marshal(good[:z]); err != nil {
		f.Fatal(err)
	}
	for i := 1; i < 4; i++ {
		if err := record(i, "old", 1).Marshal(good[i*z : (i+1)*z]); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(good)
	f.Add(good[:700])
	f.Add(append(bytes.Clone(good), "KMR1 and more"...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := place(t, memfs.Config{})
		keys, err := fs.Root().OpenDir("keys")
		if err != nil {
			t.Fatal(err)
		}
		file, err := keys.Open(envelope.TableName(id), syscall.O_RDWR|syscall.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		s := open(t, fs)
		var changes []sidecar.Change
		whole := map[uint32]string{}
		if err := s.ScanTable(context.Background(), id, func(p *sidecar.Part) error {
			for e := range p.Entries() {
				if e.Record == nil {
					continue
				}
				whole[e.Loc.Slot] = string(e.Record.Wrappings[0].Blob)
				if len(changes) == 0 {
					r := *e.Record
					r.Wrappings = record(1, "new", 8).Wrappings
					changes = append(changes, sidecar.Change{Slot: e.Loc.Slot, Seen: e.Raw, Record: &r})
					whole[e.Loc.Slot] = "new 1"
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_, _ = s.Record(envelope.Locator{Table: id, Slot: 1}, envelope.FileID{})
		if left, err := s.Replace(id, changes); err != nil || len(left) > 0 {
			t.Fatal(left, err)
		}
		if len(changes) == 0 {
			return
		}
		for slot, raw := range seen(t, s, id) {
			if r, err := envelope.ParseRecord(raw); err == nil && string(r.Wrappings[0].Blob) != whole[slot] {
				t.Fatalf("slot %d is %q, not %q", slot, r.Wrappings[0].Blob, whole[slot])
			}
			delete(whole, slot)
		}
		if len(whole) > 0 {
			t.Fatalf("%d records are lost", len(whole))
		}
		_, _ = s.Zero([]envelope.Locator{{Table: id, Slot: 1}, {Table: id, Slot: 1 << 31}}, func(uint64) bool { return false })
	})
}
