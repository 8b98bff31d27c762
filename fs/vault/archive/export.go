// Package archive writes directory trees as tar archives and makes trees of them: PAX (POSIX.1-2001), with extended attributes
// (SCHILY.xattr), hard links, devices, times of nanoseconds, and holes (GNU sparse format 1.0), as GNU tar and bsdtar know them.
//
// Start with [Export] and [Import]. The trees are backing.Dir, as that of a vault by fs/vault/view. Files of any size pass through
// in pieces; small ones are read, and written, many at once.
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/tree"
)

// ErrIncomplete is returned for what was archived, or taken from an archive, but for some objects, each of which was told of.
var ErrIncomplete = errors.New("archive: some files are missing")

// Options of Export and Import. The zero value is everything, and nobody is told anything.
type Options struct {
	// Progress is told of bytes of content; nil: nobody is.
	Progress func(bytes int64)
	// Trouble is told of what is left out, and why: path is from the root of the tree. nil: the first such ends the call.
	Trouble func(path string, err error)
	// Ahead is how many small files are under way at once; 0: 32.
	Ahead int
}

// small is the size of files that are held in memory while they are under way.
const small = 256 << 10

// Export writes what is at path below root, and all below it, to w. Names in the archive are from root. What disappears
// meanwhile is left out; what cannot be read is told of, and left out, and the call then ends with ErrIncomplete. A large file
// that fails in the middle, because it is damaged or was cut off meanwhile, is told of, and zeros take the place of the rest, as
// with tar(1).
func Export(ctx context.Context, root backing.Dir, path string, w io.Writer, o Options) error {
	if o.Ahead <= 0 {
		o.Ahead = 32
	}
	ctx, cancel := context.WithCancel(ctx)
	at, err := tree.Find(root, path)
	if err != nil {
		cancel()
		return err
	}
	defer at.Dir.Close()
	e := &exporter{o: o, tw: tar.NewWriter(w), w: w, links: map[[2]uint64]string{}, items: make(chan *item, o.Ahead), work: make(chan *item, o.Ahead)}
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		if e.last != nil {
			e.last.dir.put()
		}
		for it := range e.items { // what an error left there holds directories open
			it.dir.put()
		}
	}()
	for range o.Ahead {
		wg.Go(func() {
			for it := range e.work {
				it.load()
				close(it.ready)
			}
		})
	}
	wg.Go(func() {
		defer close(e.items)
		defer close(e.work)
		parts, _ := tree.Split(path)
		e.walk(ctx, &handle{d: at.Dir, users: 1}, at.Name, strings.Join(parts, "/"))
	})
	return e.write(ctx)
}

// handle is a directory that is closed when nobody needs it any more; that of the beginning is the caller's.
type handle struct {
	mu    sync.Mutex
	d     backing.Dir
	users int
	owned bool
}

func (h *handle) use() *handle {
	h.mu.Lock()
	h.users++
	h.mu.Unlock()
	return h
}

func (h *handle) put() {
	h.mu.Lock()
	h.users--
	last := h.users == 0
	h.mu.Unlock()
	if last && h.owned {
		h.d.Close()
	}
}

// item is an object of the archive. What its worker finds is there when ready is closed.
type item struct {
	dir   *handle
	name  string // "" for the root of the tree
	path  string // from the root of the tree, "" for the root
	ready chan struct{}

	st     backing.Stat
	target string
	xattrs tree.Xattrs
	data   []byte // of a small file
	whole  bool   // data is all
	err    error
}

// exporter is one Export.
type exporter struct {
	o     Options
	tw    *tar.Writer
	w     io.Writer
	links map[[2]uint64]string // the first path of files with several names
	items chan *item           // in the order of the archive
	work  chan *item
	left  int   // how many objects are missing
	last  *item // that was taken and not written when all ended
	begun bool  // the archive has the header of the last large file
}

// send has an item loaded, and written in its turn; false where all has ended.
func (e *exporter) send(ctx context.Context, it *item) bool {
	it.ready = make(chan struct{})
	select {
	case e.items <- it:
	case <-ctx.Done():
		it.dir.put()
		return false
	}
	select {
	case e.work <- it:
		return true
	case <-ctx.Done(): // it is put with the items
		return false
	}
}

// walk sends name in h and all below it.
func (e *exporter) walk(ctx context.Context, h *handle, name, path string) bool {
	it := &item{dir: h.use(), name: name, path: path}
	if name == "" {
		it.st, it.err = h.d.Stat()
	} else {
		it.st, it.err = h.d.StatAt(name)
	}
	enter := tree.IsDir(&it.st)
	if !e.send(ctx, it) {
		return false
	}
	if !enter {
		return true
	}
	d, err := tree.At{Dir: h.d, Name: name}.OpenDir()
	if err != nil {
		return e.send(ctx, &item{dir: h.use(), name: name, path: path, err: err})
	}
	sub := &handle{d: d, users: 1, owned: true}
	defer sub.put()
	names, err := tree.List(d)
	if err != nil && !e.send(ctx, &item{dir: h.use(), name: name, path: path, err: err}) { // with what else is there
		return false
	}
	for _, name := range names {
		if !e.walk(ctx, sub, name, tree.Join(path, name)) {
			return false
		}
	}
	return true
}

// load reads what the archive needs of an item, and the content of a small file. it.st is there.
func (it *item) load() {
	if it.err != nil {
		return
	}
	d := it.dir.d
	switch kind := it.st.Mode & unix.S_IFMT; {
	case it.name == "":
		it.xattrs, it.err = tree.ReadXattrs(d)
		return
	case kind == unix.S_IFREG:
		it.loadFile()
		return
	case kind == unix.S_IFLNK:
		if it.target, it.err = d.Readlink(it.name); it.err != nil {
			return
		}
	}
	it.xattrs, it.err = tree.ReadXattrs(tree.Named(d, it.name))
}

// loadFile reads the attributes of a file, and all of a small one.
func (it *item) loadFile() {
	f, st, err := it.dir.d.OpenStat(it.name, unix.O_RDONLY, 0)
	if err != nil {
		it.err = err
		return
	}
	defer f.Close()
	it.st = st
	if it.xattrs, it.err = tree.ReadXattrs(f); it.err != nil || st.Size > small {
		return
	}
	it.data = make([]byte, st.Size)
	n, err := f.ReadAt(it.data, 0)
	it.data, it.st.Size, it.whole, it.err = it.data[:n], int64(n), true, err
}

// write writes the items in their order.
func (e *exporter) write(ctx context.Context) error {
	for it := range e.items {
		var err error
		select {
		case <-it.ready:
			err = it.err
			if err == nil {
				err = e.item(ctx, it)
			}
			it.dir.put()
		case <-ctx.Done():
			e.last = it // which may be being loaded
		}
		if context.Cause(ctx) != nil {
			return context.Cause(ctx)
		}
		var left leftOut
		switch {
		case err == nil, errors.Is(err, syscall.ENOENT): // deleted meanwhile
		case errors.As(err, &left), err == it.err:
			if e.o.Trouble == nil {
				return fmt.Errorf("%s: %w", it.path, err)
			}
			e.left++
			e.o.Trouble(it.path, err)
		default:
			return fmt.Errorf("%s: %w", it.path, err)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := e.tw.Close(); err != nil {
		return err
	}
	if e.left > 0 {
		return fmt.Errorf("%w: %d", ErrIncomplete, e.left)
	}
	return nil
}

// leftOut is an error before anything of an object was written.
type leftOut struct{ error }

func (l leftOut) Unwrap() error { return l.error }

// item writes one object.
func (e *exporter) item(ctx context.Context, it *item) error {
	if it.path == "" { // the root has a header of its own: its mode and times
		it.path = "."
	}
	if it.st.Mode&unix.S_IFMT == unix.S_IFSOCK { // as tar(1): a socket is nothing without its listener
		return nil
	}
	h, err := header(it)
	if err != nil {
		return leftOut{err}
	}
	at := [2]uint64{it.st.Dev, it.st.Ino}
	if it.st.Nlink > 1 && !tree.IsDir(&it.st) {
		if first, ok := e.links[at]; ok {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
			return e.tw.WriteHeader(h)
		}
		e.links[at] = it.path
	}
	switch {
	case !tree.IsFile(&it.st):
		return e.tw.WriteHeader(h)
	case it.whole:
		if err := e.tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := e.tw.Write(it.data)
		e.progress(len(it.data))
		return err
	}
	err = e.large(ctx, it, h)
	if e.links[at] == it.path && !e.begun { // its other names are no links to what is not there
		delete(e.links, at)
	}
	return err
}

func (e *exporter) progress(n int) {
	if e.o.Progress != nil && n > 0 {
		e.o.Progress(int64(n))
	}
}

// header is the header of an object, without its holes.
func header(it *item) (*tar.Header, error) {
	st := &it.st
	h := &tar.Header{Name: it.path, Mode: int64(st.Mode & 0o7777), Uid: int(st.UID), Gid: int(st.GID),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Format: tar.FormatPAX}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, it.target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, fmt.Errorf("mode %#o: %w", st.Mode, syscall.EINVAL)
	}
	for name, value := range it.xattrs {
		if strings.ContainsAny(name, "=\x00") { // which the format cannot hold
			return nil, fmt.Errorf("an extended attribute with %q in its name: %w", "=", syscall.EINVAL)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = string(value)
	}
	return h, nil
}

// paxXattr begins the names of PAX records with extended attributes.
const paxXattr = "SCHILY.xattr."

// large writes a file in pieces.
func (e *exporter) large(ctx context.Context, it *item, h *tar.Header) error {
	e.begun = false
	f, st, err := it.dir.d.OpenStat(it.name, unix.O_RDONLY, 0)
	if err != nil {
		return leftOut{err}
	}
	defer f.Close()
	if it.st.Ino != st.Ino || it.st.Dev != st.Dev { // another file has the name now: all that is told of it is its own
		delete(e.links, [2]uint64{it.st.Dev, it.st.Ino})
		it.st = st
		if it.xattrs, err = tree.ReadXattrs(f); err == nil {
			h, err = header(it)
		}
		if err != nil {
			return leftOut{err}
		}
	}
	h.Size = st.Size
	extents, err := tree.Extents(f, st.Size)
	if err != nil {
		return leftOut{err}
	}
	e.begun = true
	out := &content{w: e.tw, left: st.Size}
	if len(extents) == 1 && extents[0].Len == st.Size {
		err = e.tw.WriteHeader(h)
	} else if err = e.tw.Flush(); err == nil { // of the padding of the one before
		out.w = e.w
		out.left, err = writeSparse(e.w, h, extents)
		out.pad = -out.left & (blockLen - 1)
	}
	if err != nil {
		return err
	}
	c := tree.Copier{Progress: e.o.Progress}
	var failed error
	for _, x := range extents {
		if failed = c.Stream(ctx, out, f, x); failed != nil {
			break
		}
	}
	if out.err != nil || context.Cause(ctx) != nil {
		return failed
	}
	read := h.Size - out.left
	if err := out.fill(); err != nil || failed == nil {
		return err
	}
	return leftOut{fmt.Errorf("%w; what follows the first %d bytes of data is zeros in the archive", failed, read)}
}

// content is the place of a file's content in the archive.
type content struct {
	w    io.Writer
	left int64 // bytes still to come
	pad  int64 // and zeros after them
	err  error
}

func (c *content) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.left -= int64(n)
	c.err = err
	return n, err
}

// fill writes zeros to the end.
func (c *content) fill() error {
	zeros := make([]byte, 64<<10)
	for n := c.left + c.pad; n > 0 && c.err == nil; n -= min(n, int64(len(zeros))) {
		_, c.err = c.w.Write(zeros[:min(n, int64(len(zeros)))])
	}
	return c.err
}
