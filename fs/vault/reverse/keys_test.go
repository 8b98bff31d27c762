package reverse_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/reverse"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// slowStore is a key store behind a network, which may refuse.
type slowStore struct {
	keysource.Keysource
	takes  time.Duration
	denied atomic.Bool
	calls  atomic.Int64
}

func (s *slowStore) call() error {
	s.calls.Add(1)
	time.Sleep(s.takes)
	if s.denied.Load() {
		return keysource.NewError("call", "", keysource.CodeAccessDenied, "no")
	}
	return nil
}

func (s *slowStore) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	if err := s.call(); err != nil {
		return keysource.DataKey{}, err
	}
	return s.Keysource.GenerateDataKey(ctx, in)
}

func (s *slowStore) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	if err := s.call(); err != nil {
		return keysource.DecryptResult{}, err
	}
	return s.Keysource.Decrypt(ctx, in)
}

// TestKeysFirst: whoever lists the key tables first has the records of all files, made many at once.
func TestKeysFirst(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	d := mkdir(t, top, "many")
	const files = 600
	for i := range files {
		write(t, d, fmt.Sprintf("file %d", i), content(uint64(i), 100), 0)
	}
	ks := &slowStore{Keysource: b.ks, takes: 20 * time.Millisecond}
	v := b.openWith(ks, reverse.Options{})
	defer v.Close()
	began := time.Now()
	control, _, err := v.Lookup(v.Root(), ".kmsfs")
	must(t, err)
	tables, _, err := v.Lookup(control, "keys")
	must(t, err)
	entries, err := v.List(t.Context(), tables)
	must(t, err)
	if took := time.Since(began); took > files*ks.takes/4 {
		t.Errorf("%d keys took %v", files, took)
	}
	if got := v.Stats().KeysMade; got != files || len(entries) == 0 {
		t.Errorf("%d keys were made, %d tables listed", got, len(entries))
	}
	before := ks.calls.Load()
	read(t, v, find(t, v, b.keys(), "many", "file 7"))
	if got := ks.calls.Load() - before; got != 0 {
		t.Errorf("a key that was just made costs %d calls", got)
	}
}

// TestAhead: who reads one file after the other does not wait for each key by itself, and who reads here and there has no key
// asked for in vain.
func TestAhead(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	const files = 400
	for i := range files {
		write(t, top, fmt.Sprintf("file %d", i), content(uint64(i), 100), 0)
	}
	v := b.open(reverse.Options{})
	must(t, v.Prepare(t.Context()), v.Close())
	for _, c := range []struct {
		step, most, calls int // calls: a key that is being fetched may be asked for by who needs it too; of the files, every which one is read; the waits and the calls that this may cost
	}{{1, files / 2, files * 5 / 4}, {133, files, 140}} {
		ks := &slowStore{Keysource: b.ks, takes: 10 * time.Millisecond}
		v := b.openWith(ks, reverse.Options{})
		entries, err := v.List(t.Context(), v.Root())
		must(t, err)
		entries = slices.DeleteFunc(entries, func(e reverse.Entry) bool { return e.Name == ".kmsfs" })
		began, read := time.Now(), 0
		for i := 0; i < len(entries); i += c.step {
			n, _, err := v.LookupEntry(v.Root(), entries[i])
			must(t, err)
			h, _, err := v.Open(n)
			must(t, err)
			_, err = h.Read(t.Context(), make([]byte, 10), 0)
			must(t, err)
			h.Close()
			read++
		}
		took := time.Since(began)
		must(t, v.Close())
		if waits := int(took / ks.takes); waits > c.most || int(ks.calls.Load()) > c.calls || read < files/c.step {
			t.Errorf("every %d: %d files took the time of %d calls, at most %d; %d calls, at most %d", c.step, read, waits, c.most, ks.calls.Load(), c.calls)
		}
	}
}

// TestRecordFirst: at any power cut, what was read of a file has its record in the state.
func TestRecordFirst(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	write(t, top, "file", []byte("text"), 0)
	v := b.open(reverse.Options{})
	defer v.Close()
	block := read(t, v, find(t, v, b.keys(), "file"))
	h, err := envelope.ParseHeader(block)
	must(t, err)
	left := b.state.Crash(memfs.Policy{}).Root()
	defer left.Close()
	ctl, err := left.OpenDir(".kmsfs")
	must(t, err)
	defer ctl.Close()
	s, err := sidecar.Open(ctl, v.Config().Volume)
	must(t, err)
	defer s.Close()
	if _, err := s.Record(h.Loc, h.ID); err != nil {
		t.Errorf("after a power cut: %v", err)
	}
}

// TestDenied: without the CMK nothing of a file is shown, and the tables are not listed as if they were whole; names and
// attributes are. When the CMK may be used again, all is well.
func TestDenied(t *testing.T) {
	b := newBench(t, 4096)
	b.fill(4096)
	ks := &slowStore{Keysource: b.ks}
	v := b.openWith(ks, reverse.Options{})
	defer v.Close()
	ks.denied.Store(true)
	n := find(t, v, b.keys(), "size 4096")
	h, _, err := v.Open(n)
	must(t, err)
	defer h.Close()
	if got, err := h.Read(t.Context(), make([]byte, 10), 0); got != 0 || !errors.Is(err, keysource.ErrDenied) || !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("read: %d bytes, %v", got, err)
	} else if strings.Contains(err.Error(), "size 4096") {
		t.Errorf("the error has a plaintext name: %v", err)
	}
	control, _, err := v.Lookup(v.Root(), ".kmsfs")
	must(t, err)
	tables, _, err := v.Lookup(control, "keys")
	must(t, err)
	if _, err := v.List(t.Context(), tables); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("listing the tables: %v", err)
	}
	ks.denied.Store(false)
	if _, err := v.List(t.Context(), tables); err != nil {
		t.Error(err)
	}
	if _, err := h.Read(t.Context(), make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
}

// TestKeyAge: a key past its age is asked for again, and a refusal counts.
func TestKeyAge(t *testing.T) {
	b := newBench(t, 4096)
	b.fill(4096)
	ks := &slowStore{Keysource: b.ks}
	var shift atomic.Int64
	v := b.openWith(ks, reverse.Options{KeyMaxAge: time.Minute, Now: func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }})
	defer v.Close()
	h, _, err := v.Open(find(t, v, b.keys(), "size 4097"))
	must(t, err)
	defer h.Close()
	p := make([]byte, 10)
	_, err = h.Read(t.Context(), p, 0)
	must(t, err)
	ks.denied.Store(true)
	if _, err := h.Read(t.Context(), p, 0); err != nil {
		t.Errorf("within the age: %v", err)
	}
	shift.Store(int64(2 * time.Minute))
	if _, err := h.Read(t.Context(), p, 0); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("past the age: %v", err)
	}
}

// TestChanged: a file that is cut off while it is read is an error, and so is one of which a group that was shown would come
// out otherwise; one that only grows is shown as it was.
func TestChanged(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	const size = 40 * 63 * 4096
	for _, name := range []string{"cut", "changed", "grown"} {
		write(t, top, name, content(3, size), 0)
	}
	write(t, top, "small", content(3, 100), 0)
	v := b.open(reverse.Options{CacheBytes: 1}) // eight groups
	defer v.Close()
	vk := b.keys()
	handle := func(name string) *reverse.Handle {
		h, _, err := v.Open(find(t, v, vk, name))
		must(t, err)
		t.Cleanup(h.Close)
		return h
	}
	p := make([]byte, 64*4096)
	all := func(h *reverse.Handle) error {
		for off := int64(0); off < 40*int64(len(p)); off += int64(len(p)) {
			if _, err := h.Read(t.Context(), p, off); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range []struct {
		name   string
		change func()
		want   error
	}{
		{"cut", func() { truncate(t, top, "cut", size/2) }, reverse.ErrChanged},
		{"changed", func() { write(t, top, "changed", []byte("x"), 5000) }, reverse.ErrChanged},
		{"grown", func() { write(t, top, "grown", []byte("x"), size) }, nil},
	} {
		h := handle(c.name)
		must(t, all(h))
		c.change()
		if err := all(h); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	h := handle("small")
	truncate(t, top, "small", 10)
	if _, err := h.Read(t.Context(), p, 0); !errors.Is(err, reverse.ErrChanged) {
		t.Errorf("a small file that was cut: %v", err)
	}
	must(t, top.Unlink("cut"), top.Mkdir("cut", 0o700))
	if _, err := v.Attr(find(t, v, vk, "cut")); err != nil {
		t.Errorf("a directory in place of a file: %v", err)
	}
}

func truncate(t testing.TB, d backing.Dir, name string, size int64) {
	t.Helper()
	f, err := d.Open(name, syscall.O_RDWR, 0)
	must(t, err, f.Truncate(size), f.Close())
}

// TestCaching: what is read may be kept while the file's times would show a change, for one version of it at a time.
func TestCaching(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	write(t, top, "file", content(1, 5000), 0)
	var shift atomic.Int64
	v := b.openWith(b.ks, reverse.Options{Now: func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }})
	defer v.Close()
	n := find(t, v, b.keys(), "file")
	open := func(what string, want reverse.Caching) *reverse.Handle {
		t.Helper()
		h, got, err := v.Open(n)
		must(t, err)
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
		return h
	}
	open("just written", reverse.CacheNot).Close()
	shift.Store(int64(45 * time.Second))
	for range 2 {
		open("perhaps written to through a mapping", reverse.CacheAnew).Close()
	}
	mapped := open("perhaps written to through a mapping", reverse.CacheAnew)
	open("and being read", reverse.CacheNot).Close()
	mapped.Close()
	shift.Store(int64(2 * time.Minute))
	open("the first time", reverse.CacheAnew).Close()
	first := open("again", reverse.CacheOn)
	write(t, top, "file", content(2, 5000), 0)
	open("just changed", reverse.CacheNot).Close()
	shift.Store(int64(4 * time.Minute))
	open("another version is being read", reverse.CacheNot).Close()
	first.Close()
	open("the other version", reverse.CacheAnew).Close()
	open("and again", reverse.CacheOn).Close()
}
