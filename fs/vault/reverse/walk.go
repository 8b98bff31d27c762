package reverse

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// walkBatch is how many keys a walk has made at once.
const walkBatch = 512

// walks are the walks over the source that make the data keys that are missing: one at a time.
type walks struct {
	mu      sync.Mutex // a leaf
	running *walk
	next    *walk // begins when running has ended, for those who came since that began
}

type walk struct {
	done chan struct{} // closed at the end, when err says how it went
	err  error
}

// Prepare makes the data keys of all files in the view that have none, so that the key tables as they are then open all that
// is copied after them. It returns when a walk that has begun since it was called has done that.
func (v *View) Prepare(ctx context.Context) error {
	w := v.prepare()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PrepareLater is Prepare without the wait.
func (v *View) PrepareLater() { v.prepare() }

// prepare returns a walk that begins now or later.
func (v *View) prepare() *walk {
	v.walks.mu.Lock()
	defer v.walks.mu.Unlock()
	switch {
	case v.walks.next != nil:
	case v.walks.running != nil:
		v.walks.next = &walk{done: make(chan struct{})}
	default:
		w := &walk{done: make(chan struct{})}
		v.walks.running = w
		v.wg.Go(v.runWalks)
		return w
	}
	return v.walks.next
}

// runWalks does the walk that is running, and then those that are waited for.
func (v *View) runWalks() {
	for {
		v.walks.mu.Lock()
		w := v.walks.running
		v.walks.mu.Unlock()
		if w == nil {
			return
		}
		var missing []envelope.FileID
		w.err = bug.Guard(v.log, func() error {
			if err := v.walk(v.ctx, v.src, "", place{dev: v.rootDev}, &missing); err != nil {
				return err
			}
			return v.maker.make(v.ctx, missing...)
		})
		if w.err != nil && v.ctx.Err() == nil {
			v.log.Error("no data keys for new files: what is copied now may lack records", "err", w.err)
		}
		v.walks.mu.Lock()
		v.walks.running, v.walks.next = v.walks.next, nil
		v.walks.mu.Unlock()
		close(w.done)
	}
}

// place is a file system by its device and the path at which it is entered, as Node.top.
type place struct {
	top string
	dev uint64
}

// walk collects the files below d, at path, whose data keys are missing, and has them made in batches, in the order of the
// names that the view shows: tools read in that order. What cannot be read is left out: it cannot be copied either.
func (v *View) walk(ctx context.Context, d backing.Dir, path string, at place, missing *[]envelope.FileID) error {
	if v.beyond(at.dev) {
		return nil
	}
	type entry struct {
		shown, name string
		kind        uint32
	}
	var all []entry
	id := v.vk.ReverseDirID(path)
	err := d.ReadDir(func(e backing.Entry) bool {
		if e.Kind != sIFDIR && e.Kind != sIFREG && e.Kind != 0 || v.hidden(d, path, e) {
			return true
		}
		if sealed, err := v.vk.SealName(id, e.Name); err == nil {
			all = append(all, entry{sealed.Entry, e.Name, e.Kind})
		}
		return true
	})
	if err != nil && !passable(err) {
		return err
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.shown, b.shown) })
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.kind != sIFDIR {
			st, err := d.StatAt(e.name)
			if err != nil {
				continue
			}
			e.kind = st.Mode & sIFMT
			if e.kind == sIFREG {
				err = v.missing(ctx, d, e.name, path, at.top, &st, missing)
			}
			if err != nil {
				return err
			}
		}
		if e.kind == sIFDIR {
			if err := v.walkBelow(ctx, d, e.name, path, at, missing); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *View) walkBelow(ctx context.Context, d backing.Dir, name, path string, at place, missing *[]envelope.FileID) error {
	sub, err := d.OpenDir(name)
	if err != nil {
		if passable(err) {
			return nil
		}
		return err
	}
	defer sub.Close()
	st, err := sub.Stat()
	if err != nil {
		return err
	}
	path = join(path, name)
	return v.walk(ctx, sub, path, place{v.topOf(at.top, at.dev, path, st.Dev), st.Dev}, missing)
}

// passable says whether an error is about one directory, or file, that is gone or closed to this process.
func passable(err error) bool {
	for _, no := range []syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.EPERM, syscall.ENOTDIR, syscall.ELOOP, syscall.ESTALE, syscall.EIO, syscall.ENOTCONN} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// missing notes the file name in d if it has no data key and needs one.
func (v *View) missing(ctx context.Context, d backing.Dir, name, path, top string, st *backing.Stat, missing *[]envelope.FileID) error {
	if st.Size == 0 {
		if attrs, err := sealable(d, name); err != nil || len(attrs) == 0 {
			return nil
		}
	}
	id, err := v.fileID(d, name, join(path, name), top, st)
	if err != nil {
		return nil
	}
	if _, ok := v.keys.locator(id); ok {
		return nil
	}
	if *missing = append(*missing, id); len(*missing) < walkBatch {
		return nil
	}
	batch := *missing
	*missing = nil
	return v.maker.make(ctx, batch...)
}
