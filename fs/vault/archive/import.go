package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/tree"
)

// ErrArchive is returned for what is no tar archive, or a damaged one. What came before the damage has been taken.
var ErrArchive = errors.New("archive: damaged")

// Import makes below path of root what the archive in r has. A file takes the place of one that is there as a whole, or not at
// all; directories that are there stay, with what else is in them. Names that lead out of the tree, or through a symbolic link,
// are refused. Owners are those of the archive, by number, for root; else the caller's.
func Import(ctx context.Context, root backing.Dir, path string, r io.Reader, o Options) error {
	if o.Ahead <= 0 {
		o.Ahead = 32
	}
	parts, err := tree.Split(path)
	if err != nil {
		return err
	}
	base, err := tree.OpenDir(root, parts...)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer base.Close()
	m := &importer{o: o, base: base, copier: tree.Copier{Progress: o.Progress}, dirs: map[string]*dirTimes{}, seed: maphash.MakeSeed()}
	return m.all(ctx, r)
}

// importer is one Import.
type importer struct {
	o      Options
	base   backing.Dir
	copier tree.Copier
	seed   maphash.Seed
	queues []chan func()
	busy   sync.WaitGroup // what is in the queues

	mu   sync.Mutex
	dirs map[string]*dirTimes // that get their owner, mode and times at the end: each file in them changes these
	left int
	stop error // the first trouble, where nobody is to be told
	open struct {
		path string
		h    *handle
	}
}

// dirTimes is what a directory gets at the end.
type dirTimes struct {
	st     backing.Stat
	xattrs tree.Xattrs
}

// all goes through the archive.
func (m *importer) all(ctx context.Context, r io.Reader) error {
	var wg sync.WaitGroup
	for range m.o.Ahead {
		q := make(chan func(), 4)
		m.queues = append(m.queues, q)
		wg.Go(func() {
			for f := range q {
				f()
				m.busy.Done()
			}
		})
	}
	in := &tail{r: r}
	err := m.entries(ctx, tar.NewReader(in), in)
	if err == nil && !in.ended() {
		err = fmt.Errorf("%w: it has no end: it may have been cut off; what it has is there", ErrArchive)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what fills up a record: who writes into a pipe is not to fail
	}
	for _, q := range m.queues {
		close(q)
	}
	wg.Wait()
	m.leave()
	if e := m.finishDirs(); err == nil {
		err = e
	}
	if err == nil && m.stop != nil {
		err = m.stop
	}
	if err == nil && m.left > 0 {
		err = fmt.Errorf("%w: %d", ErrIncomplete, m.left)
	}
	return err
}

// entries makes what the archive has, one after the other, but small files, which are made by the queues.
func (m *importer) entries(ctx context.Context, tr *tar.Reader, in *tail) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, tr); err != nil { // what the one before has left of its content
			return damaged(err)
		}
		in.zeros = 0
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		if err := m.entry(ctx, h, tr); err != nil {
			var fatal readError
			if errors.As(err, &fatal) {
				return damaged(fatal.error)
			}
			m.trouble(h.Name, err)
		}
		m.mu.Lock()
		stop := m.stop
		m.mu.Unlock()
		if stop != nil {
			return stop
		}
	}
}

// tail is a reader that remembers whether the last that was read is the end of an archive: two blocks of zeros.
type tail struct {
	r     io.Reader
	zeros int
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if envelope.IsZero(p[:n]) {
		t.zeros += n
	} else {
		t.zeros = n - len(bytes.TrimRight(p[:n], "\x00"))
	}
	return n, err
}

func (t *tail) ended() bool { return t.zeros >= 2*blockLen }

// damaged is an error of reading the archive.
func damaged(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return fmt.Errorf("archive: %w", err)
}

// readError is an error of the archive, not of what is made of it.
type readError struct{ error }

func (r readError) Unwrap() error { return r.error }

// trouble tells of what could not be made.
func (m *importer) trouble(path string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.o.Trouble == nil {
		if m.stop == nil {
			m.stop = fmt.Errorf("%s: %w", path, err)
		}
		return
	}
	m.left++
	m.o.Trouble(path, err)
}

// entry makes one object.
func (m *importer) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
	case tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("objects of type %q are not known", h.Typeflag)
	}
	parts, err := tree.Split(h.Name)
	if err != nil {
		return fmt.Errorf("a name that leads out of the tree: %w", err)
	}
	path := strings.Join(parts, "/")
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 { // the greatest is none, for chown(2)
		return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, syscall.EINVAL)
	}
	st, x := attributes(h)
	if h.Typeflag == tar.TypeDir {
		return m.dir(parts, dirTimes{st, x})
	}
	if len(parts) == 0 {
		return fmt.Errorf("the root is a directory: %w", syscall.EISDIR)
	}
	d, err := m.enter(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	name := parts[len(parts)-1]
	switch h.Typeflag {
	case tar.TypeLink:
		defer d.put()
		return m.link(h.Linkname, d.d, name)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return m.file(ctx, h, r, d, name, path, st, x)
	}
	m.submit(path, func() {
		defer d.put()
		err := tree.Put(d.d, name, func(temp string) error {
			if err := special(d.d, temp, h, st); err != nil {
				return err
			}
			return tree.SetAttrs(tree.Named(d.d, temp), &st, x, tree.New)
		})
		if err != nil {
			m.trouble(path, err)
		}
	})
	return nil
}

// special makes what is no file and no directory.
func special(d backing.Dir, name string, h *tar.Header, st backing.Stat) error {
	if h.Typeflag == tar.TypeSymlink {
		return d.Symlink(h.Linkname, name)
	}
	return d.Mknod(name, st.Mode&unix.S_IFMT|0o600, st.Rdev)
}

// attributes is what a header says of its object.
func attributes(h *tar.Header) (backing.Stat, tree.Xattrs) {
	st := backing.Stat{Mode: uint32(h.Mode & 0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), Size: h.Size,
		Mtim: backing.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}}
	switch h.Typeflag {
	case tar.TypeDir:
		st.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		st.Mode |= unix.S_IFLNK
	case tar.TypeFifo:
		st.Mode |= unix.S_IFIFO
	case tar.TypeChar:
		st.Mode |= unix.S_IFCHR
	case tar.TypeBlock:
		st.Mode |= unix.S_IFBLK
	default:
		st.Mode |= unix.S_IFREG
	}
	st.Rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	var x tree.Xattrs
	for name, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(name, paxXattr); ok && tree.Copied(name) {
			if x == nil {
				x = tree.Xattrs{}
			}
			x[name] = []byte(value)
		}
	}
	return st, x
}

// submit has f done, after what came before it under the same path.
func (m *importer) submit(path string, f func()) {
	m.busy.Add(1)
	m.queues[maphash.String(m.seed, path)%uint64(len(m.queues))] <- f
}

// enter returns the directory of parts, and makes what is missing of it. Archives have one directory after the other: the last
// one is kept open.
func (m *importer) enter(parts []string) (*handle, error) {
	path := strings.Join(parts, "/")
	if m.open.h != nil && m.open.path == path {
		return m.open.h.use(), nil
	}
	d, err := m.base.Dup()
	for _, part := range parts {
		if err != nil {
			break
		}
		var next backing.Dir
		next, err = d.OpenDir(part)
		if errors.Is(err, syscall.ENOENT) {
			if err = d.Mkdir(part, 0o700); err == nil || errors.Is(err, syscall.EEXIST) {
				if next, err = d.OpenDir(part); err == nil {
					err = next.Chmod(0o755) // until the archive says otherwise
				}
			}
		}
		d.Close()
		d = next
	}
	if err != nil {
		if d != nil {
			d.Close()
		}
		return nil, err
	}
	m.leave()
	m.open.path, m.open.h = path, &handle{d: d, users: 1, owned: true}
	return m.open.h.use(), nil
}

// leave lets go of the directory that is kept open.
func (m *importer) leave() {
	if m.open.h != nil {
		m.open.h.put()
		m.open.h = nil
	}
}

// dir makes a directory; what it is like otherwise comes at the end.
func (m *importer) dir(parts []string, t dirTimes) error {
	path := strings.Join(parts, "/")
	if len(parts) > 0 {
		m.busy.Wait() // a file of that name may be on its way
		d, err := m.enter(parts[:len(parts)-1])
		if err != nil {
			return err
		}
		defer d.put()
		name := parts[len(parts)-1]
		st, err := d.d.StatAt(name)
		if err == nil && !tree.IsDir(&st) {
			if err = d.d.Unlink(name); err == nil {
				err = syscall.ENOENT
			}
		}
		if errors.Is(err, syscall.ENOENT) {
			err = d.d.Mkdir(name, 0o700)
		}
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.dirs[path] = &t
	m.mu.Unlock()
	return nil
}

// finishDirs gives directories their attributes, the deepest first.
func (m *importer) finishDirs() error {
	paths := make([]string, 0, len(m.dirs))
	for path := range m.dirs {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	slices.Reverse(paths)
	for _, path := range paths {
		t := m.dirs[path]
		parts, _ := tree.Split(path)
		d, err := tree.OpenDir(m.base, parts...)
		if err == nil {
			err = tree.SetAttrs(d, &t.st, t.xattrs, tree.Old)
			d.Close()
		}
		if err != nil {
			m.trouble(path, err)
		}
	}
	return m.stop
}

// link makes a further name of a file that the archive had before.
func (m *importer) link(to string, d backing.Dir, name string) error {
	m.busy.Wait()
	parts, err := tree.Split(to)
	if err != nil {
		return fmt.Errorf("a link that leads out of the tree: %w", err)
	}
	at, err := tree.Find(m.base, strings.Join(parts, "/"))
	if err != nil {
		return fmt.Errorf("link to %s: %w", to, err)
	}
	defer at.Dir.Close()
	if at.Name == "" || tree.IsDir(&at.Stat) {
		return fmt.Errorf("link to the directory %s: %w", to, syscall.EPERM)
	}
	if st, err := d.StatAt(name); err == nil && st.Ino == at.Stat.Ino && st.Dev == at.Stat.Dev { // rename(2) would do nothing
		return nil
	}
	return tree.Put(d, name, func(temp string) error { return at.Dir.Link(at.Name, d, temp) })
}

// file makes a regular file. A small one is read here and made by a queue.
func (m *importer) file(ctx context.Context, h *tar.Header, r io.Reader, d *handle, name, path string, st backing.Stat, x tree.Xattrs) error {
	if h.Size <= small {
		data := make([]byte, h.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			d.put()
			return readError{err}
		}
		m.submit(path, func() {
			defer d.put()
			err := tree.PutFile(d.d, name, func(f backing.File) error {
				err := writePiece(f, data, 0, holes(h))
				if err == nil && holes(h) == holesKept {
					err = f.Truncate(h.Size)
				}
				if err != nil {
					return err
				}
				return tree.SetAttrs(f, &st, x, tree.New)
			})
			if err != nil {
				m.trouble(path, err)
				return
			}
			if m.o.Progress != nil {
				m.o.Progress(h.Size)
			}
		})
		return nil
	}
	defer d.put()
	m.busy.Wait() // one of that name may be on its way
	return tree.PutFile(d.d, name, func(f backing.File) error {
		if err := writeAll(f, h, r, func(n int) error {
			if m.o.Progress != nil {
				m.o.Progress(int64(n))
			}
			return context.Cause(ctx)
		}); err != nil {
			return err
		}
		return tree.SetAttrs(f, &st, x, tree.New)
	})
}

// sparseness says whether zeros become holes.
type sparseness uint8

const (
	holesNone sparseness = iota
	holesKept
)

// holes says whether the archive has holes of a file: the reader makes zeros of them.
func holes(h *tar.Header) sparseness {
	if h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
		return holesKept
	}
	return holesNone
}

// writeAll writes what r has to f. each is called after each piece.
func writeAll(f backing.File, h *tar.Header, r io.Reader, each func(n int) error) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < h.Size; {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), h.Size-off)])
		if err != nil {
			return readError{err}
		}
		if err := writePiece(f, buf[:n], off, holes(h)); err != nil {
			return err
		}
		off += int64(n)
		if err := each(n); err != nil {
			return err
		}
	}
	if holes(h) == holesKept {
		return f.Truncate(h.Size)
	}
	return nil
}

// holeLen is the unit in which zeros become holes.
const holeLen = 4096

// writePiece writes p at off, which is a multiple of holeLen, but for zeros that are holes.
func writePiece(f backing.File, p []byte, off int64, s sparseness) error {
	zeros := func(i int) bool { return s == holesKept && envelope.IsZero(p[i:min(i+holeLen, len(p))]) }
	for i := 0; i < len(p); {
		if zeros(i) {
			i += holeLen
			continue
		}
		end := len(p)
		if s == holesKept {
			for end = i; end < len(p) && !zeros(end); {
				end = min(end+holeLen, len(p))
			}
		}
		if _, err := f.WriteAt(p[i:end], off+int64(i)); err != nil {
			return err
		}
		i = end
	}
	return nil
}
