package vault_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// olderJournal returns the journal that do leaves, where the power is cut behind it. x is settled before and after; what do has
// written is in place then.
func (x *victim) olderJournal(do ...step) (journal []byte) {
	x.t.Helper()
	fs := x.fs
	v := openVault(x.t, fs.Root, x.ks, vault.Options{JournalFor: 1 << 50})
	for _, s := range do {
		if err := s.do(v); err != nil {
			x.t.Fatal(err)
		}
	}
	x.fs = fs.Crash(memfs.Policy{})
	v.Close()
	journal = bytes.Clone(x.bytes(envelope.ControlDir + "/journal/0"))
	x.settle()
	return journal
}

// settle mounts and unmounts.
func (x *victim) settle(do ...step) {
	x.t.Helper()
	v := openVault(x.t, x.fs.Root, x.ks, vault.Options{})
	for _, s := range do {
		if err := s.do(v); err != nil {
			x.t.Fatal(err)
		}
	}
	if err := v.Close(); err != nil {
		x.t.Fatal(err)
	}
}

// putJournal puts journal files back, by name.
func (x *victim) putJournal(files map[string][]byte) {
	x.t.Helper()
	ctl := x.sub(envelope.ControlDir)
	_ = ctl.Mkdir("journal", 0o700)
	j, err := ctl.OpenDir("journal")
	if err != nil {
		x.t.Fatal(err)
	}
	for name, b := range files {
		f, err := j.Open(name, 0x41 /* O_WRONLY|O_CREAT */, 0o600)
		if err == nil {
			_, err = f.WriteAt(b, 0)
		}
		if err != nil {
			x.t.Fatal(err)
		}
		f.Close()
	}
}

// afterwards mounts for writing, so that the journal is put in place, and reads path then.
func (x *victim) afterwards(path string) (string, error) {
	x.t.Helper()
	x.settle()
	x.errs = map[string]error{}
	got := x.read()
	return got[path], x.errs[path]
}

// TestOlderJournal puts an older journal, all of whose records are authentic, before a settled vault. It does not make good what is
// refused otherwise: zeros in place of an index, or a damaged one, are no crash.
func TestOlderJournal(t *testing.T) {
	const off = 2 * groupStored // of the last index block of big
	for name, attack := range map[string]struct {
		before []step // leaves the older journal
		do     func(x *victim, b []byte) []byte
		path   string
	}{
		"a sector of zeros, with a record of a hole": {[]step{write("big", 2*4096, 61, 6*4096), write("big", 2*4096, 61, 10*4096), fsync("big", vault.SyncAll)},
			func(_ *victim, b []byte) []byte { clear(b[512:1024]); return b }, "big"},
		"an index block of zeros, with a record of a hole in it": {[]step{
			write("big", 2*63*4096, 62, 4096), write("big", 2*63*4096+4096, 62, 12*4096), fsync("big", vault.SyncAll)},
			func(_ *victim, b []byte) []byte { clear(b[off : off+4096]); return b }, "big"},
		"a damaged first index block, with the record of its beginning": {[]step{write("inline", 0, 51, 40000), fsync("inline", vault.SyncAll)},
			func(_ *victim, b []byte) []byte { b[700] ^= 1; return b }, "inline"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newVictim(t)
			journal := x.olderJournal(attack.before...)
			stored := x.stored[attack.path]
			x.set(stored, attack.do(x, bytes.Clone(x.bytes(stored))))
			if got, err := func() (string, error) { y := *x; y.fs = x.fs.Kill(); y.t = t; return y.afterwards(attack.path) }(); !damaged(err) {
				t.Fatalf("without a journal it is not refused: %d bytes, %v", len(got), err)
			}
			x.putJournal(map[string][]byte{"0": journal})
			if got, err := x.afterwards(attack.path); !damaged(err) {
				t.Errorf("%d bytes, %v, want EIO", len(got), err)
			}
		})
	}
}

// TestSettledStaysSettled: a record of what is in place and settled opens no window in which the chunk may be taken away.
func TestSettledStaysSettled(t *testing.T) {
	x := newVictim(t)
	journal := x.olderJournal(write("one", 4096, 53, 4096), fsync("one", vault.SyncAll))
	x.putJournal(map[string][]byte{"0": journal})
	v := openVault(t, x.fs.Root, x.ks, vault.Options{})
	b := bytes.Clone(x.bytes(x.stored["one"]))
	clear(b[4096+4096 : 4096+8192])
	x.set(x.stored["one"], b)
	n, err := find(v, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Read(ctx, n, make([]byte, 4096), 4096); !damaged(err) {
		t.Errorf("%v, want EIO", err)
	}
	v.Forget(n, 1)
	v.Close()
}

// TestManyJournals puts a journal file under further names, as who wants a mount to run out of memory: only the one of its epoch is read.
func TestManyJournals(t *testing.T) {
	x := newVictim(t)
	journal := x.olderJournal(write("one", 4096, 53, 4096), fsync("one", vault.SyncAll))
	files := map[string][]byte{"0": journal}
	for _, name := range []string{"held.0000000000000007", "held.00000000000000ff", "held.", "held.x"} {
		files[name] = journal
	}
	x.putJournal(files)
	var log bytes.Buffer
	v := openVault(t, x.fs.Root, x.ks, vault.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "has the name of another"); n != len(files)-1 {
		t.Errorf("%d files are left out, want %d:\n%s", n, len(files)-1, &log)
	}
}
