package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"kmsfs/keysource"
)

// acquire returns the present snapshot, with s.mu held for reading: release it.
func (s *Store) acquire(ctx context.Context) (*snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.cfg.Clock.Now()
	s.refresh(now)
	if now.UnixNano() >= s.due.Load() {
		s.settleNow(now)
	}
	s.flushUsage(now, 0)
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return nil, keysource.ErrClosed
	}
	return s.snap, nil
}

// release ends what acquire began.
func (s *Store) release() { s.mu.RUnlock() }

// refresh looks at the file if it is time to, and takes over what another process wrote. When that fails the store
// goes on with what it has: an unreadable file must not stop a mount that works.
func (s *Store) refresh(at time.Time) {
	now := int64(at.Sub(s.start))
	next := s.nextCheck.Load()
	if now < next || !s.nextCheck.CompareAndSwap(next, now+int64(max(s.cfg.CheckInterval, 0))) {
		return
	}
	select {
	case s.admin <- struct{}{}:
		defer func() { <-s.admin }()
	default:
		return // somebody is at it
	}
	if err := s.reload(); err != nil && !errors.Is(err, keysource.ErrClosed) {
		s.cfg.Logger.Warn("key store cannot be read again, using what was read before", slog.String("path", s.path),
			slog.Any("error", err))
	}
}

// refreshNow looks at the file because something was not found, and tells whether there was anything new.
func (s *Store) refreshNow(ctx context.Context, old *snapshot) bool {
	select {
	case s.admin <- struct{}{}:
		defer func() { <-s.admin }()
	case <-ctx.Done():
		return false
	}
	if s.reload() != nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.snap != old
}

// reload takes over the file if it is not the one in memory. Every generation has a random salt in its header, so that
// comparing headers is exact where times and inode numbers could repeat. Where the header is ours and the body has been
// damaged since, memory holds the store and the next change mends the file. The caller has s.admin.
func (s *Store) reload() error {
	if s.closed { // written with s.admin held too
		return keysource.ErrClosed
	}
	have := s.snap.header
	head, err := s.readHeader()
	if err != nil {
		return err
	}
	if head == have {
		return nil
	}
	b, err := s.read()
	if err != nil {
		return err
	}
	next, err := openStore(b, s.storeKey)
	if err != nil {
		return err
	}
	if err := next.follows(have); err != nil || next.header == have {
		next.wipeUnless(nil)
		return err
	}
	s.publish(next)
	return nil
}

// follows refuses what cannot stand in the place of the generation with the header have.
func (sn *snapshot) follows(have header) error {
	switch {
	case sn.header == have:
		return nil
	case sn.header.storeID != have.storeID:
		return damaged("another key store was put in its place")
	case sn.header.generation <= have.generation:
		return damaged("it went back from generation %d to %d", have.generation, sn.header.generation)
	}
	return nil
}

// readHeader reads the header of the file.
func (s *Store) readHeader() (header, error) {
	f, err := s.cfg.fsys.Open(s.path, refuseLinks)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return header{}, fmt.Errorf("read key store: %w", err)
	}
	return parseHeader(b[:n])
}

// publish makes next the present snapshot and wipes what it has no more. The caller has s.admin.
func (s *Store) publish(next *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.snap
	s.snap = next
	s.due.Store(next.dueNanos())
	old.wipeUnless(next)
}

// dueNanos is due in nanoseconds since 1970, for who has no lock.
func (sn *snapshot) dueNanos() int64 {
	if sn.due.IsZero() || sn.due.Year() > lastNanosYear {
		return math.MaxInt64
	}
	return sn.due.UnixNano()
}

// lastNanosYear is the last whole year whose nanoseconds since 1970 fit into 64 bits.
const lastNanosYear = 2261
