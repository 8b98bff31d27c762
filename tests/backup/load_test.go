package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plant makes a tree in dir with all that a copy must keep: sizes around each form of a stored file, holes, links, long names,
// deep directories.
func plant(t *testing.T, dir string) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	long := strings.Repeat("long name ", 20)
	at := dir
	for depth := range 4 {
		must(os.Mkdir(filepath.Join(at, fmt.Sprintf("%d %s", depth, long)), 0o700))
		at = filepath.Join(at, fmt.Sprintf("%d %s", depth, long))
		for i, size := range []int{0, 1, 3968, 3969, 4096, 70_000, 300_000} {
			must(os.WriteFile(filepath.Join(at, fmt.Sprintf("file %d", i)), bytesOf(size), 0o600))
		}
		must(os.WriteFile(filepath.Join(at, long), bytesOf(5000), 0o400))
		must(os.Symlink("../somewhere/"+long, filepath.Join(at, "link")))
		must(os.Link(filepath.Join(at, "file 5"), filepath.Join(at, "hard link")))
	}
	must(os.Mkdir(filepath.Join(at, "empty"), 0o755))
	f, err := os.Create(filepath.Join(at, "holes"))
	must(err)
	_, err = f.WriteAt(bytesOf(4096), 3<<20)
	must(err)
	must(f.Truncate(5 << 20))
	must(f.Close())
}

// worker changes the files of one directory, one system call after the other, each durable when it returns. What they make of it
// follows from its number alone.
type worker struct {
	dir   string
	seed  uint64
	mu    sync.Mutex
	times []span // of the steps
}

// span is from when to when something went on.
type span struct{ from, to time.Time }

// step is one change.
type step struct {
	kind     byte // 'c'reate, 'w'rite within a page, 't'runcate, 'r'ename, 'u'nlink
	name, to string
	at       int
	data     []byte
}

// next chooses a change of what is in files.
func next(r *rand.Rand, i int64, files map[string][]byte) step {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	fresh := fmt.Sprintf("%d", i)
	if r.IntN(4) == 0 {
		fresh = strings.Repeat("long-", 36) + fresh
	}
	if len(names) == 0 {
		return step{kind: 'c', name: fresh}
	}
	name := names[r.IntN(len(names))]
	switch n := r.IntN(20); {
	case n < 3 && len(names) < 30:
		return step{kind: 'c', name: fresh}
	case n < 15:
		page, from := r.IntN(12), r.IntN(4000)
		data := bytes.Repeat([]byte(fmt.Sprintf("%d %d\n", i, page)), 4096/4)
		return step{kind: 'w', name: name, at: page*4096 + from, data: data[:1+r.IntN(4096-from)]}
	case n < 17:
		return step{kind: 't', name: name, at: r.IntN(len(files[name]) + 2)}
	case n < 19:
		if r.IntN(2) == 0 {
			return step{kind: 'r', name: name, to: names[r.IntN(len(names))]}
		}
		return step{kind: 'r', name: name, to: fresh}
	}
	return step{kind: 'u', name: name}
}

// play does the step to a model.
func (s step) play(files map[string][]byte) {
	b := files[s.name]
	switch s.kind {
	case 'c':
		files[s.name] = nil
	case 'w':
		b = append(slices.Clone(b), make([]byte, max(0, s.at+len(s.data)-len(b)))...)
		copy(b[s.at:], s.data)
		files[s.name] = b
	case 't':
		files[s.name] = append(slices.Clone(b), make([]byte, max(0, s.at-len(b)))...)[:s.at]
	case 'r':
		delete(files, s.name)
		files[s.to] = b
	case 'u':
		delete(files, s.name)
	}
}

// do does the step to a directory.
func (s step) do(dir string) error {
	path := filepath.Join(dir, s.name)
	switch s.kind {
	case 'c':
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	case 'w':
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(s.data, int64(s.at)); err != nil {
			return err
		}
		return f.Sync()
	case 't':
		return os.Truncate(path, int64(s.at))
	case 'r':
		return os.Rename(path, filepath.Join(dir, s.to))
	}
	return os.Remove(path)
}

// random is what the steps follow from.
func (w *worker) random() *rand.Rand { return rand.New(rand.NewPCG(w.seed, 7)) }

// work changes files until stop.
func (w *worker) work(stop *atomic.Bool) error {
	r, files := w.random(), map[string][]byte{}
	for i := int64(0); !stop.Load(); i++ {
		s, from := next(r, i, files), time.Now()
		if err := s.do(w.dir); err != nil {
			return fmt.Errorf("step %d, %c: %w", i, s.kind, err)
		}
		s.play(files)
		w.mu.Lock()
		w.times = append(w.times, span{from, time.Now()})
		w.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// when finds the times at which the directory may have been as got describes it.
func (w *worker) when(got map[string]string) (spans []span) {
	w.mu.Lock()
	times := slices.Clone(w.times)
	w.mu.Unlock()
	r, files, texts := w.random(), map[string][]byte{}, map[string]string{".": "directory"}
	play := func(i int) {
		s := next(r, int64(i), files)
		s.play(files)
		s.tell(files, texts)
	}
	end := time.Now().Add(time.Hour)
	since := time.Time{} // the beginning of the last step
	for i, step := range times {
		if maps.Equal(texts, got) {
			spans = append(spans, span{since, step.to})
		}
		play(i)
		since = step.from
	}
	if maps.Equal(texts, got) {
		spans = append(spans, span{since, end})
	}
	play(len(times)) // the one under way
	if maps.Equal(texts, got) {
		spans = append(spans, span{since, end})
	}
	return spans
}

// tell brings texts, what describe says of each file, up to the step that files has had.
func (s step) tell(files map[string][]byte, texts map[string]string) {
	for _, name := range []string{s.name, s.to} {
		if b, ok := files[name]; ok {
			texts[name] = described(b)
		} else {
			delete(texts, name)
		}
	}
}

// described is what describe says of a file with the content b.
func described(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%d bytes %s", len(b), hex.EncodeToString(sum[:8]))
}

// load is workers on a mount.
type load struct {
	workers []*worker
	stop    atomic.Bool
	wg      sync.WaitGroup
}

// startLoad starts workers in dir/busy0, dir/busy1, ...
func startLoad(t *testing.T, dir string, workers int) *load {
	t.Helper()
	l := &load{}
	for i := range workers {
		w := &worker{dir: filepath.Join(dir, fmt.Sprintf("busy%d", i)), seed: uint64(i)}
		if err := os.Mkdir(w.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		l.workers = append(l.workers, w)
		l.wg.Go(func() {
			if err := w.work(&l.stop); err != nil {
				t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// end ends the workers and waits for them.
func (l *load) end() {
	l.stop.Store(true)
	l.wg.Wait()
}

// steps is how many steps the workers have done.
func (l *load) steps() (n int) {
	for _, w := range l.workers {
		w.mu.Lock()
		n += len(w.times)
		w.mu.Unlock()
	}
	return n
}

// moment holds that the workers' directories, in what a copy contains, are as all of them were at one moment of the span.
func (l *load) moment(t *testing.T, what string, all map[string]string, during span) {
	t.Helper()
	possible := []span{during}
	for _, w := range l.workers {
		spans := w.when(below(all, filepath.Base(w.dir)))
		if possible = common(possible, spans); len(possible) == 0 {
			t.Errorf("%s: %s is as it was at %d times, none of them at the moment of the others and of the copy", what, filepath.Base(w.dir), len(spans))
			return
		}
	}
}

// below is what all has of a directory.
func below(all map[string]string, dir string) map[string]string {
	part := map[string]string{}
	for path, text := range all {
		if rel, ok := strings.CutPrefix(path, dir+"/"); ok {
			part[rel] = text
		} else if path == dir {
			part["."] = text
		}
	}
	return part
}

// common are the times that are in both.
func common(a, b []span) (both []span) {
	for _, x := range a {
		for _, y := range b {
			z := x
			if y.from.After(z.from) {
				z.from = y.from
			}
			if y.to.Before(z.to) {
				z.to = y.to
			}
			if !z.from.After(z.to) {
				both = append(both, z)
			}
		}
	}
	return both
}

// torn looks at the workers' directories in a copy that was taken while they worked: what can be read must be what was written at
// some time, page by page; errors are allowed, those of damaged files, and counted.
func (l *load) torn(t *testing.T, what, dir string) (files, failed int) {
	t.Helper()
	for _, w := range l.workers {
		busy := filepath.Join(dir, filepath.Base(w.dir))
		names, err := os.ReadDir(busy)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, e := range names {
			files++
			b, err := os.ReadFile(filepath.Join(busy, e.Name()))
			if errors.Is(err, unix.EIO) {
				failed++
			} else if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if i := bytes.IndexFunc(b, func(r rune) bool { return !strings.ContainsRune("0123456789 \n\x00", r) }); i >= 0 {
				t.Errorf("%s: %s has at %d what nobody wrote", what, e.Name(), i)
			}
		}
	}
	return files, failed
}
