package reverse

import (
	"time"

	"kmsfs/fs/backing"
)

// settledFor is how long a file must not have been changed before its times are trusted to show the next change.
const settledFor = 2 * time.Second

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
// change yet, or somebody still reads another version, nothing is cached.
func (n *Node) begin(is version, now time.Time) Caching {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opens++
	settled := now.Sub(is.mtime.Time()) > settledFor && now.Sub(is.ctime.Time()) > settledFor
	switch {
	case !settled || n.opens > 1 && n.seen != is:
		return CacheNot
	case n.seen == is:
		return CacheOn
	}
	n.seen = is
	return CacheAnew
}

// finish notes that the file is closed.
func (n *Node) finish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opens--
}
