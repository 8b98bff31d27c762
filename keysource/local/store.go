package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
)

// Store is an open key store. All methods are safe for concurrent use, also beside other processes and other Stores
// on the same directory.
type Store struct {
	cfg      Config
	path     string // of the store file
	storeKey *[secretSize]byte
	scratch  scratchPool
	start    time.Time
	// nextCheck is when the file is to be looked at again, in nanoseconds since start: a difference of two readings of
	// the clock, so that setting the clock of the machine does not matter.
	nextCheck atomic.Int64

	// due is when something next happens by itself, in nanoseconds since 1970; see due.go.
	due atomic.Int64

	usage usage

	// admin is a mutex that a context can leave: who has put a value in reloads or changes the store.
	admin       chan struct{}
	settleAfter time.Time // guarded by admin: not to be tried before, after a failure

	mu     sync.RWMutex // guards snap, and the key material in it against being wiped
	snap   *snapshot
	closed bool
}

var _ keysource.Keysource = (*Store)(nil)

// Create makes a key store in cfg.Dir, with one CMK, DefaultAlias, and opens it. The directory is made where it is
// missing, and so is the key file, durably, before the store. A store that is there, in whatever state, is
// keysource.ErrAlreadyExists and stays untouched.
func Create(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	if err := makeDir(cfg.fsys, cfg.Dir); err != nil {
		return nil, fmt.Errorf("key store directory: %w", err)
	}
	s := newStore(cfg)
	lock, err := lockFile(ctx, cfg.fsys, filepath.Join(cfg.Dir, LockName))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	switch f, err := cfg.fsys.Open(s.path, refuseLinks); {
	case err == nil:
		_ = f.Close()
		return nil, errStoreExists(s.path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, errors.Join(errStoreExists(s.path), err)
	}
	if err := s.create(ctx); err != nil {
		s.wipe()
		return nil, err
	}
	return s, nil
}

// errStoreExists is Create's refusal.
func errStoreExists(path string) error {
	return &keysource.Error{Op: "Create", Code: keysource.CodeAlreadyExists, Kind: keysource.ErrAlreadyExists,
		Message: path + " exists already"}
}

// create fills s and writes the first generation. The caller holds the file lock.
func (s *Store) create(ctx context.Context) error {
	sn := &snapshot{account: s.cfg.AccountID, region: s.cfg.Region, keys: map[uuid]*cmk{}, aliases: map[string]*alias{}}
	sn.header.generation = 1
	if err := errors.Join(s.fillRandom(s.storeKey[:]), s.fillRandom(sn.header.storeID[:])); err != nil {
		return err
	}
	now := s.now()
	k, err := s.newCMK(sn, keysource.ManagerAWS, keysource.CreateKeyInput{
		Description: "Default key of kmsfs, made on the user's behalf"}, now)
	if err != nil {
		return err
	}
	sn.aliases[DefaultAlias] = &alias{DefaultAlias, k.id, now, now}
	sn.index()
	if sn.header.lock, err = lockStoreKey(ctx, s.cfg, s.cfg.Master, sn.header.storeID, s.storeKey); err != nil {
		return err
	}
	b, h, err := sealStore(sn, s.storeKey, s.cfg.Rand)
	if err != nil {
		return err
	}
	err = writeDurable(s.cfg.fsys, s.path, b, createNew)
	if errors.Is(err, fs.ErrExist) {
		return errStoreExists(s.path)
	}
	if err != nil {
		return fmt.Errorf("create key store: %w", err)
	}
	sn.header = h
	s.snap = sn
	s.due.Store(sn.dueNanos())
	return nil
}

// Open opens the key store in cfg.Dir. Where there is none the error is fs.ErrNotExist; a store that is empty, cut
// short or changed is ErrDamaged; a wrong passphrase or key file ErrMasterKey; a key file that others can read
// ErrInsecure. Nothing is written.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	s := newStore(cfg)
	b, err := s.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, keysource.WithHint(fmt.Errorf("no key store: %w", err), "name another directory, or make a store there")
	}
	if err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	if len(b) != headerSize+int(h.bodySize) { // before a slow and needless question for the passphrase
		return nil, fmt.Errorf("%s: %w", s.path,
			damaged("the file has %d bytes instead of %d", len(b), headerSize+int(h.bodySize)))
	}
	if s.storeKey, err = unlockStoreKey(ctx, cfg, h); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	if s.snap, err = openStore(b, s.storeKey); err != nil {
		s.wipe()
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	s.due.Store(s.snap.dueNanos())
	return s, nil
}

// newStore returns a Store without content.
func newStore(cfg Config) *Store {
	return &Store{
		cfg: cfg, path: filepath.Join(cfg.Dir, StoreName), storeKey: new([secretSize]byte),
		start: cfg.Clock.Now(), admin: make(chan struct{}, 1),
	}
}

// read reads the store file and makes sure that it is durable before anybody uses what is in it: another process
// may have died, or be busy, between its rename and its fsync of the directory, and data keys wrapped by key material
// that a power cut then takes back would be lost.
func (s *Store) read() ([]byte, error) {
	b, err := readFile(s.cfg.fsys, s.path, headerSize+maxBodySize)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.fsys.SyncDir(s.cfg.Dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	return b, nil
}

// Close wipes the store from memory, after noting last uses that are not in their file yet. It waits for calls that are
// under way; the store file is not touched.
func (s *Store) Close() error {
	if next := s.usage.next.Load(); next > 0 {
		s.flushUsage(time.Unix(0, next), usageWait)
	}
	s.admin <- struct{}{}
	defer func() { <-s.admin }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wipe()
	return nil
}

// wipe forgets all secrets. Nobody may be using them.
func (s *Store) wipe() {
	clear(s.storeKey[:])
	if s.snap != nil {
		s.snap.wipeUnless(nil)
		s.snap = nil
	}
}

// fillRandom fills b.
func (s *Store) fillRandom(b []byte) error {
	if _, err := io.ReadFull(s.cfg.Rand, b); err != nil {
		return &keysource.Error{Code: keysource.CodeInternal, Kind: keysource.ErrUnavailable, Message: "random bytes",
			Err: err}
	}
	return nil
}

// now is the time as it is stored: in UTC, without the reading of the monotonic clock.
func (s *Store) now() time.Time { return s.cfg.Clock.Now().UTC().Round(0) }

// Format implements fmt.Formatter: a Store never shows its secrets.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "key store "+s.path) }
