package fs

// Serving. Decoding and encoding are go-fuse's (fuse.ProtocolServer); reading the device is ours, because the cost of a
// small request is not decoding (3 us) but waking a sleeping thread on a sleeping processor (17 us each way on a virtual
// machine without halt polling, measured). So one thread, the leader, has the right to read, keeps it over requests
// that are answered at once, and looks for the next request for a moment before it sleeps. It gives the right away
// before a request that may take long, and a watchdog takes it away when a request took long unforeseen. All other
// workers sleep in beds of their own (crew.go), not in the device: the kernel would wake them too.

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// quickSync is how long the last sync may have taken for the next one to be answered with the right to read in hand: to
	// wake another reader costs as much, and the one who asked mostly waits.
	quickSync = 400 * time.Microsecond

	maxRequest = 1 << 20               // bytes of data in one READ or WRITE
	bufSize    = maxRequest + 1<<12    // a request or an answer, with its headers
	spinFor    = 50 * time.Microsecond // how long the leader looks before it sleeps
	patience   = time.Millisecond      // how long the leader may be away before another one reads
	idleAfter  = 5 * time.Second       // without a request: time to tidy up

	interruptPause = 10 * time.Millisecond // before the kernel is told to repeat an interrupt
	devClone       = 0x8004e500            // FUSE_DEV_IOC_CLONE
)

// Server is one mount. Its methods are safe for concurrent use.
type Server struct {
	log   *slog.Logger
	dir   string
	base  *base // of the translation
	ps    *fuse.ProtocolServer
	fd    int // blocks
	quick int // a clone of fd that does not block, -1: none

	crew     crew
	gate     gate
	begun    time.Time
	gone     chan struct{} // closed when the mount is gone
	ended    chan struct{} // closed when the last request is answered
	once     sync.Once
	workers  sync.WaitGroup
	lease    atomic.Int64 // number of the request that the leader handles with the right in hand; 0: none
	reads    atomic.Uint64
	watched  atomic.Bool
	syncTook atomic.Int64 // by the last sync, in nanoseconds
	rest     *time.Timer  // runs when nothing has been asked for a while

	hungAfter time.Duration
	checking  atomic.Bool // a Check waits for the file system of the vault

	dropMu sync.Mutex // a leaf
	drops  map[uint64]drop
}

// serveOn mounts raw, whose base is b, on dir and answers the INIT request. The mount works only once run is called.
func serveOn(dir string, raw fuse.RawFileSystem, b *base, fo *fuse.MountOptions, o Options) (*Server, error) {
	fd, err := attach(dir, o)
	if err != nil {
		return nil, err
	}
	s := &Server{log: o.Log, dir: dir, base: b, fd: fd, quick: -1, ps: fuse.NewProtocolServer(raw, fo),
		begun: time.Now(), gone: make(chan struct{}), ended: make(chan struct{}), hungAfter: o.HungAfter}
	s.rest = time.AfterFunc(idleAfter, func() {
		s.crew.rest()
		if o.Idle != nil {
			o.Idle()
		}
	})
	w, err := s.newWorker()
	if err != nil {
		return nil, s.abandon(err)
	}
	defer w.free()
	n, err := unix.Read(fd, w.in)
	if err != nil {
		return nil, s.abandon(os.NewSyscallError("read", err))
	}
	if err := w.answer(n, fd); err != nil {
		return nil, s.abandon(err)
	}
	if !o.NoSpin {
		s.quick = cloneQuick(fd)
	}
	return s, nil
}

func (s *Server) abandon(err error) error {
	detach(s.dir, unix.MNT_DETACH)
	unix.Close(s.fd)
	s.rest.Stop()
	return fmt.Errorf("serve %s: %w", s.dir, err)
}

// cloneQuick opens a second channel of the connection that never blocks. O_NONBLOCK belongs to the open file, so
// the one descriptor cannot be both. An answer must go to the channel that its request came from.
func cloneQuick(fd int) int {
	q, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	v := uint32(fd)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(q), devClone, uintptr(unsafe.Pointer(&v))); e != 0 {
		unix.Close(q)
		return -1
	}
	return q
}

// run answers requests until the mount is gone, and returns when the last one is answered.
func (s *Server) run() {
	defer close(s.ended)
	// A reader that sleeps in the device holds a P until sysmon takes it, at once if no other P is idle and after
	// 10 ms if one is. With a P to spare the reader finds its own again and no thread is woken (runtime/proc.go).
	if runtime.GOMAXPROCS(0) < 4 {
		runtime.GOMAXPROCS(4)
	}
	s.crew.vacant = true
	s.spawn()
	s.spawn()
	stop := s.tellOfHung()
	s.workers.Wait()
	stop()
	s.rest.Stop()
	unix.Close(s.fd)
	if s.quick >= 0 {
		unix.Close(s.quick)
	}
}

// Wait returns when the mount is gone, by whomever, and the last request is answered.
func (s *Server) Wait() error {
	<-s.ended
	return nil
}

// Done is closed when the mount is gone and the last request is answered.
func (s *Server) Done() <-chan struct{} { return s.ended }

// Unmount detaches the mount; EBUSY while it is in use. Wait returns soon after.
func (s *Server) Unmount() error { return detach(s.dir, 0) }

// UnmountLazily detaches the mount from the tree at once; it ends when nobody uses it any more.
func (s *Server) UnmountLazily() error { return detach(s.dir, unix.MNT_DETACH) }

// Sync writes what the kernel holds of the mount into the vault, as syncfs(2) does.
func (s *Server) Sync() error {
	fd, err := unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.dir, Err: err}
	}
	defer unix.Close(fd)
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}

func (s *Server) spawn() {
	w, err := s.newWorker()
	if err != nil {
		s.log.Error("no memory for another worker", "err", err)
		return
	}
	s.crew.join(w)
	s.workers.Add(1)
	go w.run()
}

// pass gives the right to read to another worker, and sees to it that there is one.
func (s *Server) pass() {
	if s.crew.pass() {
		s.spawn()
	}
}

type worker struct {
	s       *Server
	bed     bed // where it waits for its turn
	in, out []byte
	inv     [1][]byte
	outv    [1][]byte
	brisk   bool // the last request came soon: the next one is worth looking for
	job     job
}

func (s *Server) newWorker() (*worker, error) {
	w := &worker{s: s}
	for _, b := range []*[]byte{&w.in, &w.out} {
		m, err := unix.Mmap(-1, 0, bufSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, os.NewSyscallError("mmap", err)
		}
		*b = m
	}
	return w, nil
}

func (w *worker) free() { unix.Munmap(w.in); unix.Munmap(w.out) }

func (w *worker) run() {
	s := w.s
	// A thread of its own: the goroutine that sleeps in the device is the one that the kernel wakes, with no
	// hand-over between threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.job.goroutine = goroutineID()
	defer s.workers.Done()
	defer s.crew.leave(w)
	defer w.free()
	for s.crew.await(w) && w.lead() {
	}
}

// lead reads and answers while this worker has the right to read; false when the mount is gone.
func (w *worker) lead() bool {
	s := w.s
	for {
		n, fd, err := w.next()
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was interrupted before we had it
			continue
		default: // ENODEV: unmounted
			if err != unix.ENODEV {
				s.log.Error("read /dev/fuse", "err", err)
			}
			s.once.Do(func() { close(s.gone); s.crew.close() })
			return false
		}
		h := (*fuse.InHeader)(unsafe.Pointer(&w.in[0]))
		begun := s.now()
		w.job.begin(h, begun)
		syncs := h.Opcode == opFsync || h.Opcode == opFsyncDir
		gated := changes(h)
		if gated && !s.gate.tryEnter() {
			letGo := s.crew.hold()
			s.pass()
			w.job.frozen.Store(true)
			s.gate.enter(s.gone)
			w.job.frozen.Store(false)
			letGo()
			w.reply(n, fd)
			s.gate.leave()
			return true
		}
		if h.Opcode == opSetLkw {
			s.aside(w.in[:n], fd)
			w.job.since.Store(0)
			continue
		}
		if slow(h) || syncs && s.syncTook.Load() > int64(quickSync) {
			s.pass()
			w.reply(n, fd)
			if gated {
				s.gate.leave()
			}
			if syncs {
				s.syncTook.Store(s.now() - begun)
			}
			return true
		}
		id := int64(s.reads.Add(1))
		s.lease.Store(id)
		s.watch()
		w.reply(n, fd)
		if gated {
			s.gate.leave()
		}
		if syncs {
			s.syncTook.Store(s.now() - begun)
		}
		if !s.lease.CompareAndSwap(id, 0) {
			return true // the watchdog gave the right to another one
		}
	}
}

// aside answers a request that waits for a lock of somebody else, for as long as that takes: any number of these may wait, and
// they must not keep the workers from whoever is to let go of it.
func (s *Server) aside(in []byte, fd int) {
	w := &worker{s: s, in: bytes.Clone(in), out: make([]byte, unix.Getpagesize())}
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		w.reply(len(w.in), fd)
	}()
}

func (w *worker) reply(n, fd int) {
	if err := w.answer(n, fd); err != nil {
		w.s.log.Error("answer", "err", err)
	}
	w.end()
}

// next reads one request and says on which channel.
func (w *worker) next() (int, int, error) {
	s := w.s
	if w.brisk && s.quick >= 0 {
		for end := s.now() + int64(spinFor); s.now() < end; {
			// It cannot block, so the scheduler need not know of it.
			n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(s.quick), uintptr(unsafe.Pointer(&w.in[0])), uintptr(len(w.in)))
			if e == 0 {
				return int(n), s.quick, nil
			}
			if e != unix.EAGAIN {
				return 0, s.quick, e
			}
		}
	}
	t := s.now()
	n, err := unix.Read(s.fd, w.in)
	w.brisk = s.now()-t < 4*int64(spinFor)
	return n, s.fd, err
}

// answer handles the n bytes in w.in and writes the answer to fd.
func (w *worker) answer(n, fd int) error {
	m := w.handle(n)
	if m == 0 { // FORGET has no answer
		return nil
	}
	out := (*fuse.OutHeader)(unsafe.Pointer(&w.out[0]))
	if (*fuse.InHeader)(unsafe.Pointer(&w.in[0])).Opcode == opInterrupt && out.Status == -int32(unix.EAGAIN) {
		// The kernel will ask again, at once. The request is not there yet, or has been told already: either way
		// there is time.
		again := *out
		w.s.later(func() { w.s.send(fd, (*[unsafe.Sizeof(again)]byte)(unsafe.Pointer(&again))[:]) })
		return nil
	}
	err := w.s.send(fd, w.out[:m])
	if err == unix.EINVAL || err == unix.EFAULT { // a bug in the answer; the caller must not wait for ever
		*out = fuse.OutHeader{Length: uint32(unsafe.Sizeof(*out)), Status: -int32(unix.EIO), Unique: out.Unique}
		if e := w.s.send(fd, w.out[:out.Length]); e != nil {
			return e
		}
	}
	return err
}

// send writes one answer. It cannot block, so the scheduler need not know of it.
func (s *Server) send(fd int, b []byte) error {
	_, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if e != 0 && e != unix.ENOENT && e != unix.ENODEV { // ENOENT: the caller was killed; ENODEV: unmounted
		return e
	}
	return nil
}

// later runs f in a moment, unless the mount is gone by then.
func (s *Server) later(f func()) {
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		t := time.NewTimer(interruptPause)
		defer t.Stop()
		select {
		case <-t.C:
			f()
		case <-s.gone:
		}
	}()
}

// handle answers the n bytes in w.in in w.out, and returns how long the answer is.
func (w *worker) handle(n int) (m int) {
	in := *(*fuse.InHeader)(unsafe.Pointer(&w.in[0]))
	defer w.recovered(&in, &m)
	begun := time.Time{}
	if w.s.base.debug {
		begun = time.Now()
	}
	w.inv[0], w.outv[0] = w.in[:n], w.out
	var st fuse.Status
	m, st = w.s.ps.HandleRequest(w.inv[:], w.outv[:])
	out := (*fuse.OutHeader)(unsafe.Pointer(&w.out[0]))
	if !st.Ok() { // not understood: whoever waits for it must not wait for ever
		m = int(unsafe.Sizeof(*out))
		*out = fuse.OutHeader{Length: uint32(m), Status: -int32(st), Unique: in.Unique}
	}
	if w.s.base.debug {
		w.s.trace(&in, out, m > 0, time.Since(begun))
	}
	return m
}

// slow reports whether a request may take long: it waits for the disk or moves much data. How long a sync takes depends on
// the disk: see quickSync.
func slow(h *fuse.InHeader) bool {
	switch h.Opcode {
	case opWrite:
		return h.Length > 64<<10
	case opRead:
		return (*fuse.ReadIn)(unsafe.Pointer(h)).Size > 64<<10
	case opFallocate, opLseek, opCopyRange, opSyncFS, opCopyRange64, opIoctl:
		return true
	}
	return false
}

// watch starts the watchdog if it does not run. It ends when a while passes without a request.
func (s *Server) watch() {
	if s.watched.Load() || !s.watched.CompareAndSwap(false, true) {
		return
	}
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		defer s.watched.Store(false)
		s.rest.Stop()
		defer s.rest.Reset(idleAfter)
		trimmed := s.now()
		for seen, still := int64(0), 0; still < 20; {
			time.Sleep(patience)
			if s.now() > trimmed+int64(idleAfter) {
				s.crew.trim()
				trimmed = s.now()
			}
			id := s.lease.Load()
			switch {
			case id == 0 && int64(s.reads.Load()) == seen:
				still++
			case id != 0 && id == seen && s.lease.CompareAndSwap(id, 0):
				s.pass()
				still = 0
			default:
				seen, still = int64(s.reads.Load()), 0
			}
		}
	}()
}

// invalidate makes the kernel write back and drop its cached pages of a node: those with any of the n bytes from off on,
// and where n is 0 all from off on; off -1: none, but its attributes. The caller answers a request that holds no page of the node, and other workers answer
// the writes that come of this.
func (s *Server) invalidate(node uint64, off, n int64) error {
	m := struct {
		fuse.OutHeader
		fuse.NotifyInvalInodeOut
	}{fuse.OutHeader{Status: -fuse.NOTIFY_INVAL_INODE}, fuse.NotifyInvalInodeOut{Ino: node, Off: off, Length: n}}
	m.OutHeader.Length = uint32(unsafe.Sizeof(m))
	return s.notify(unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m)))
}

// dropLater is invalidate for all of a node, by nobody who answers a request of it, and by one for each node: it waits in the
// kernel for pages that are being written.
func (s *Server) dropLater(node uint64) {
	s.dropMu.Lock()
	defer s.dropMu.Unlock()
	if _, under := s.drops[node]; under {
		s.drops[node] = onceMore
		return
	}
	if s.drops == nil {
		s.drops = map[uint64]drop{}
	}
	s.drops[node] = onceMore
	s.workers.Add(1) // who calls is a worker
	go func() {
		defer s.workers.Done()
		for s.beginDrop(node) {
			if err := s.invalidate(node, 0, 0); err != nil {
				s.log.Debug("the kernel keeps what it has cached of a file whose key was refused", "node", node, "err", err)
			}
		}
	}()
}

// drop is how far the kernel has been told to drop the pages of a node.
type drop uint8

const (
	onceMore drop = iota // it is to be told
	underWay
)

// beginDrop says whether the kernel is to be told of node, once more; else nothing of it is noted any longer.
func (s *Server) beginDrop(node uint64) bool {
	s.dropMu.Lock()
	defer s.dropMu.Unlock()
	if s.drops[node] == underWay {
		delete(s.drops, node)
		return false
	}
	s.drops[node] = underWay
	return true
}

// notify writes a message that is no answer. ENOENT says that the kernel does not know the node: as good as done.
func (s *Server) notify(b []byte) error {
	if _, err := unix.Write(s.fd, b); err != nil && err != unix.ENOENT {
		return os.NewSyscallError("notify", err)
	}
	return nil
}

// now is the monotonic clock, in nanoseconds, read without a system call.
func (s *Server) now() int64 { return int64(time.Since(s.begun)) }
