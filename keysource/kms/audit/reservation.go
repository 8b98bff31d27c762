package audit

import (
	"errors"
	"fmt"
	"math"
	"syscall"
)

// spaceStep is how many bytes are taken from the disk at once.
const spaceStep = 1 << 20

// Reservation is the room for the line of one call. It is for one goroutine.
type Reservation struct {
	log *Log
	n   int64
}

// Reserve takes room for a line of n bytes, at most MaxRecordSize. A call for which there is none must not begin. The
// caller ends the reservation with Append or Release.
func (l *Log) Reserve(n int) (*Reservation, error) {
	r := &Reservation{l, int64(min(n, MaxRecordSize))}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	need := l.size + l.writing + l.reserved + r.n
	if l.pending != nil {
		need += int64(len(l.pending.lines))
	}
	if err := l.allocate(need); err != nil {
		return nil, fmt.Errorf("no room in the audit log: %w", err)
	}
	l.reserved += r.n
	return r, nil
}

// allocate sees to it that the file has the space of need bytes. The caller has mu.
func (l *Log) allocate(need int64) error {
	if need <= l.allocated {
		return nil
	}
	most, least := max(spaceStep, need-l.allocated), need-l.allocated
	for _, n := range []int64{most, least} {
		err := l.f.Allocate(l.allocated, n)
		switch {
		case err == nil:
			l.allocated += n
			return nil
		case errors.Is(err, errors.ErrUnsupported):
			l.allocated = math.MaxInt64 // then only the write itself can tell
			return nil
		case n == least || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT):
			return err
		}
	}
	return nil
}

// Append writes rec and returns when it is in the file; with a negative Config.SyncEvery, when it is durable. After an
// error it is not in the log. It ends the reservation.
func (r *Reservation) Append(rec *Record) error {
	b, err := rec.marshal()
	if err != nil {
		r.Release()
		return err
	}
	return r.log.append(r, b)
}

// Release gives the room back. A second call does nothing.
func (r *Reservation) Release() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.release()
}

// release is Release for who holds mu.
func (r *Reservation) release() {
	r.log.reserved -= r.n
	r.n = 0
}
