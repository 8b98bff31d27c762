package reverse

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// ErrChanged: the file was cut off or written to while it was read, so that what was read of it before does not go with what
// would be read now.
var ErrChanged = errors.New("reverse: the file was changed while it was read")

// settledFor is how long a file must not have been changed before its times are trusted to show the next change; mappedFor where
// that is written through a mapping: it changes the times once until the page is written back, which takes up to some 35 s
// (vm.dirty_expire_centisecs).
const (
	settledFor = 2 * time.Second
	mappedFor  = time.Minute
)

// version tells what a file holds from what it held before.
type version struct {
	size         int64
	mtime, ctime backing.Timespec
}

func versionOf(st *backing.Stat) version { return version{st.Size, st.Mtim, st.Ctim} }

// Handle is an open file of the view, as it was when it was opened.
type Handle struct {
	v     *View
	n     *Node
	f     backing.File // nil with fixed
	fixed []byte       // what is computed
	raw   bool         // f is shown as it is

	id      envelope.FileID
	version version
	stored  int64 // bytes
	flags   envelope.Flags
	sparse  bool

	unforeseen bool // see Unforeseen

	turn chan struct{} // held while the key is asked for
	key  dataKey       // guarded by turn
	made bool          // key is there; guarded by turn

	mu     sync.Mutex // guards what follows
	users  int
	closed bool
	warned bool
	inline []byte
	sealed map[uint64][envelope.TagSize]byte // of the groups shown, sealedMost at most: their seals
}

// sealedMost is of how many groups a handle remembers how they were shown.
const sealedMost = 1 << 20

// Caching says what a caller may do with what is read through a handle, and with what it has of the file from before.
type Caching uint8

// The ways to cache.
const (
	CacheAnew Caching = iota // keep it, and drop what is from before
	CacheOn                  // keep it with what is from before
	CacheNot                 // neither keep it nor use what is from before
)

// Open opens the file n for reading.
func (v *View) Open(n *Node) (h *Handle, caching Caching, err error) {
	h = &Handle{v: v, n: n, turn: make(chan struct{}, 1)}
	switch {
	case n.kind != sIFREG:
		return nil, CacheNot, syscall.EINVAL
	case n.role == dirFile:
		h.fixed = v.vk.MarshalDirFile(v.dirID(n.parent), "")
	case n.role == config || n.role == keyTable:
		h.f, err = v.openControl(n)
		h.raw = true
		caching = CacheNot
	case n.role == plain:
		caching, err = h.openPlain()
	}
	if err != nil {
		return nil, CacheNot, v.fail("open", n, err)
	}
	h.stored = max(h.stored, int64(len(h.fixed)))
	v.open.Add(1)
	return h, caching, nil
}

// openPlain opens the file in the source.
func (h *Handle) openPlain() (caching Caching, err error) {
	v, n := h.v, h.n
	d, err := v.dirs.get(n.parent)
	if err != nil {
		return CacheNot, err
	}
	defer d.put()
	f, st, err := d.OpenStat(n.name, syscall.O_NOATIME, 0)
	if errors.Is(err, syscall.EPERM) { // another user's
		f, st, err = d.OpenStat(n.name, syscall.O_RDONLY, 0)
	}
	if err != nil {
		return CacheNot, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if st.Dev != n.dev || st.Ino != n.srcIno {
		return CacheNot, vault.ErrStale
	}
	attrs, err := sealable(d, n.name)
	if err != nil {
		return CacheNot, err
	}
	if len(attrs) > 0 {
		h.flags = envelope.FlagXattr
	}
	if h.id, err = v.fileID(d, n.name, n.path, n.parent.top, &st); err != nil {
		return CacheNot, err
	}
	h.f, h.version, h.sealed = f, versionOf(&st), map[uint64][envelope.TagSize]byte{}
	switch {
	case st.Size > envelope.MaxPlain:
		return CacheNot, syscall.EFBIG
	case st.Size > envelope.InlineMax:
		h.stored = v.geo.SealedSize(st.Size)
		hole, err := f.Seek(0, seekHole)
		h.sparse = err == nil && hole < st.Size
	case st.Size > 0 || len(attrs) > 0:
		h.stored = v.geo.InlineSize(st.Size)
	}
	return h.begin(v.now())
}

// begin notes that the file is opened as it is. A cache knows of one version of it: where the times do not show the next
// change yet, or somebody still reads another version, nothing is cached. A node has one size for all who have it open: a
// kernel ends their reads there. With another one it is stale, and looked up anew it is another node.
func (h *Handle) begin(now time.Time) (Caching, error) {
	n, is := h.n, h.version
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opens > 0 && n.held != h.stored {
		return CacheNot, vault.ErrStale
	}
	n.opens++
	n.held, n.heldPlain, h.unforeseen = h.stored, is.size, n.told != h.stored
	quiet := min(now.Sub(is.mtime.Time()), now.Sub(is.ctime.Time()))
	mapped := quiet <= mappedFor
	switch {
	case quiet <= settledFor || n.opens > 1 && (mapped || n.seen != is):
		return CacheNot, nil
	case mapped: // for this handle alone
		n.seen = version{}
		return CacheAnew, nil
	case n.seen == is:
		return CacheOn, nil
	}
	n.seen = is
	return CacheAnew, nil
}

// Unforeseen says whether the file has, for as long as it is open, another size than its attributes had last.
func (h *Handle) Unforeseen() bool { return h.unforeseen }

// finish notes that the file is closed.
func (n *Node) finish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opens--
}

// fail names the stored file in an error.
func (v *View) fail(op string, n *Node, err error) error {
	if err == nil {
		return nil
	}
	stored := n.name
	if n.role == plain {
		sealed, _ := v.vk.SealName(v.dirID(n.parent), n.name) // which is not for a log
		stored = sealed.Entry
	}
	return &vault.FileError{Op: op, Stored: stored, Ino: n.ino, Err: err}
}

// Close ends the use of the file.
func (h *Handle) Close() {
	h.v.open.Add(-1)
	h.mu.Lock()
	h.closed = true
	last := h.users == 0
	h.mu.Unlock()
	if last {
		h.end()
	}
}

// leave is called by who has used the handle.
func (h *Handle) leave() {
	h.mu.Lock()
	h.users--
	last := h.users == 0 && h.closed
	h.mu.Unlock()
	if last {
		h.end()
	}
}

func (h *Handle) end() {
	h.v.cache.drop(h)
	if h.f != nil {
		h.f.Close()
	}
	if h.n.role == plain {
		h.n.finish()
	}
	if h.made {
		h.v.keys.keep(h.id, h.key)
	}
}

// Read reads the stored file into p from byte off on, and returns how much there was. It fails with [ErrChanged] where the
// file is no longer what it was when it was opened, as far as that shows.
func (h *Handle) Read(ctx context.Context, p []byte, off int64) (int, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return 0, syscall.EBADF
	}
	h.users++
	h.mu.Unlock()
	defer h.leave()
	if h.raw {
		n, err := h.f.ReadAt(p, off)
		return n, h.v.fail("read", h.n, err)
	}
	if off >= h.stored || len(p) == 0 {
		return 0, nil
	}
	p = p[:min(int64(len(p)), h.stored-off)]
	if h.fixed != nil {
		return copy(p, h.fixed[off:]), nil
	}
	key, err := h.dataKey(ctx)
	if err != nil {
		return 0, h.v.fail("read", h.n, err)
	}
	if h.stored <= envelope.BlockSize {
		block, err := h.inlineBlock(key)
		if err != nil {
			return 0, h.v.fail("read", h.n, err)
		}
		return copy(p, block[off:]), nil
	}
	return len(p), h.v.fail("read", h.n, h.readGroups(key, p, off))
}

// dataKey returns the file's key. One that is past its age is asked for again, and used on if it is given.
func (h *Handle) dataKey(ctx context.Context) (dataKey, error) {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return dataKey{}, ctx.Err()
	}
	defer func() { <-h.turn }()
	if h.made && !h.v.tooOld(h.key.born) {
		return h.key, nil
	}
	d, err := h.v.dataKey(ctx, h.id)
	if err != nil {
		return dataKey{}, err
	}
	if h.made { // others may be using it
		h.key.born = d.born
		d.fk.Wipe()
	} else {
		h.key, h.made = d, true
	}
	return h.key, nil
}

// inlineBlock seals the whole of a small file, once.
func (h *Handle) inlineBlock(key dataKey) ([]byte, error) {
	h.mu.Lock()
	block := h.inline
	h.mu.Unlock()
	if block != nil {
		return block, nil
	}
	buf := make([]byte, h.stored)
	text := buf[envelope.InlineOverhead:]
	if err := h.readAll(text, 0); err != nil {
		return nil, err
	}
	gk, err := key.fk.Group(0)
	if err != nil {
		return nil, err
	}
	s := h.v.cache.scratches.Get().(*envelope.Scratch)
	defer h.v.cache.scratches.Put(s)
	head := envelope.Header{Loc: key.loc, Flags: h.flags}
	nonce := key.fk.InlineNonce(head, text, s)
	envelope.SealInline(key.fk, gk, head, text, &nonce, buf, s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inline == nil {
		h.inline = buf
	}
	return h.inline, nil
}

// readAll fills p from the plain file, and looks whether that is still what was opened.
func (h *Handle) readAll(p []byte, off int64) error {
	n, err := h.f.ReadAt(p, off)
	if err != nil {
		return err
	}
	st, err := h.f.Stat()
	if err != nil {
		return err
	}
	if n < len(p) || st.Size < h.version.size {
		return ErrChanged
	}
	if is := versionOf(&st); is.size == h.version.size && is.mtime == h.version.mtime {
		return nil
	}
	h.mu.Lock()
	warn := !h.warned
	h.warned = true
	h.mu.Unlock()
	if warn {
		h.v.log.Warn("a file is written to while it is read: its copy may be old in one part and new in another; show a snapshot instead",
			"inode", h.n.ino)
	}
	return nil
}
