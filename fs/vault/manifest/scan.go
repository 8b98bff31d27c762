package manifest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/zeebo/blake3"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/walk"
)

// readSize is how much is read and hashed at once.
const readSize = 1 << 20

// Progress is told what was hashed since the last call, by several goroutines; nil: nobody is.
type Progress func(files, bytes int64)

// Vault is a vault that is open with its keys.
type Vault interface {
	signer
	Config() *envelope.Config
}

var _ Vault = (*vault.Vault)(nil)

// Create writes the manifest of the vault in top to w. Files that come, go or change meanwhile are in it in whatever state
// they were met; what cannot be read is an error.
func Create(ctx context.Context, top backing.Dir, v Vault, depth Depth, now time.Time, w io.Writer, progress Progress) (*Manifest, error) {
	s := &scan{ctx: ctx, top: top, depth: depth, progress: progress}
	if err := s.measure(v.Config()); err != nil {
		return nil, err
	}
	entries, err := s.run()
	if err != nil {
		return nil, err
	}
	return write(w, v.Config().Volume, now, depth, entries, v)
}

// scan hashes a stored tree.
type scan struct {
	ctx      context.Context
	top      backing.Dir
	depth    Depth
	geo      envelope.Geometry // of Indexes
	progress Progress
	against  *Manifest // nil: all of each file is hashed

	mu    sync.Mutex
	found []Entry
	times map[string]time.Time // of files that are not as the manifest has them, when they were last changed
	bad   []unreadable
}

// measure finds where index blocks stand, where it matters.
func (s *scan) measure(cfg *envelope.Config) (err error) {
	if s.depth == Indexes {
		s.geo, err = envelope.NewGeometry(cfg.ChunkSize)
	}
	return err
}

// unreadable is what could not be read.
type unreadable struct {
	path string
	err  error
}

// job is a directory, or files of one.
type job struct {
	dir   string
	files []string
}

// batch is how many files one worker takes at once.
const batch = 16

// run returns an entry for everything, in no order.
func (s *scan) run() ([]Entry, error) {
	s.found = append(s.found, Entry{Kind: Dir})
	err := walk.Run(s.ctx, walk.Workers(), []job{{}}, func(q *walk.Queue[job]) (func(job) error, func()) {
		w := &hasher{s: s, q: q, h: blake3.New()}
		return w.look, func() {
			s.mu.Lock()
			s.found = append(s.found, w.found...)
			s.mu.Unlock()
		}
	})
	return s.found, err
}

// hasher is a worker.
type hasher struct {
	s     *scan
	q     *walk.Queue[job]
	h     *blake3.Hasher
	buf   []byte
	found []Entry
}

// covered says whether name in dir, both of stored names, is in a manifest: not what means nothing to the vault, or says
// who uses it.
func (s *scan) covered(dir, name string) bool {
	switch dir {
	case "":
		return name != "lost+found" && (s.depth == Contents || name != envelope.ControlDir)
	case envelope.ControlDir:
		return name == "vault.json" || name == "keys" || name == "journal"
	case envelope.ControlDir + "/keys":
		_, ok := envelope.ParseTableName(name)
		return ok
	}
	return true
}

func (w *hasher) look(j job) error {
	h, err := walk.Open(w.s.top, j.dir)
	if err != nil {
		return w.fail(j.dir, err)
	}
	defer h.Close()
	if j.files != nil {
		for _, name := range j.files {
			if err := context.Cause(w.s.ctx); err != nil {
				return err
			}
			if err := w.file(h, j.dir, name); err != nil {
				return err
			}
		}
		return nil
	}
	var files []string
	var dirs []job
	var failed error
	err = h.ReadDir(func(e backing.Entry) bool {
		if !w.s.covered(j.dir, e.Name) {
			return true
		}
		kind := e.Kind
		if kind == 0 {
			st, err := h.StatAt(e.Name)
			if err != nil {
				failed = w.fail(walk.Join(j.dir, e.Name), err)
				return failed == nil
			}
			kind = st.Mode & syscall.S_IFMT
		}
		if kind == syscall.S_IFDIR {
			dirs = append(dirs, job{dir: walk.Join(j.dir, e.Name)})
			w.found = append(w.found, Entry{Kind: Dir, Path: walk.Join(j.dir, e.Name)})
		} else {
			files = append(files, e.Name)
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return w.fail(j.dir, err)
	}
	w.q.Put(dirs...)
	var jobs []job
	for part := range slices.Chunk(files, batch) {
		jobs = append(jobs, job{j.dir, part})
	}
	w.q.Put(jobs...)
	return nil
}

// fail returns err, but for what has gone meanwhile. A comparison goes on all the same.
func (w *hasher) fail(path string, err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE) {
		return nil
	}
	if w.s.against == nil {
		return &PathError{path, err}
	}
	w.s.mu.Lock()
	w.s.bad = append(w.s.bad, unreadable{path, err})
	w.s.mu.Unlock()
	return nil
}

// PathError says which stored path an error is about.
type PathError struct {
	Path string
	Err  error
}

func (e *PathError) Error() string { return e.Path + ": " + e.Err.Error() }

func (e *PathError) Unwrap() error { return e.Err }

// file hashes what is no directory.
func (w *hasher) file(h backing.Dir, dir, name string) error {
	path := walk.Join(dir, name)
	st, err := h.StatAt(name)
	if err != nil {
		return w.fail(path, err)
	}
	e := Entry{Path: path}
	w.h.Reset()
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		e.Kind = File
		e.Size, err = w.contents(h, name, path)
	case syscall.S_IFLNK:
		var target string
		target, err = h.Readlink(name)
		e.Kind, e.Size = Symlink, int64(len(target))
		w.h.WriteString(target)
	default:
		e.Kind = Other
		w.h.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, st.Mode&syscall.S_IFMT), st.Rdev))
	}
	if err != nil {
		return w.fail(path, err)
	}
	w.h.Sum(e.Hash[:0])
	w.found = append(w.found, e)
	if w.s.progress != nil {
		w.s.progress(1, 0)
	}
	if old := w.s.old(path); old != nil && *old != e {
		at := st.Mtim.Time()
		if w.s.depth == Indexes { // which who copies a file with its time cannot set
			at = changedAt(h, name, &st)
		}
		w.s.mu.Lock()
		w.s.times[path] = at
		w.s.mu.Unlock()
	}
	return nil
}

// changedAt is when what is name in h came to be there as it is. With a directory that is renamed over the place of another comes its
// id, which was not changed.
func changedAt(h backing.Dir, name string, st *backing.Stat) time.Time {
	at := st.Ctim.Time()
	if name != envelope.DirFileName {
		return at
	}
	if dir, err := h.Stat(); err == nil && dir.Ctim.Time().After(at) {
		at = dir.Ctim.Time()
	}
	return at
}

// old is what the manifest that is compared with has at path.
func (s *scan) old(path string) *Entry {
	if s.against == nil {
		return nil
	}
	return s.against.find(path)
}

// contents hashes a regular file, as long as it is at the beginning. A key table is appended to: of one that is compared only
// as much counts as the manifest knew.
func (w *hasher) contents(h backing.Dir, name, path string) (size int64, err error) {
	f, st, err := h.OpenStat(name, syscall.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size = st.Size
	if old := w.s.old(path); old != nil && strings.HasPrefix(path, envelope.ControlDir+"/keys/") {
		size = min(size, old.Size)
	}
	if w.buf == nil {
		w.buf = make([]byte, readSize)
	}
	if w.s.depth == Indexes && size > envelope.BlockSize {
		return size, w.indexes(f, size)
	}
	for off := int64(0); off < size; {
		if err := context.Cause(w.s.ctx); err != nil {
			return 0, err
		}
		n, err := f.ReadAt(w.buf[:min(readSize, size-off)], off)
		if err != nil {
			return 0, err
		}
		if n == 0 { // it was cut meanwhile
			return off, nil
		}
		w.h.Write(w.buf[:n])
		off += int64(n)
		if w.s.progress != nil {
			w.s.progress(0, int64(n))
		}
	}
	return size, nil
}

// indexes hashes the size and the index blocks of a file, each with its number; one that is a hole is as one of zeros, which is not
// hashed.
func (w *hasher) indexes(f backing.File, size int64) error {
	geo := &w.s.geo
	b := w.buf[:envelope.BlockSize]
	w.h.Write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	for g, more := vault.NextGroup(f, geo, 0); more && geo.IndexOffset(g) < size; g, more = vault.NextGroup(f, geo, g+1) {
		if err := context.Cause(w.s.ctx); err != nil {
			return err
		}
		n, err := f.ReadAt(b, geo.IndexOffset(g))
		if err != nil {
			return err
		}
		if !envelope.IsZero(b[:n]) {
			w.h.Write(binary.LittleEndian.AppendUint64(nil, g))
			w.h.Write(b[:n])
		}
		if w.s.progress != nil {
			w.s.progress(0, int64(n))
		}
	}
	return nil
}
