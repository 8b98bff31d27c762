package envelope

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"testing"
)

const journalVectorFile = "testdata/journal-v1.json"

// journalVectors is a journal file of format 1, whole, and what stands in it. It is written once.
type journalVectors struct {
	VolumeKey string   `json:"volume_key"`
	VolumeID  string   `json:"volume_id"`
	Epoch     uint64   `json:"epoch"`
	File      string   `json:"file"`
	Kinds     []int    `json:"kinds"`
	Offsets   []int64  `json:"offsets"`
	Names     []string `json:"names"`
}

func journalKeys(t testing.TB) *VolumeKeys {
	k, err := NewVolumeKeys(pattern(1, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// journalRecords has one of each kind.
func journalRecords() []JournalRecord {
	id := FileID(pattern(4, 16))
	entry := func(seed, n int) Entry {
		return Entry{Nonce: [NonceSize]byte(pattern(seed, NonceSize)), Tag: [TagSize]byte(pattern(seed+1, TagSize)), Length: uint32(n)}
	}
	return []JournalRecord{
		{Kind: JournalPlace, Seq: 1, ID: id, Place: []string{"sealed-directory", "sealed-file"}},
		{Kind: JournalChunk, Seq: 2, ID: id, Chunk: 1 << 33, Old: entry(20, 4096), New: entry(30, 100), Data: pattern(40, 100)},
		{Kind: JournalChunk, Seq: 9, ID: id, Chunk: 0, Old: entry(30, 100), New: entry(50, 65536), Data: pattern(41, 65536)},
		{Kind: JournalBlock, Seq: 10, ID: id, Token: BlockToken(pattern(42, 300)), Block: pattern(43, InlineOverhead+172)},
		{Kind: JournalBlock, Seq: 11, ID: id, Token: BlockToken(pattern(43, 300)), Block: pattern(44, BlockSize), Data: pattern(45, 172)},
		{Kind: JournalForget, Seq: 12, ID: id},
	}
}

// journalFile returns a journal of the records and where they stand.
func journalFile(k *VolumeKeys, epoch uint64, rr []JournalRecord) (b []byte, at []int64) {
	h := k.MarshalJournalHeader(JournalHeader{Epoch: epoch, Volume: VolumeID(pattern(2, 16))})
	b = h[:]
	for i := range rr {
		off := len(b)
		at = append(at, int64(off))
		b = append(b, make([]byte, rr[i].Size())...)
		k.MarshalJournalRecord(b[off:], epoch, int64(off), &rr[i])
	}
	return b, at
}

func TestJournalRoundTrip(t *testing.T) {
	k := journalKeys(t)
	rr := journalRecords()
	b, at := journalFile(k, 7, rr)
	h, err := k.ParseJournalHeader(b)
	if err != nil || h.Epoch != 7 || h.Volume != VolumeID(pattern(2, 16)) {
		t.Fatalf("header %v, %v", h, err)
	}
	for i := range rr {
		got, n, err := k.ParseJournalRecord(b[at[i]:], 7, at[i])
		if err != nil || n != rr[i].Size() || n%SectorSize != 0 {
			t.Fatalf("record %d: %d bytes, %v", i, n, err)
		}
		if len(got.Data) == 0 {
			got.Data = nil
		}
		if !reflect.DeepEqual(got, rr[i]) {
			t.Errorf("record %d: %+v, want %+v", i, got, rr[i])
		}
		// It is of this place, this epoch and this volume.
		for what, f := range map[string]func() error{
			"another offset": func() error { _, _, err := k.ParseJournalRecord(b[at[i]:], 7, at[i]+SectorSize); return err },
			"another epoch":  func() error { _, _, err := k.ParseJournalRecord(b[at[i]:], 8, at[i]); return err },
			"another key": func() error {
				o, _ := NewVolumeKeys(pattern(9, 32))
				_, _, err := o.ParseJournalRecord(b[at[i]:], 7, at[i])
				return err
			},
			"cut short": func() error { _, _, err := k.ParseJournalRecord(b[at[i]:at[i]+60], 7, at[i]); return err },
		} {
			if err := f(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("record %d, %s: %v", i, what, err)
			}
		}
	}
}

// TestJournalFlips flips each bit of a small record and of the header.
func TestJournalFlips(t *testing.T) {
	k := journalKeys(t)
	rr := journalRecords()[:2]
	b, at := journalFile(k, 7, rr)
	for i := range 8 * JournalHeaderSize {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		if _, err := k.ParseJournalHeader(c); err == nil {
			t.Errorf("header: bit %d may be flipped", i)
		}
	}
	used := 8 * (int(at[1]) + journalHeadSize + journalChunkSize + 100)
	for i := 8 * int(at[1]); i < used; i++ {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		if _, _, err := k.ParseJournalRecord(c[at[1]:], 7, at[1]); err == nil {
			t.Errorf("record: bit %d may be flipped", i-8*int(at[1]))
		}
	}
}

// TestJournalVectors opens the journal that was written when the format was fixed.
func TestJournalVectors(t *testing.T) {
	k := journalKeys(t)
	if os.Getenv("KMSFS_WRITE_VECTORS") != "" {
		b, at := journalFile(k, 3, journalRecords())
		v := journalVectors{VolumeKey: hex.EncodeToString(pattern(1, 32)), VolumeID: hex.EncodeToString(pattern(2, 16)), Epoch: 3,
			File: hex.EncodeToString(b), Offsets: at, Names: []string{"sealed-directory", "sealed-file"}}
		for _, r := range journalRecords() {
			v.Kinds = append(v.Kinds, int(r.Kind))
		}
		text, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(journalVectorFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	text, err := os.ReadFile(journalVectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v journalVectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(v.File)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := k.ParseJournalHeader(b); err != nil || h.Epoch != v.Epoch {
		t.Fatalf("header: %v, %v", h, err)
	}
	want := journalRecords()
	if len(v.Offsets) != len(want) {
		t.Fatalf("%d records, want %d", len(v.Offsets), len(want))
	}
	for i, at := range v.Offsets {
		r, _, err := k.ParseJournalRecord(b[at:], v.Epoch, at)
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if len(r.Data) == 0 {
			r.Data = nil
		}
		if !reflect.DeepEqual(r, want[i]) {
			t.Errorf("record %d differs", i)
		}
	}
}

// FuzzJournal parses what an attacker may write into the journal, and what he cannot: with a seal that matches.
func FuzzJournal(f *testing.F) {
	k := journalKeys(f)
	rr := journalRecords()
	b, at := journalFile(k, 7, rr)
	for _, off := range at {
		f.Add(b[off:min(off+4096, int64(len(b)))], false)
		f.Add(b[off:min(off+4096, int64(len(b)))], true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		k.ParseJournalHeader(b)
		b = bytes.Clone(b)
		if sealed && len(b) >= journalHeadSize {
			used := min(int64(len(b)), JournalRecordMax)
			b[16], b[17], b[18], b[19] = byte(used), byte(used>>8), byte(used>>16), 0
			k.sumJournal(b[:TagSize], 7, 512, b[TagSize:used])
		}
		r, n, err := k.ParseJournalRecord(b, 7, 512)
		if err != nil {
			return
		}
		if n != r.Size() {
			t.Fatalf("%d bytes read, %d to be written", n, r.Size())
		}
		again := make([]byte, n)
		k.MarshalJournalRecord(again, 7, 512, &r)
		if got, _, err := k.ParseJournalRecord(again, 7, 512); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v, %v, want %+v", got, err, r)
		}
	})
}
