package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrHung: the mount takes no requests, or the file system of the vault does not answer.
var ErrHung = errors.New("hung")

// hungAfter is how long a request may take before the log tells of it.
const hungAfter = 30 * time.Second

// job is what a worker is doing, for whoever watches. It costs a request four atomic stores: no lock, no clock but the one
// that is read anyway.
type job struct {
	since     atomic.Int64 // Server.now; 0: nothing
	op        atomic.Uint32
	frozen    atomic.Bool // it waits for a thaw
	node      atomic.Uint64
	told      atomic.Int64 // since, of the last one that the log has told of
	goroutine int          // that of the worker, to find its stack by
}

func (j *job) begin(h *fuse.InHeader, now int64) {
	j.op.Store(h.Opcode)
	j.node.Store(h.NodeId)
	j.since.Store(max(now, 1))
}

// end ends a request, and tells the log where it had told that the request hung.
func (w *worker) end() {
	since := w.job.since.Load()
	w.job.since.Store(0)
	if since != 0 && w.job.told.Load() == since {
		w.s.log.Warn("a request that took long has ended", "op", opName(w.job.op.Load()), "node", w.job.node.Load(),
			"took", time.Duration(w.s.now()-since).Round(time.Millisecond))
	}
}

// requests are those that are being answered.
type requests struct {
	count, hung int           // hung: of these, longer than the limit, and not held by Freeze
	oldest      time.Duration // 0: none
}

func (s *Server) requests() (u requests) {
	now := s.now()
	for _, w := range s.crew.everybody() {
		since := w.job.since.Load()
		if since == 0 {
			continue
		}
		u.count++
		took := time.Duration(now - since)
		u.oldest = max(u.oldest, took)
		if took >= s.hungAfter && !w.job.frozen.Load() {
			u.hung++
		}
	}
	return u
}

// tellOfHung looks at what is under way, until the returned function is called.
func (s *Server) tellOfHung() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(s.hungAfter / 6)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				s.lookForHung()
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

// lookForHung logs each request that has been under way for too long, once.
func (s *Server) lookForHung() {
	var stacks []byte
	for _, w := range s.crew.everybody() {
		since := w.job.since.Load()
		took := time.Duration(s.now() - since)
		if since == 0 || took < s.hungAfter || w.job.told.Load() == since {
			continue
		}
		op, node, waits, at := w.job.op.Load(), w.job.node.Load(), "thaw", ""
		if !w.job.frozen.Load() {
			if stacks == nil {
				stacks = make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
			}
			waits, at = whereIs(stacks, w.job.goroutine)
		}
		w.job.told.Store(since)
		if w.job.since.Load() != since {
			continue // it has just ended
		}
		s.log.Warn("a request takes long", "op", opName(op), "node", node, "took", took.Round(time.Millisecond), "waits", waits, "at", at)
	}
}

// whereIs finds in the stacks of all goroutines what one of them waits for, and the functions of this program that it is in,
// innermost first.
func whereIs(stacks []byte, goroutine int) (waits, at string) {
	const most = 8
	for one := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		head, frames, _ := strings.Cut(string(one), "\n")
		state, ours := strings.CutPrefix(head, fmt.Sprintf("goroutine %d [", goroutine))
		if !ours {
			continue
		}
		state, _, _ = strings.Cut(strings.TrimSuffix(state, "]:"), ",")
		var in []string
		for line := range strings.Lines(frames) {
			if name, ours := strings.CutPrefix(line, "kmsfs/"); ours && len(in) < most {
				in = append(in, strings.TrimSpace(name[:max(strings.LastIndex(name, "("), 0)]))
			}
		}
		return state, strings.Join(in, " < ")
	}
	return "", ""
}

// goroutineID is the number by which a stack trace names the goroutine that calls.
func goroutineID() int {
	var b [64]byte
	head := strings.Fields(string(b[:runtime.Stack(b[:], false)]))
	if len(head) < 2 {
		return 0
	}
	id, _ := strconv.Atoi(head[1])
	return id
}

// Check tells whether the mount answers: a worker waits for requests or is about to, and the file system that holds the vault
// answers before ctx ends. It asks the kernel nothing that would come back as a request, and may be called as often as one
// likes: while one call has no answer, the next ones fail. A mount that is gone is ENOTCONN.
func (s *Server) Check(ctx context.Context) error {
	if u := s.requests(); u.hung >= maxWorkers {
		return fmt.Errorf("%w: %d requests have been under way for more than %v", ErrHung, u.hung, s.hungAfter)
	}
	if !s.checking.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: the file system of the vault has not answered the last statfs", ErrHung)
	}
	if !s.crew.beside(&s.workers) {
		s.checking.Store(false)
		return unix.ENOTCONN
	}
	answer := make(chan error, 1)
	go func() {
		defer s.workers.Done()
		defer s.checking.Store(false)
		answer <- s.base.statfs()
	}()
	select {
	case err := <-answer:
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("statfs of the vault: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the file system of the vault does not answer statfs: %w", ErrHung, ctx.Err())
	}
}
