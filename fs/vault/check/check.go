// Package check tells what of a vault is damaged: without keys by its structure, with keys by opening all of it.
//
// Start with [Run]. What it finds in a vault that is mounted meanwhile may have come about by a change under its eyes: look
// at that again with [Again], with the vault opened anew. [Repair] moves aside what is beyond help. Run and Again write
// nothing.
//
// It does not find what the vault itself cannot tell: a file, or all of the vault, put back as it was earlier, and what was
// removed by name. A manifest does.
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// Kind is what a finding is about.
type Kind string

// The kinds of finding that are damage.
const (
	Config    Kind = "config"     // vault.json
	Table     Kind = "key-table"  // a key table as a whole
	Record    Kind = "record"     // a record in a key table
	Directory Kind = "directory"  // its id: nothing below it opens
	Name      Kind = "name"       // a stored name that is none of this directory
	NoRecord  Kind = "no-record"  // a file whose record is missing, damaged or another file's
	File      Kind = "file"       // a file as a whole: its size, its header, its first block
	Chunks    Kind = "chunks"     // parts of a file
	Symlink   Kind = "symlink"    // a target
	Xattr     Kind = "xattribute" // an extended attribute
)

// The kinds of finding that are none.
const (
	Key         Kind = "key"         // the keysource refuses or cannot be reached: it could not be looked at
	Unread      Kind = "unread"      // input or output failed, or permission is missing: it could not be looked at
	Unsupported Kind = "unsupported" // of a later version of the format
	Note        Kind = "note"        // what a crash may leave, and worth knowing
)

// Range is a part of a file, in bytes of plaintext; without keys of stored bytes.
type Range struct {
	From int64 `json:"from"`
	To   int64 `json:"to"` // the first byte behind
}

// Finding is something that is not as it should be.
type Finding struct {
	Kind   Kind    `json:"kind"`
	Stored string  `json:"stored"`         // path in the vault
	Path   string  `json:"path,omitempty"` // plaintext, "" where it is not known
	What   string  `json:"what"`
	Size   int64   `json:"size,omitempty"`  // of the file, in bytes of plaintext
	Opens  int64   `json:"opens,omitempty"` // how much of it opens all the same
	Ranges []Range `json:"ranges,omitempty"`
	Err    error   `json:"-"`

	slot     uint32 // of a Record
	slotSize int
	attrs    []string // stored names, of an Xattr
}

// Damage says whether f is damage; else it is why something could not be looked at, or a Note.
func (f *Finding) Damage() bool {
	switch f.Kind {
	case Key, Unread, Unsupported, Note:
		return false
	}
	return true
}

// Options say what to check.
type Options struct {
	// Vault is the vault with its keys, open for reading only; nil: what can be told without.
	Vault *vault.Vault
	// Progress is told what was looked at since the last call, by several goroutines; nil: nobody is.
	Progress func(files, bytes int64)
}

// Result is what Run has found.
type Result struct {
	Volume      string    `json:"volume_id,omitempty"`
	Directories int64     `json:"directories"`
	Files       int64     `json:"files"` // of all kinds but directories
	Bytes       int64     `json:"bytes"` // of plaintext, that were opened; without keys as the stored sizes tell
	Records     int64     `json:"records"`
	Gone        int64     `json:"gone,omitempty"` // findings that were of what has changed or gone since
	Findings    []Finding `json:"findings"`
}

// checker is one run.
type checker struct {
	ctx    context.Context
	o      Options
	top    backing.Dir
	v      *vault.Vault
	cfg    *envelope.Config
	geo    envelope.Geometry
	keys   *sidecar.Sidecar         // nil where there are none to read
	inLog  map[envelope.FileID]bool // files that the journal has changes of
	only   map[string][]Range       // of files by stored path: what is to be opened of them
	dirs   atomic.Int64
	files  atomic.Int64
	bytes  atomic.Int64
	mu     sync.Mutex // guards what follows
	res    Result
	linked map[[2]uint64]*linked
}

// linked is a file of several names: it is looked at once.
type linked struct {
	first  string // stored path
	others []place
}

// place is a stored and a plaintext path.
type place struct{ stored, plain string }

// Run checks the vault in top, which stays the caller's. An error says that it came to no end; whatever is wrong in the
// vault is in the result.
func Run(ctx context.Context, top backing.Dir, o Options) (*Result, error) {
	c, err := begin(ctx, top, o)
	if err != nil {
		return nil, err
	}
	defer c.end()
	if c.cfg != nil {
		if err := c.control(); err != nil {
			return nil, err
		}
		if err := c.tables(); err != nil {
			return nil, err
		}
		root := item{}
		if c.v != nil {
			root.node = c.v.Root()
			c.v.Refer(root.node)
		}
		if err := c.walk([]item{root}); err != nil {
			return nil, err
		}
	}
	return c.result(), nil
}

// begin reads the config. Where that is damaged nothing else can be looked at, and c has no cfg.
func begin(ctx context.Context, top backing.Dir, o Options) (*checker, error) {
	c := &checker{ctx: ctx, o: o, top: top, v: o.Vault, linked: map[[2]uint64]*linked{}, inLog: map[envelope.FileID]bool{}}
	cfg, err := vault.ReadConfig(top)
	path := envelope.ControlDir + "/vault.json"
	if errors.Is(err, vault.ErrNotVault) {
		c.add(Finding{Kind: Config, Stored: path, What: "it is missing", Err: err})
		return c, nil
	}
	if err == nil {
		c.geo, err = envelope.NewGeometry(cfg.ChunkSize)
	}
	if err != nil {
		c.fault(Config, place{stored: path}, err)
		return c, nil
	}
	c.cfg = cfg
	c.res.Volume = cfg.Volume.String()
	return c, nil
}

func (c *checker) end() {
	if c.keys != nil {
		c.keys.Close()
	}
}

// result is what was found, in an order that does not depend on who was faster.
func (c *checker) result() *Result {
	for _, l := range c.linked {
		for _, f := range c.res.Findings {
			if f.Stored == l.first {
				for _, p := range l.others {
					f.Stored, f.Path = p.stored, p.plain
					c.res.Findings = append(c.res.Findings, f)
				}
			}
		}
	}
	c.res.Directories, c.res.Files, c.res.Bytes = c.dirs.Load(), c.files.Load(), c.bytes.Load()
	sortFindings(c.res.Findings)
	if c.res.Findings == nil {
		c.res.Findings = []Finding{}
	}
	return &c.res
}

func sortFindings(f []Finding) {
	slices.SortFunc(f, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Stored, b.Stored), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.slot, b.slot), cmp.Compare(a.What, b.What))
	})
}

func (c *checker) add(f Finding) {
	c.mu.Lock()
	c.res.Findings = append(c.res.Findings, f)
	c.mu.Unlock()
}

// fault notes what err says of p. What is not there any more is no fault.
func (c *checker) fault(kind Kind, p place, err error) {
	if f := finding(kind, p, err); f.Kind != "" {
		c.add(f)
	}
}

// finding is what err says of p, which is of the kind given if it is damage. It has no kind where p is gone.
func finding(kind Kind, p place, err error) Finding {
	f := Finding{Kind: judge(kind, err), Stored: p.stored, Path: p.plain, Err: err}
	cause := err
	var at *vault.FileError
	if errors.As(err, &at) {
		cause = at.Err
	}
	f.What = cause.Error()
	return f
}

// seen counts files and bytes.
func (c *checker) seen(files, bytes int64) {
	c.files.Add(files)
	c.bytes.Add(bytes)
	if c.o.Progress != nil {
		c.o.Progress(files, bytes)
	}
}

// another says whether the file of st, at p, was or will be looked at under another name.
func (c *checker) another(st *backing.Stat, p place) bool {
	if st.Nlink < 2 || st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := [2]uint64{st.Dev, st.Ino}
	if l := c.linked[at]; l != nil {
		l.others = append(l.others, p)
		return true
	}
	c.linked[at] = &linked{first: p.stored}
	return false
}

// item is what a worker looks at: a directory, some of its entries, or a piece of a file.
type item struct {
	place
	node    *vault.Node // of the directory, with a reference that the item holds; nil without keys
	entries []entry     // nil: all of the directory
	piece   *piece
}

// entry is one entry of a directory.
type entry struct {
	name  string // stored
	plain string // with keys
	kind  uint32
	ino   uint64
}

// below is where the entry e of directory i is.
func (i *item) below(e entry) place {
	p := place{stored: walk.Join(i.stored, e.name)}
	if i.node != nil && e.plain != "" {
		p.plain = walk.Join(i.plain, e.plain)
	}
	return p
}

// batch is how many files one worker takes at once.
const batch = 32

// walk looks at items and what is below them.
func (c *checker) walk(items []item) error {
	return walk.Run(c.ctx, walk.Workers(), items, func(q *walk.Queue[item]) (func(item) error, func()) {
		w := &worker{c: c, q: q}
		return w.look, nil
	})
}

// worker is one of those that look at once.
type worker struct {
	c   *checker
	q   *walk.Queue[item]
	buf []byte
}

func (w *worker) look(i item) error {
	switch {
	case i.piece != nil:
		w.piece(i.piece)
	case i.entries != nil && i.node != nil:
		w.open(i)
	case i.entries != nil:
		w.peek(i)
	default:
		w.directory(i)
	}
	if i.node != nil {
		w.c.v.Forget(i.node, 1)
	}
	return context.Cause(w.c.ctx)
}

// share puts the files of a directory into the queue, so that the first are taken first.
func (w *worker) share(i item, entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.ino, b.ino) }) // as they were made: so stand their records
	var items []item
	for part := range slices.Chunk(entries, batch) {
		if i.node != nil {
			w.c.v.Refer(i.node)
		}
		items = append(items, item{place: i.place, node: i.node, entries: part})
	}
	slices.Reverse(items)
	w.q.Put(items...)
}

// kindOf is the type of an entry, where listing the directory has not told it.
func kindOf(h backing.Dir, e backing.Entry) (uint32, error) {
	if e.Kind != 0 {
		return e.Kind, nil
	}
	st, err := h.StatAt(e.Name)
	return st.Mode & syscall.S_IFMT, err
}

// directory looks at a directory, and has its entries looked at.
func (w *worker) directory(i item) {
	c := w.c
	h, err := walk.Open(c.top, i.stored)
	if err != nil {
		c.fault(Directory, i.place, err)
		return
	}
	defer h.Close()
	c.dirs.Add(1)
	var entries []entry
	if c.v != nil {
		entries, err = w.names(i)
	} else {
		entries, err = w.forms(i, h)
	}
	if err != nil {
		c.fault(Directory, i.place, err)
		return
	}
	var files []entry
	for _, e := range entries {
		if e.kind, err = kindOf(h, backing.Entry{Name: e.name, Kind: e.kind}); err != nil {
			c.fault(File, i.below(e), err)
			continue
		}
		if e.kind != syscall.S_IFDIR {
			files = append(files, e)
			continue
		}
		sub := item{place: i.below(e)}
		if c.v != nil {
			if sub.node, _, err = c.v.LookupStored(i.node, e.name); err != nil {
				c.fault(Directory, sub.place, err)
				continue
			}
		}
		w.q.Put(sub)
	}
	w.share(i, files)
}

// mine says whether a stored name is an entry of directory i, and no name of kmsfs or of the file system.
func (i *item) mine(name string) bool {
	return !envelope.IsReserved(name) && (i.stored != "" || name != "lost+found")
}

// forms looks at a directory without keys.
func (w *worker) forms(i item, h backing.Dir) ([]entry, error) {
	if i.stored != "" {
		if _, err := vault.PeekZone(h); errors.Is(err, syscall.ENOENT) {
			return nil, fmt.Errorf("%w: no %s in it", vault.ErrCorrupt, envelope.DirFileName)
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", envelope.DirFileName, err)
		}
	}
	var entries []entry
	pieces := map[string]int{}
	err := h.ReadDir(func(e backing.Entry) bool {
		if tag, part, _, ok := envelope.ParseCompanion(e.Name); ok {
			pieces[tag] |= 1 << part
		}
		if i.mine(e.Name) {
			entries = append(entries, entry{name: e.Name, kind: e.Kind, ino: e.Ino})
		}
		return true
	})
	return slices.DeleteFunc(entries, func(e entry) bool {
		what := ""
		switch {
		case !envelope.IsSealedName(e.name):
			what = "it is no sealed name: it was put here by something else than kmsfs"
		case envelope.IsLongEntry(e.name) && pieces[e.name] != 3:
			what = "a companion of the long name is missing"
		default:
			return false
		}
		w.c.add(Finding{Kind: Name, Stored: i.below(e).stored, What: what, Err: vault.ErrCorrupt})
		return true
	}), err
}

// names lists a directory with keys.
func (w *worker) names(i item) ([]entry, error) {
	var entries []entry
	err := w.c.v.List(i.node, func(e vault.DirEntry, err error) bool {
		n := entry{name: e.Stored, plain: e.Name, kind: e.Kind, ino: e.Ino}
		switch {
		case !i.mine(e.Stored):
		case err != nil:
			w.c.add(Finding{Kind: Name, Stored: i.below(n).stored, What: "the stored name does not open in this directory", Err: err})
		default:
			entries = append(entries, n)
		}
		return true
	})
	if err == nil {
		w.attributes(i.node, i.place)
	}
	return entries, err
}
