package fs

import (
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
)

// errnos is more than any errno of Linux.
const errnos = 256

// failures counts the operations that failed. Each is also a request's answer.
type failures struct {
	by      [errnos]atomic.Uint64
	corrupt atomic.Uint64
	panics  atomic.Uint64
}

func (f *failures) count(st fuse.Status, err error) {
	if st > 0 && st < errnos {
		f.by[st].Add(1)
	}
	if errors.Is(err, vault.ErrCorrupt) || errors.Is(err, envelope.ErrCorrupt) {
		f.corrupt.Add(1)
	}
}

// Stats are counters of a mount.
type Stats struct {
	// Failed counts the operations that failed, by errno; a name that does not exist is one too.
	Failed map[syscall.Errno]uint64
	// Corrupt counts the operations that were refused because what is stored is damaged or forged.
	Corrupt uint64
	// Panics counts the requests that a bug has failed.
	Panics uint64
	// UnderWay are the requests that are being answered, Hung those of them that have taken longer than Options.HungAfter and
	// are not held by Freeze; Oldest is how long the one that has taken longest has, 0 where there is none.
	UnderWay, Hung int
	Oldest         time.Duration
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	f := &s.base.failures
	u := s.requests()
	out := Stats{Failed: map[syscall.Errno]uint64{}, Corrupt: f.corrupt.Load(), Panics: f.panics.Load(),
		UnderWay: u.count, Hung: u.hung, Oldest: u.oldest}
	for no := range f.by {
		if n := f.by[no].Load(); n > 0 {
			out.Failed[syscall.Errno(no)] = n
		}
	}
	return out
}
