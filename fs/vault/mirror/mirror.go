// Package mirror makes one directory tree what another one is, and touches only what differs, as rsync -aHAX --delete does. The
// trees are backing.Dir: plain directories, and by fs/vault/view the plaintext of vaults.
//
// Start with [Run]. It may be interrupted at any moment; the next run does the rest. A file is replaced as a whole, by a rename,
// or with [InPlace] piece by piece, so that little of its ciphertext changes. What turns out to be damaged in the destination is
// replaced as a whole. No symbolic link is followed.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/walk"
)

// ErrIncomplete is returned where some objects could not be made or removed, each of which was told of.
var ErrIncomplete = errors.New("mirror: not everything was done")

// Comparison says how it is found out whether a file has changed.
type Comparison uint8

// The two ways to compare.
const (
	ByTime    Comparison = iota // by size and time of change
	ByContent                   // by reading both
)

// Extras says what becomes of what the source does not have.
type Extras uint8

// The two fates.
const (
	Delete Extras = iota
	Keep
)

// Replacement says how a large file is changed.
type Replacement uint8

// The two ways to change a file of 1 MiB and more. In place only the pieces that differ are written; after an interruption it
// has some of old and new, and a time that makes the next run do it again.
const (
	Whole Replacement = iota
	InPlace
)

// Bounds says whether other file systems mounted in the source are entered.
type Bounds uint8

// The two bounds.
const (
	AllFileSystems Bounds = iota
	OneFileSystem
)

// Effect says whether anything is done.
type Effect uint8

// The two effects.
const (
	Do Effect = iota
	DryRun
)

// Kind is what is done to an object.
type Kind string

// The kinds of change.
const (
	Make   Kind = "make"
	Change Kind = "change" // its content, target or type
	Attrs  Kind = "attrs"  // its owner, mode, time or extended attributes alone
	Remove Kind = "remove"
)

// Options of Run. The zero value is all of it, by size and time, with nobody told.
type Options struct {
	Compare Comparison
	Extras  Extras
	Replace Replacement
	Bounds  Bounds
	Effect  Effect
	// Ignore says what is left alone on both sides; nil: nothing is. path is from the roots.
	Ignore *Ignore
	// Parallel is how many directories and batches of files are worked on at once; 0: four times the processors.
	Parallel int
	// Progress is told of bytes of content that have been gone through; Told of changes; Trouble of what could not be done, and
	// nil there ends the run with the first. They are called by several goroutines.
	Progress func(bytes int64)
	Told     func(kind Kind, path string)
	Trouble  func(path string, err error)
	// Mended is told of what was damaged in the destination, where that was found out, and why: it was written anew, or would be.
	Mended func(path string, damage error)
}

// Result counts what was done, or would be.
type Result struct {
	Objects, Made, Changed, Attrs, Removed int64
	Mended                                 int64 // of those that changed, what was damaged
	Bytes                                  int64 // of the files that were read for copying
	Written                                int64 // of them
}

// Run makes dst what src is. What is there when it returns without an error is not durable before dst is synced (SyncFS).
func Run(ctx context.Context, src, dst backing.Dir, o Options) (Result, error) {
	if o.Parallel <= 0 {
		o.Parallel = 4 * runtime.GOMAXPROCS(0)
	}
	st, err := src.Stat()
	if err != nil {
		return Result{}, err
	}
	r := newRun(ctx, o)
	r.dev = st.Dev
	s, err := src.Dup()
	if err != nil {
		return Result{}, err
	}
	d, err := dst.Dup()
	if err != nil {
		s.Close()
		return Result{}, err
	}
	root := &pair{src: s, dst: d, users: 1}
	// All tasks are taken, also when it is over: they give up what they hold.
	err = walk.Run(context.WithoutCancel(ctx), o.Parallel, []task{func(q *walk.Queue[task]) { r.dir(q, root) }}, func(q *walk.Queue[task]) (func(task) error, func()) {
		return func(t task) error { t(q); return nil }, nil
	})
	if err == nil && !r.over() {
		r.hardLinks(src, dst)
	}
	return r.result()
}

// Object copies src, which is no directory, to name in dst, in place of what is there but for a directory, which is EISDIR. Of o
// Progress counts.
func Object(ctx context.Context, src tree.At, dst backing.Dir, name string, o Options) (Result, error) {
	r := newRun(ctx, o)
	x, err := tree.ReadXattrs(tree.Named(src.Dir, src.Name))
	if err != nil {
		return Result{}, err
	}
	if tree.IsFile(&src.Stat) {
		err = r.file(src.Dir, src.Name, dst, name, &src.Stat, x)
	} else {
		err = r.special(src.Dir, src.Name, dst, name, &src.Stat, x)
	}
	r.objects.Add(1)
	if err != nil {
		return Result{}, err
	}
	return r.result()
}

func newRun(ctx context.Context, o Options) *run {
	r := &run{ctx: ctx, o: o, links: map[[2]uint64][]linked{}}
	r.copier.Progress = func(n int64) { r.bytes.Add(n); r.progress(n) }
	return r
}

// run is one Run.
type run struct {
	ctx    context.Context
	o      Options
	dev    uint64 // of the source
	copier tree.Copier

	objects, made, changed, attrs, removed, mended, bytes, written, left atomic.Int64

	mu    sync.Mutex
	links map[[2]uint64][]linked // files of the source with several names
	first error                  // the first trouble, where nobody is told
}

func (r *run) result() (Result, error) {
	res := Result{r.objects.Load(), r.made.Load(), r.changed.Load(), r.attrs.Load(), r.removed.Load(), r.mended.Load(), r.bytes.Load(), r.written.Load()}
	if err := context.Cause(r.ctx); err != nil {
		return res, err
	}
	if err := r.stop(); err != nil {
		return res, err
	}
	if n := r.left.Load(); n > 0 {
		return res, fmt.Errorf("%w: %d objects are not as they should be", ErrIncomplete, n)
	}
	return res, nil
}

// task is a part of the work.
type task func(q *walk.Queue[task])

// over says whether nothing more is to be done.
func (r *run) over() bool { return r.ctx.Err() != nil || r.stop() != nil }

func (r *run) stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first
}

// trouble tells of what could not be done. What has disappeared from the source meanwhile is none.
func (r *run) trouble(path string, err error) {
	if context.Cause(r.ctx) != nil {
		return
	}
	if r.o.Trouble == nil {
		r.mu.Lock()
		if r.first == nil {
			r.first = fmt.Errorf("%s: %w", path, err)
		}
		r.mu.Unlock()
		return
	}
	r.left.Add(1)
	r.o.Trouble(path, err)
}

func (r *run) progress(n int64) {
	if r.o.Progress != nil && n > 0 {
		r.o.Progress(n)
	}
}

// tell counts a change, and says whether it is to be done.
func (r *run) tell(kind Kind, path string) bool {
	switch kind {
	case Make:
		r.made.Add(1)
	case Change:
		r.changed.Add(1)
	case Attrs:
		r.attrs.Add(1)
	case Remove:
		r.removed.Add(1)
	}
	if r.o.Told != nil {
		r.o.Told(kind, path)
	}
	return r.o.Effect == Do
}

// tellMended counts what was damaged in the destination.
func (r *run) tellMended(path string, damage error) {
	r.mended.Add(1)
	if r.o.Mended != nil {
		r.o.Mended(path, damage)
	}
}

// pair is a directory on both sides. It is finished when nothing below it is under way any more.
type pair struct {
	up       *pair // in use by this one; nil at the root
	name     string
	path     string
	src, dst backing.Dir // dst is nil in a dry run of what is not there
	fresh    bool        // it was made by this run

	mu    sync.Mutex
	users int
}

func (p *pair) use() *pair {
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
	return p
}

// put ends a use; with the last one the directory gets its times, and the one above it is put.
func (r *run) put(p *pair) {
	p.mu.Lock()
	p.users--
	last := p.users == 0
	p.mu.Unlock()
	if !last {
		return
	}
	if p.src != nil && p.dst != nil && context.Cause(r.ctx) == nil {
		if err := r.finishDir(p); err != nil && !errors.Is(err, syscall.ENOENT) {
			r.trouble(p.path, err)
		}
	}
	for _, d := range []backing.Dir{p.src, p.dst} {
		if d != nil {
			d.Close()
		}
	}
	if p.up != nil {
		r.put(p.up)
	}
}

// finishDir gives the directory the attributes of the source.
func (r *run) finishDir(p *pair) error {
	st, err := p.src.Stat()
	if err != nil {
		return err
	}
	x, err := tree.ReadXattrs(p.src)
	if err != nil {
		return err
	}
	have, err := p.dst.Stat()
	if err != nil {
		return err
	}
	y, err := tree.ReadXattrs(p.dst)
	if err != nil {
		return err
	}
	if sameAttrs(&st, &have) && tree.SameXattrs(x, y) {
		return nil
	}
	timeOnly := have
	timeOnly.Mtim = st.Mtim
	if !p.fresh && !(sameAttrs(&st, &timeOnly) && tree.SameXattrs(x, y)) && !r.tell(Attrs, p.path) || r.o.Effect == DryRun {
		return nil
	}
	return tree.SetAttrs(p.dst, &st, x, tree.Old)
}

// sameAttrs compares what is copied of attributes.
func sameAttrs(a, b *backing.Stat) bool {
	return a.Mode&unix.S_IFMT|tree.Mode(a) == b.Mode && a.Mtim == b.Mtim && (!tree.Owners() || a.UID == b.UID && a.GID == b.GID)
}
