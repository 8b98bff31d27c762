package audit

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"kmsfs/keysource"
)

// DefaultSyncEvery is how long a line may wait to become durable where Config.SyncEvery is zero.
const DefaultSyncEvery = 100 * time.Millisecond

// ErrClosed: the log was closed.
var ErrClosed = errors.New("audit log is closed")

// Config says where the log is and how it is written. Path is needed; the zero value of all else is the default.
type Config struct {
	// Path is the file.
	Path string
	// SyncEvery is how long a line may wait to become durable after it is in the file, where it survives the end of the
	// process but not a power cut; 0 is DefaultSyncEvery. Negative: each line is durable before its call is answered;
	// lines that come at once share one sync.
	SyncEvery time.Duration
	// MaxSize is the size in bytes past which the file is renamed, to its name, a dot and the number of its last line in
	// 20 digits, and a new one begun; 0 is never.
	MaxSize int64
	// Clock dates the records of the log itself; nil is keysource.SystemClock.
	Clock keysource.Clock
	// Logger gets a line when writing fails; nil is none.
	Logger *slog.Logger

	// open opens a file; nil is the real disk. Tests put a failing one here.
	open func(path string) (file, error)
}

// Log is an open log. All methods are safe for concurrent use.
type Log struct {
	cfg Config

	// syncing is held while the file is synced or replaced. It comes before mu.
	syncing sync.Mutex

	mu        sync.Mutex
	f         file
	size      int64  // of what is written
	good      Head   // of what is written
	head      Head   // with what is pending
	pending   *batch // what the writer takes next
	writing   int64  // bytes that it has taken
	reserved  int64  // bytes of calls that are under way
	allocated int64  // up to here the file has its space
	broken    error  // why nothing can be written any more
	closed    bool

	rotateAt int64 // the size at which a change of files that failed is tried again; only the writer's

	wake  chan struct{} // there is something pending
	dirty chan struct{} // there is something to sync
	stop  chan struct{}
	tasks sync.WaitGroup
}

// batch is the lines that are written at once.
type batch struct {
	lines []byte
	head  Head
	done  chan struct{} // closed when err is set
	err   error
}

// Open opens the log at cfg.Path, made where it is missing, and takes up the chain where it ended. A last line that a
// crash cut short is cut off, and a record of that is written. A log whose end was changed is ErrBroken, one that another
// process writes ErrInUse.
func Open(cfg Config) (*Log, error) {
	if cfg.SyncEvery == 0 {
		cfg.SyncEvery = DefaultSyncEvery
	}
	if cfg.Clock == nil {
		cfg.Clock = keysource.SystemClock{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.open == nil {
		cfg.open = openFile
	}
	f, err := cfg.open(cfg.Path)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, f: f, wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1), stop: make(chan struct{})}
	torn, err := l.resume()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	l.tasks.Go(l.write)
	if cfg.SyncEvery > 0 {
		l.tasks.Go(l.syncLater)
	}
	if torn != nil {
		if err := l.recordTorn(torn); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Head is the end of what is written.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.good
}

// Ready returns why the log cannot be written, or nil.
func (l *Log) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable()
}

// usable is Ready for who holds mu.
func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	return l.broken
}

// Close writes what is pending, makes it durable, gives back the space taken ahead, and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	l.tasks.Wait()
	return errors.Join(l.f.Truncate(l.size), l.f.Sync(), l.f.Close())
}

// append adds a record to the pending lines and waits until it is written.
func (l *Log) append(r *Reservation, record []byte) error {
	l.mu.Lock()
	r.release()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return err
	}
	b := l.pending
	if b == nil {
		b = &batch{done: make(chan struct{})}
		l.pending = b
	}
	b.lines, b.head = l.head.appendLine(b.lines, record)
	l.head = b.head
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	<-b.done
	return b.err
}

// write is the goroutine that writes.
func (l *Log) write() {
	for {
		select {
		case <-l.wake:
			l.flush()
		case <-l.stop:
			l.flush()
			return
		}
	}
}

// flush writes all that is pending.
func (l *Log) flush() {
	for {
		l.mu.Lock()
		b, off := l.pending, l.size
		l.pending = nil
		if b != nil {
			l.writing = int64(len(b.lines))
		}
		l.mu.Unlock()
		if b == nil {
			return
		}
		_, err := l.f.WriteAt(b.lines, off)
		var broken error
		if err == nil && l.cfg.SyncEvery < 0 {
			err = l.f.Sync()
			broken = err
		}
		l.finish(b, off, err, broken)
		l.rotate()
	}
}

// finish notes how the write of b went, and tells who waits for it.
func (l *Log) finish(b *batch, off int64, err, broken error) {
	l.mu.Lock()
	l.writing = 0
	failed := []*batch{b}
	if err == nil {
		l.size += int64(len(b.lines))
		l.good = b.head
	} else {
		// What follows in the chain cannot be written either: it names b's lines.
		if l.pending != nil {
			failed = append(failed, l.pending)
			l.pending = nil
		}
		l.head = l.good
		if broken != nil {
			l.broken = broken
		}
		_ = l.f.Truncate(off) // a torn line; if that fails too, the next write covers it or the next Open cuts it
		l.allocated = min(l.allocated, off)
		_ = l.allocate(off + l.reserved) // cutting gave back the room of calls under way; without it their lines may fail too
		l.cfg.Logger.Error("audit log cannot be written: calls are refused", slog.String("path", l.cfg.Path), slog.Any("error", err))
	}
	l.mu.Unlock()
	for _, b := range failed {
		b.err = err
		close(b.done)
	}
	if err == nil && l.cfg.SyncEvery > 0 {
		select {
		case l.dirty <- struct{}{}:
		default:
		}
	}
}

// syncLater is the goroutine that makes lines durable.
func (l *Log) syncLater() {
	for {
		select {
		case <-l.dirty:
		case <-l.stop:
			return
		}
		select {
		case <-time.After(l.cfg.SyncEvery):
		case <-l.stop:
			return
		}
		l.syncing.Lock()
		err := l.f.Sync()
		l.syncing.Unlock()
		if err == nil {
			continue
		}
		// The kernel tells of a failed write once and then forgets it: what is in the file is not certain any more.
		l.mu.Lock()
		l.broken = err
		l.mu.Unlock()
		l.cfg.Logger.Error("audit log cannot be made durable: calls are refused until the server is started again",
			slog.String("path", l.cfg.Path), slog.Any("error", err))
		return
	}
}
