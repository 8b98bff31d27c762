package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"kmsfs/keysource"
)

// faultyFile is a file on a disk that can be full, fail, and lose what was not synced.
type faultyFile struct {
	file
	mu    sync.Mutex
	write error // of WriteAt, after half of the bytes
	sync  error
	space error // of Allocate
	syncs int
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.write != nil {
		n, _ := f.file.WriteAt(b[:len(b)/2], off)
		return n, f.write
	}
	return f.file.WriteAt(b, off)
}

func (f *faultyFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return errors.Join(f.sync, f.file.Sync())
}

func (f *faultyFile) Allocate(off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.space != nil {
		return f.space
	}
	return f.file.Allocate(off, n)
}

// set changes how the disk fails.
func (f *faultyFile) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// openFaulty opens a log on a disk that can fail.
func openFaulty(t *testing.T, cfg Config) (*Log, *faultyFile) {
	t.Helper()
	var f *faultyFile
	cfg.open = func(path string) (file, error) {
		real, err := openFile(path)
		f = &faultyFile{file: real}
		return f, err
	}
	return openLog(t, cfg), f
}

func openLog(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// add writes a record of a call.
func add(l *Log, name string) error {
	r, err := l.Reserve(4096)
	if err != nil {
		return err
	}
	return r.Append(&Record{EventName: name, EventID: NewID(), EventTime: Time(time.Unix(1e9, 0)), AWSRegion: "local",
		RequestParameters: map[string]any{"keyId": "alias/<a>"}, Resources: []Resource{{"000000000000", "AWS::KMS::Key", "arn"}}})
}

// mustAdd writes n records.
func mustAdd(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := add(l, fmt.Sprint("Op", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// verify checks a file.
func verify(t *testing.T, path string, after Head) (Summary, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Verify(f, after, nil)
}

// mustVerify checks a file of n whole lines.
func mustVerify(t *testing.T, path string, n int64) Summary {
	t.Helper()
	s, err := verify(t, path, Head{})
	if err != nil || s.Lines != n || s.TornBytes != 0 {
		t.Fatalf("verify: %+v, %v, want %d lines", s, err, n)
	}
	return s
}

func TestAppendAndResume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for round := range 3 {
		l := openLog(t, Config{Path: path})
		mustAdd(t, l, 5)
		if _, err := Open(Config{Path: path}); !errors.Is(err, ErrInUse) {
			t.Errorf("opened twice: %v", err)
		}
		head := l.Head()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if s := mustVerify(t, path, int64(5*round+5)); s.Head != head || s.First != 1 {
			t.Errorf("got %+v, want the head %+v", s, head)
		}
		if err := add(l, "late"); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var first map[string]any
	if err := json.Unmarshal(text[:bytes.IndexByte(text, '\n')], &first); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"sequence": 1.0, "eventVersion": "1.11", "eventName": "Op0", "eventType": "AwsApiCall",
		"eventTime": "2001-09-09T01:46:40Z", "eventSource": "kms.amazonaws.com", "managementEvent": true, "responseElements": nil} {
		if got, ok := first[name]; got != want || !ok {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// written makes a log of n lines, and returns its path and text.
func written(t *testing.T, n int) (path string, text []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	l := openLog(t, Config{Path: path})
	mustAdd(t, l, n)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, text
}

// TestTampering changes, removes, swaps and inserts lines: Verify names the first bad one.
func TestTampering(t *testing.T) {
	_, good := written(t, 6)
	lines := bytes.SplitAfter(good, []byte("\n"))[:6]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		text []byte
		line int64 // of the error; 0: none
	}{
		"as written":      {good, 0},
		"end cut off":     {join(lines[:4]...), 0}, // which only a head kept elsewhere shows
		"begin cut off":   {join(lines[2:]...), 0}, // as a rotated log
		"torn":            {good[:len(good)-3], 0},
		"changed":         {bytes.Replace(good, []byte("Op2"), []byte("Op3"), 1), 4},
		"removed":         {join(lines[0], lines[1], lines[3], lines[4]), 3},
		"swapped":         {join(lines[0], lines[2], lines[1], lines[3]), 2},
		"twice":           {join(lines[0], lines[1], lines[1], lines[2]), 3},
		"not JSON":        {join(lines[0], []byte("hello\n"), lines[1]), 2},
		"cut in a line":   {join(lines[0], lines[1][:40], []byte("\n"), lines[2]), 2},
		"empty line":      {join(lines[0], []byte("\n"), lines[1]), 2},
		"other number":    {bytes.Replace(good, []byte(`"sequence":3`), []byte(`"sequence":9`), 1), 3},
		"first replaced":  {join(lines[1], lines[0]), 2},
		"a line too long": {join(lines[0], bytes.Repeat([]byte("x"), 3*MaxRecordSize), []byte("\n")), 2},
		"first of many":   {bytes.Replace(join(lines[1]), []byte(`"sequence":2`), []byte(`"sequence":1`), 1), 1},
	} {
		s, err := Verify(bytes.NewReader(c.text), Head{}, nil)
		var bad *LineError
		if errors.As(err, &bad); c.line == 0 && err != nil || c.line > 0 && (bad == nil || bad.Line != c.line || !errors.Is(err, ErrBroken)) {
			t.Errorf("%s: %+v, %v, want line %d", name, s, err, c.line)
		}
	}
}

// TestTorn cuts the log at every byte of its last line, and puts zeros in its place, as crashes do.
func TestTorn(t *testing.T) {
	path, good := written(t, 3)
	begin := bytes.LastIndexByte(good[:len(good)-1], '\n') + 1
	zeros := append(bytes.Clone(good[:begin]), make([]byte, 300)...)
	holes := append(append(bytes.Clone(zeros), good[begin:]...), make([]byte, 9)...) // zeros, a line end, zeros
	for i, text := range append([][]byte{zeros, holes, good[:5]}, cuts(good, begin)...) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, Config{Path: path})
		mustAdd(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := Verify(bytes.NewReader(got), Head{}, nil); err != nil || s.TornBytes > 0 {
			t.Fatalf("case %d: %+v, %v", i, s, err)
		}
		if !bytes.Contains(got, []byte("AuditLogTruncated")) {
			t.Fatalf("case %d: that a line was cut off is not recorded", i)
		}
	}
}

// cuts is text cut at every byte after begin.
func cuts(text []byte, begin int) [][]byte {
	var all [][]byte
	for i := begin + 1; i < len(text); i += 7 {
		all = append(all, text[:i])
	}
	return all
}

// TestDamagedEnd: what is not a crash's doing is refused when the log is opened, and stays as it is.
func TestDamagedEnd(t *testing.T) {
	path, good := written(t, 3)
	for name, text := range map[string][]byte{
		"last line":   append(bytes.Clone(good), "hello\n"...),
		"line before": bytes.Replace(good, []byte("Op1"), []byte("Op7"), 1),
		"long":        append(bytes.Clone(good), bytes.Repeat([]byte("x"), 2*tailSize)...),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := Open(Config{Path: path}); !errors.Is(err, ErrBroken) || keysource.Hint(err) == "" {
			t.Errorf("%s: %v, %v", name, l, err)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, text) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// TestFullDisk: a call that finds no room is refused before it begins, calls that have room get theirs, and all is well
// again when there is room.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, disk := openFaulty(t, Config{Path: path})
	mustAdd(t, l, 2)
	before, err := l.Reserve(4096)
	if err != nil {
		t.Fatal(err)
	}
	disk.set(func() { disk.space = syscall.ENOSPC })
	var held []*Reservation
	for {
		r, err := l.Reserve(MaxRecordSize)
		if err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		if held = append(held, r); len(held) > spaceStep/MaxRecordSize {
			t.Fatal("there is more room than was taken")
		}
	}
	if err := before.Append(&Record{EventName: "Reserved"}); err != nil {
		t.Errorf("a call that had room: %v", err)
	}
	for _, r := range held {
		r.Release()
		r.Release()
	}
	mustAdd(t, l, 1)
	disk.set(func() { disk.space, disk.write = nil, syscall.ENOSPC })
	for range 2 {
		if err := add(l, "Lost"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v", err)
		}
	}
	disk.set(func() { disk.write = nil })
	mustAdd(t, l, 1)
	if l.reserved != 0 {
		t.Errorf("%d bytes stay reserved", l.reserved)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, path, 5)
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > spaceStep/2 {
		t.Errorf("a closed log takes %d blocks, %v", st.Blocks, err)
	}
}

// TestFailedWrite: a call under way has its room again after the line of another could not be written, and a log that
// cannot be made durable stays refused.
func TestFailedWrite(t *testing.T) {
	l, disk := openFaulty(t, Config{Path: filepath.Join(t.TempDir(), "audit.log")})
	held, err := l.Reserve(MaxRecordSize)
	if err != nil {
		t.Fatal(err)
	}
	disk.set(func() { disk.write = syscall.ENOSPC })
	if err := add(l, "Lost"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	l.mu.Lock()
	if l.allocated < l.size+l.reserved {
		t.Errorf("%d bytes are taken, %d of them written and %d reserved", l.allocated, l.size, l.reserved)
	}
	l.mu.Unlock()
	held.Release()
	l.mu.Lock()
	l.broken = syscall.EIO // as syncLater does while a line is written
	l.mu.Unlock()
	l.finish(&batch{done: make(chan struct{})}, l.size, syscall.ENOSPC, nil)
	if err := l.Ready(); !errors.Is(err, syscall.EIO) {
		t.Errorf("ready: %v", err)
	}
}

// TestFailedSync: what may be lost is told, and nothing is written after it.
func TestFailedSync(t *testing.T) {
	for _, every := range []time.Duration{-1, time.Millisecond} {
		path := filepath.Join(t.TempDir(), "audit.log")
		l, disk := openFaulty(t, Config{Path: path, SyncEvery: every})
		mustAdd(t, l, 1)
		disk.set(func() { disk.sync = syscall.EIO })
		for range 1000 {
			if l.Ready() != nil {
				break
			}
			_ = add(l, "x")
			time.Sleep(time.Millisecond)
		}
		if err := add(l, "y"); !errors.Is(err, syscall.EIO) || !errors.Is(l.Ready(), syscall.EIO) {
			t.Errorf("sync every %v: %v, %v", every, err, l.Ready())
		}
		disk.set(func() { disk.sync = nil })
	}
}

// TestSyncIsShared: many calls at once share few syncs, and each is durable before it is answered.
func TestSyncIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, disk := openFaulty(t, Config{Path: path, SyncEvery: -1})
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 10 {
				if err := add(l, "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	disk.set(func() {
		if disk.syncs == 0 || disk.syncs > 640 {
			t.Errorf("%d syncs for 640 calls", disk.syncs)
		}
		t.Logf("%d syncs for 640 calls", disk.syncs)
	})
	mustVerify(t, path, 640)
}

// TestRotate: the chain goes on over files, and over a restart at any point of the change.
func TestRotate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	l := openLog(t, Config{Path: path, MaxSize: 3000})
	mustAdd(t, l, 20)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(path + ".*")
	if err != nil || len(names) < 2 {
		t.Fatalf("%q, %v", names, err)
	}
	var after Head
	for _, name := range append(names, path) {
		s, err := verify(t, name, after)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		after = s.Head
	}
	if after.Sequence != 20 {
		t.Errorf("%d of 20 lines are there", after.Sequence)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(names[0], &st); err != nil || st.Blocks*512 > spaceStep/2 {
		t.Errorf("a file that was moved away takes %d blocks, %v", st.Blocks, err)
	}
	for _, text := range []string{"", "torn"} { // a crash between the two names, and one in the first line
		if err := errors.Join(os.Remove(names[len(names)-1]+"x"), os.Remove(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		last, err := verify(t, names[len(names)-1], Head{})
		if err != nil {
			t.Fatal(err)
		}
		l := openLog(t, Config{Path: path})
		mustAdd(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err := verify(t, path, last.Head); err != nil || s.First != last.Head.Sequence+1 {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	if err := os.WriteFile(names[len(names)-1], []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: path}); !errors.Is(err, ErrBroken) {
		t.Errorf("after a file that was changed: %v", err)
	}
}

// TestRotateFails: after a failed sync nothing is written; after any other failure the file keeps the space that was taken
// for calls under way, and the change of files is not tried with each line.
func TestRotateFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, disk := openFaulty(t, Config{Path: path, MaxSize: 1, SyncEvery: time.Hour})
	disk.set(func() { disk.sync = syscall.EIO })
	mustAdd(t, l, 1)
	waitFor(t, func() bool { return l.Ready() != nil })
	if err := add(l, "x"); !errors.Is(err, syscall.EIO) || !errors.Is(l.Ready(), syscall.EIO) {
		t.Errorf("after a failed sync: %v, %v", err, l.Ready())
	}
	disk.set(func() { disk.sync = nil })

	path = filepath.Join(t.TempDir(), "audit.log")
	opened, full := 0, &faultyFile{}
	cfg := Config{Path: path, MaxSize: 1, open: func(path string) (file, error) {
		real, err := openFile(path)
		if opened++; opened == 1 {
			return real, err
		}
		full.set(func() { full.file, full.space = real, syscall.ENOSPC })
		return full, err
	}}
	l = openLog(t, cfg)
	held, err := l.Reserve(MaxRecordSize)
	if err != nil {
		t.Fatal(err)
	}
	mustAdd(t, l, 100)
	l.syncing.Lock() // the writer is not at a change
	if opened != 2 {
		t.Errorf("a change of files was tried %d times", opened-1)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 < l.allocated && l.allocated != math.MaxInt64 {
		t.Errorf("%d bytes are taken from the disk, not %d: %v", st.Blocks*512, l.allocated, err)
	}
	l.syncing.Unlock()
	held.Release()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, path, 100)
}

// waitFor waits until done.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 5000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("it did not happen")
}

// TestManyWriters: lines of calls that come at once form one chain.
func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := openLog(t, Config{Path: path, MaxSize: 100 << 10})
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for range 100 {
				if rand.IntN(10) == 0 {
					if r, err := l.Reserve(100); err == nil {
						r.Release()
					}
				}
				if err := add(l, fmt.Sprint("Op", i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if l.Head().Sequence != 1600 || l.reserved != 0 {
		t.Errorf("%d lines, %d bytes reserved", l.Head().Sequence, l.reserved)
	}
}

// TestLargeRecord: in a record that is too large the large values become their sizes and hashes, and nothing else is lost.
func TestLargeRecord(t *testing.T) {
	newlines, pairs := strings.Repeat("\n", 32400), map[string]string{}
	for i := range 2000 {
		pairs[fmt.Sprint(i)] = strings.Repeat("\x01", 40)
	}
	many := make([]string, MaxRecordSize)
	sum := func(b []byte) string { return fmt.Sprintf("%x", blake3.Sum256(b)) }
	encoded, err := encode(pairs)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		rec  Record
		want []string
	}{
		"a policy": {Record{UserAgent: strings.Repeat("u", 2*MaxRecordSize), RequestParameters: map[string]any{"policy": newlines + "{}", "keyId": "k", "n": 5}},
			[]string{`"policy":{"blake3":"` + sum([]byte(newlines+"{}")) + `","bytes":32402}`, `"keyId":"k"`, `"n":5`}},
		"a context": {Record{RequestParameters: map[string]any{"encryptionContext": pairs, "keyId": "k"}},
			[]string{`"encryptionContext":{"blake3":"` + sum(encoded) + `","bytes":`, `"keyId":"k"`}},
		"a list": {Record{RequestParameters: map[string]any{"operations": many, "keyId": "k"}, ResponseElements: map[string]any{"grantId": "g"}},
			[]string{`"operations":{"blake3":`, `"keyId":"k"`, `"responseElements":{"grantId":"g"}`}},
		"an answer": {Record{ResponseElements: map[string]any{"keyMetadata": struct{ Arn, Description string }{"a", strings.Repeat("\x01", 12000)}}},
			[]string{`"responseElements":{"keyMetadata":{"Arn":"a","Description":{"blake3":"`}},
		"an error": {Record{ErrorMessage: strings.Repeat("\x01", MaxRecordSize), RequestParameters: map[string]any{"keyId": "k"}},
			[]string{`"keyId":"k"`}},
	} {
		c.rec.EventName = "PutKeyPolicy"
		b, err := c.rec.marshal()
		if err != nil || len(b)+linkSize > MaxRecordSize || !json.Valid(b) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		for _, want := range append(c.want, `"omittedForSize":true`, `"eventName":"PutKeyPolicy"`) {
			if !bytes.Contains(b, []byte(want)) {
				t.Errorf("%s has no %s: %.2000s", name, want, b)
			}
		}
	}
}

// FuzzVerify: no text makes Verify panic, and readEnd agrees with it on what it takes.
func FuzzVerify(f *testing.F) {
	line, head := Head{}.appendLine(nil, []byte(`{"a":1}`))
	two, _ := head.appendLine(line, []byte(`{"b":2}`))
	f.Add(two)
	f.Add(two[:len(two)-2])
	f.Add([]byte("{\"sequence\":1\x00\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Verify(bytes.NewReader(text), Head{}, nil)
		head, end, endErr := readEnd(readerFile{bytes.NewReader(text)}, int64(len(text)))
		if err == nil && s.Lines > 0 && (endErr != nil || head != s.Head || end != int64(len(text))-s.TornBytes) {
			t.Errorf("Verify: %+v; readEnd: %+v, %d, %v", s, head, end, endErr)
		}
	})
}

// readerFile is a file that can only be read.
type readerFile struct{ *bytes.Reader }

func (readerFile) WriteAt([]byte, int64) (int, error) { return 0, syscall.EROFS }
func (readerFile) Truncate(int64) error               { return syscall.EROFS }
func (readerFile) Sync() error                        { return nil }
func (readerFile) Allocate(int64, int64) error        { return errors.ErrUnsupported }
func (f readerFile) Size() (int64, error)             { return f.Reader.Size(), nil }
func (readerFile) Close() error                       { return nil }

// BenchmarkAppend is the cost of one call's line, by 16 callers.
func BenchmarkAppend(b *testing.B) {
	l, err := Open(Config{Path: filepath.Join(b.TempDir(), "audit.log")})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := add(l, "Decrypt"); err != nil {
				b.Error(err)
			}
		}
	})
}
