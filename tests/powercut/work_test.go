package powercut_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// state is what a name stood for from position since on, as far as the program that worked knows; nil data is no file.
type state struct {
	since int // position in the disk's log when the operation began that led to it
	data  []byte
}

// promise is that from position at on the state of a name is the numbered one, or a later one.
type promise struct {
	at     int
	number int
}

// name is all that is known of one name.
type name struct {
	states   []state
	promises []promise
}

// worker works in a directory, and notes what it was told is safe.
type worker struct {
	dir    string
	now    func() int
	random *rand.Rand
	names  map[string]*name
}

func newWorker(dir string, now func() int, seed uint64) *worker {
	return &worker{dir: dir, now: now, random: rand.New(rand.NewPCG(seed, 1)), names: map[string]*name{}}
}

func (w *worker) of(path string) *name {
	n := w.names[path]
	if n == nil {
		n = &name{states: []state{{}}}
		w.names[path] = n
	}
	return n
}

// current is the newest contents.
func (w *worker) current(path string) []byte { return w.of(path).states[len(w.of(path).states)-1].data }

// becomes notes that path is about to get data.
func (w *worker) becomes(path string, data []byte) {
	n := w.of(path)
	n.states = append(n.states, state{w.now(), data})
}

// safe notes that the newest state of path is durable.
func (w *worker) safe(path string) {
	n := w.of(path)
	n.promises = append(n.promises, promise{w.now(), len(n.states) - 1})
}

func (w *worker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.random.Uint32())
	}
	return b
}

// step does one thing that programs do, most of them to be safe afterwards.
func (w *worker) step(i int) error {
	switch w.random.IntN(15) {
	case 0, 1:
		return w.logLine()
	case 2, 3:
		return w.overwrite()
	case 4:
		return w.replace()
	case 5:
		return w.makeDir(i)
	case 6:
		return w.small(i)
	case 7:
		return w.truncate()
	case 8:
		return w.link(i)
	case 9:
		return w.exchange()
	case 10:
		return w.attribute()
	case 11:
		return w.punch()
	case 12:
		return w.move(i)
	case 13:
		return w.moveOut(i)
	default:
		return w.remove()
	}
}

// open opens path and does something with it, then syncs it now and then, and says whether it did.
func (w *worker) change(path string, flags int, data []byte, do func(f *os.File) error, often int) error {
	f, err := os.OpenFile(filepath.Join(w.dir, path), flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	w.becomes(path, data)
	if err := do(f); err != nil {
		return err
	}
	if w.random.IntN(100) >= often {
		return nil
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return w.syncDir(filepath.Dir(path), path)
}

// syncDir makes the names in dir durable; path is one that is then safe.
func (w *worker) syncDir(dir string, paths ...string) error {
	d, err := os.Open(filepath.Join(w.dir, dir))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return err
	}
	for _, p := range paths {
		w.safe(p)
	}
	return nil
}

// logLine appends to a log.
func (w *worker) logLine() error {
	path := fmt.Sprint("log", w.random.IntN(3))
	line := w.bytes(1 + w.random.IntN(300))
	was := w.current(path)
	return w.change(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, slices.Concat(was, line), func(f *os.File) error {
		_, err := f.Write(line)
		return err
	}, 60)
}

// overwrite writes into the middle of a larger file, as a database does.
func (w *worker) overwrite() error {
	path := fmt.Sprint("database", w.random.IntN(2))
	was := w.current(path)
	const most = 700 << 10
	off, b := w.random.IntN(most), w.bytes(1+w.random.IntN(20<<10))
	if len(was) > 0 && w.random.IntN(4) > 0 {
		off = w.random.IntN(len(was))
	}
	data := make([]byte, max(len(was), off+len(b)))
	copy(data, was)
	copy(data[off:], b)
	return w.change(path, os.O_CREATE|os.O_WRONLY, data, func(f *os.File) error {
		_, err := f.WriteAt(b, int64(off))
		return err
	}, 50)
}

// replace writes a file aside and renames it over another.
func (w *worker) replace() error {
	path := fmt.Sprint("config", w.random.IntN(3))
	if w.random.IntN(3) == 0 {
		path = fmt.Sprintf("%0200d", w.random.IntN(2)) // a long name
	}
	aside := path + ".new"
	data := w.bytes(w.random.IntN(9000))
	f, err := os.Create(filepath.Join(w.dir, aside))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	w.becomes(path, data)
	if err := os.Rename(filepath.Join(w.dir, aside), filepath.Join(w.dir, path)); err != nil {
		return err
	}
	return w.syncDir(".", path)
}

// makeDir makes a directory with a file in it.
func (w *worker) makeDir(i int) error {
	dir := fmt.Sprint("dir", i)
	if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil {
		return err
	}
	path := dir + "/file"
	data := w.bytes(w.random.IntN(5000))
	f, err := os.Create(filepath.Join(w.dir, path))
	if err != nil {
		return err
	}
	w.becomes(path, data)
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := w.syncDir(dir); err != nil {
		return err
	}
	return w.syncDir(".", path)
}

// small writes a new small file.
func (w *worker) small(i int) error {
	path := fmt.Sprint("small", i)
	data := w.bytes(w.random.IntN(4500))
	return w.change(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, data, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	}, 70)
}

// truncate cuts a file, or makes it longer.
func (w *worker) truncate() error {
	path := fmt.Sprint([]string{"log", "database"}[w.random.IntN(2)], w.random.IntN(2))
	was := w.current(path)
	if was == nil {
		return nil
	}
	n := w.random.IntN(len(was) + 5000)
	data := make([]byte, n)
	copy(data, was)
	return w.change(path, os.O_WRONLY, data, func(f *os.File) error { return f.Truncate(int64(n)) }, 60)
}

// remove removes a small file.
func (w *worker) remove() error {
	path := w.any("small")
	if path == "" {
		return nil
	}
	w.becomes(path, nil)
	if err := os.Remove(filepath.Join(w.dir, path)); err != nil {
		return err
	}
	return w.syncDir(".", path)
}

// link gives a small file another name.
func (w *worker) link(i int) error {
	path := w.any("small")
	if path == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(w.dir, path))
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	to := fmt.Sprint("link", i)
	w.becomes(to, w.current(path))
	if err := os.Link(filepath.Join(w.dir, path), filepath.Join(w.dir, to)); err != nil {
		return err
	}
	return w.syncDir(".", path, to)
}

// any returns a file whose name begins so, "" where there is none.
func (w *worker) any(prefix string) string {
	var all []string
	for path, n := range w.names {
		if strings.HasPrefix(path, prefix) && !strings.Contains(path, attrMark) && n.states[len(n.states)-1].data != nil {
			all = append(all, path)
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return all[w.random.IntN(len(all))]
}

// exchange has two files change places.
func (w *worker) exchange() error {
	a, b := w.any("config"), w.any("config")
	if a == b {
		return nil
	}
	x, y := w.current(a), w.current(b)
	w.becomes(a, y)
	w.becomes(b, x)
	if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(w.dir, a), unix.AT_FDCWD, filepath.Join(w.dir, b), unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return w.syncDir(".", a, b)
}

// attrMark stands between a file and its attribute, which has states as a name does.
const attrMark = "@user."

// attribute sets or removes an extended attribute.
func (w *worker) attribute() error {
	path := w.any([]string{"log", "database"}[w.random.IntN(2)])
	if path == "" {
		return nil
	}
	at := path + attrMark + "test"
	value := w.bytes(1 + w.random.IntN(400))
	if w.current(at) != nil && w.random.IntN(3) == 0 {
		value = nil
	}
	return w.change(path, os.O_WRONLY, w.current(path), func(f *os.File) (err error) {
		w.becomes(at, value)
		if value == nil {
			err = unix.Fremovexattr(int(f.Fd()), "user.test")
		} else {
			err = unix.Fsetxattr(int(f.Fd()), "user.test", value, 0)
		}
		if err == nil && w.random.IntN(2) == 0 {
			if err = f.Sync(); err == nil && len(w.of(path).promises) > 0 {
				w.safe(at)
			}
		}
		return err
	}, 50)
}

// punch makes a hole in a file.
func (w *worker) punch() error {
	path := w.any("database")
	if path == "" || len(w.current(path)) == 0 {
		return nil
	}
	data := slices.Clone(w.current(path))
	off := w.random.IntN(len(data))
	n := 1 + w.random.IntN(30<<10)
	clear(data[off:min(off+n, len(data))])
	return w.change(path, os.O_WRONLY, data, func(f *os.File) error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
	}, 60)
}

// move gives a directory another name.
func (w *worker) move(i int) error {
	path := w.any("dir")
	if path == "" {
		return nil
	}
	dir, to := filepath.Dir(path), fmt.Sprint("dir", i, "moved")
	data := w.current(path)
	w.becomes(path, nil)
	w.becomes(to+"/file", data)
	if err := os.Rename(filepath.Join(w.dir, dir), filepath.Join(w.dir, to)); err != nil {
		return err
	}
	return w.syncDir(".", path, to+"/file")
}

// moveOut moves a file into another directory, and removes the one that it was in.
func (w *worker) moveOut(i int) error {
	path := w.any("dir")
	if path == "" {
		return nil
	}
	dir, to := filepath.Dir(path), fmt.Sprint("out", i)
	data := w.current(path)
	w.becomes(path, nil)
	w.becomes(to, data)
	if err := os.Rename(filepath.Join(w.dir, path), filepath.Join(w.dir, to)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(w.dir, dir)); err != nil {
		return err
	}
	return w.syncDir(".", path, to)
}

// read reads what has states: a file or an attribute.
func read(path string) ([]byte, error) {
	path, attr, ok := strings.Cut(path, attrMark)
	if !ok {
		return os.ReadFile(path)
	}
	value := make([]byte, 1000)
	n, err := unix.Getxattr(path, "user."+attr, value)
	if errors.Is(err, unix.ENODATA) {
		err = fs.ErrNotExist
	}
	return value[:max(n, 0)], err
}

// check compares what is found in dir with what was promised at position at. It returns what is wrong.
func (w *worker) check(dir string, at int) []string {
	var wrong []string
	for path, n := range w.names {
		first := 0
		for _, p := range n.promises {
			if p.at <= at {
				first = p.number
			}
		}
		var allowed [][]byte
		absent := false
		for _, s := range n.states[first:] {
			if s.since > at {
				break
			}
			if s.data == nil {
				absent = true
			} else {
				allowed = append(allowed, s.data)
			}
		}
		got, err := read(filepath.Join(dir, path))
		switch {
		case errors.Is(err, fs.ErrNotExist) && absent:
		case err == nil && strings.Contains(path, attrMark):
			if !slices.ContainsFunc(allowed, func(a []byte) bool { return bytes.Equal(a, got) }) {
				wrong = append(wrong, fmt.Sprintf("%.40s: none of the values that it had", path))
			}
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("%.20s: %v (%s)", path, err, w.told(path, at)))
		default:
			if why := explain(got, allowed, absent); why != "" {
				wrong = append(wrong, fmt.Sprintf("%.20s: %s", path, why))
			}
		}
	}
	return wrong
}

// explain says what of got is in none of the states: each chunk, padded with zeros, must be that of one of them, and the size
// no smaller than the smallest. fresh: the file may have been made since, with nothing in it yet.
func explain(got []byte, allowed [][]byte, fresh bool) string {
	if len(allowed) == 0 {
		return "it is there, and never was"
	}
	least, most := len(allowed[0]), len(allowed[0])
	for _, a := range allowed {
		least, most = min(least, len(a)), max(most, len(a))
	}
	if fresh {
		least = 0
	}
	if len(got) < least || len(got) > most {
		return fmt.Sprintf("%d bytes, of %d to %d", len(got), least, most)
	}
	for off := 0; off < len(got); off += blockSize {
		chunk := got[off:min(off+blockSize, len(got))]
		ok := fresh && allZero(chunk)
		for _, a := range allowed {
			ok = ok || same(chunk, a[min(off, len(a)):])
		}
		if !ok {
			return fmt.Sprintf("the chunk at %d is neither old nor new", off)
		}
	}
	return ""
}

// same tells that chunk is the beginning of a, or a cut off or followed by zeros: size and contents reach the disk apart.
func same(chunk, a []byte) bool {
	a = a[:min(len(a), len(chunk))]
	return bytes.Equal(chunk[:len(a)], a) && allZero(chunk[len(a):])
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// told says what was promised of path up to position at.
func (w *worker) told(path string, at int) string {
	n := w.names[path]
	s := "states"
	for i, x := range n.states {
		s += fmt.Sprintf(" %d@%d:%d", i, x.since, len(x.data))
	}
	s += " promises"
	for _, p := range n.promises {
		s += fmt.Sprintf(" %d@%d", p.number, p.at)
	}
	return s
}
