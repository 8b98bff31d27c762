package reverse

import (
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

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

// Caching says what a caller may do with what is read through a handle, and with what it has of the file from before.
type Caching uint8

// The ways to cache.
const (
	CacheAnew Caching = iota // keep it, and drop what is from before
	CacheOn                  // keep it with what is from before
	CacheNot                 // neither keep it nor use what is from before
)

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
