package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
)

// When each CMK was last used, in memory and, at most once in usageInterval, in a file of its own: the store itself does
// not change by being used. What a crash loses is at most the uses of the last interval.

// UsageName is the sealed file with the last use of each CMK.
const UsageName = "usage"

const (
	usageInterval = time.Minute
	usageMagic    = "kmsfs-us\x00\x01" // the last two bytes are the version
	usageHeader   = len(usageMagic) + saltSize
	maxUsageSize  = 64 << 20
	usageWait     = time.Second // for other processes, when the store is closed
	// usageGrain is how fine the time of uses without ids is, so that a busy store does not allocate at each.
	usageGrain = time.Second
)

// Use is one successful cryptographic use of a CMK.
type Use struct {
	// Operation is its name in AWS KMS.
	Operation string `json:"operation"`
	// Time is when it was.
	Time time.Time `json:"time"`
	// EventID and RequestID are those of its audit record and request, where a KMS server did it.
	EventID   string `json:"event,omitempty"`
	RequestID string `json:"request,omitempty"`
}

// usage is what was used when. The zero value is ready.
type usage struct {
	last sync.Map // of *atomic.Pointer[Use] by uuid
	// next is when to write the file next, in nanoseconds since 1970; 0 is that nothing is to be written.
	next atomic.Int64
	mu   sync.Mutex // held by who reads or writes the file

	failed bool // guarded by mu: writing the file has failed
}

// usageJSON is the content of the file.
type usageJSON struct {
	Since time.Time      `json:"since"`
	Keys  map[string]Use `json:"keys"`
}

// used notes a use of k, of which no ids are known.
func (s *Store) used(k *cmk, op string) {
	p := s.usage.of(k.id)
	now := s.now()
	if old := p.Load(); old == nil || old.Operation != op || now.Sub(old.Time).Abs() >= usageGrain {
		p.Store(&Use{Operation: op, Time: now})
		s.usage.next.CompareAndSwap(0, now.Add(usageInterval).UnixNano())
	}
}

// NoteUse says more of a use that the store has just noted: what a KMS server knows of it.
func (s *Store) NoteUse(keyID string, u Use) {
	if id, ok := parseUUID(keyID); ok {
		s.usage.of(id).Store(&u)
		s.usage.next.CompareAndSwap(0, u.Time.Add(usageInterval).UnixNano())
	}
}

// of is the place for the last use of a CMK.
func (u *usage) of(id uuid) *atomic.Pointer[Use] {
	if p, ok := u.last.Load(id); ok {
		return p.(*atomic.Pointer[Use])
	}
	p, _ := u.last.LoadOrStore(id, new(atomic.Pointer[Use]))
	return p.(*atomic.Pointer[Use])
}

// LastUse returns the last use of a CMK by any process, the zero Use where there is none on record, and since when there
// is a record. Uses by another process appear within a minute.
func (s *Store) LastUse(ctx context.Context, key keysource.KeyRef) (last Use, since time.Time, err error) {
	var id uuid
	var created time.Time
	err = s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find("GetKeyLastUsage", key)
		if err == nil {
			id, created = k.id, k.created
		}
		return err
	})
	if err != nil {
		return Use{}, time.Time{}, err
	}
	s.usage.mu.Lock()
	doc, err := s.readUsage()
	s.usage.mu.Unlock()
	if err != nil {
		return Use{}, time.Time{}, fmt.Errorf("GetKeyLastUsage: %w", err)
	}
	last = doc.Keys[id.String()]
	if u := s.usage.of(id).Load(); u != nil && !u.Time.Before(last.Time) {
		last = *u
	}
	if since = doc.Since; since.Before(created) {
		since = created
	}
	return last, since, nil
}

// flushUsage writes the file if it is time to, waiting for other processes at most so long. A failure costs a record,
// nothing more; only the first is worth a warning, as a key store may well be on a read-only disk.
func (s *Store) flushUsage(now time.Time, wait time.Duration) {
	next := s.usage.next.Load()
	if next == 0 || now.UnixNano() < next || !s.usage.mu.TryLock() {
		return
	}
	defer s.usage.mu.Unlock()
	s.usage.next.Store(0)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := s.writeUsage(ctx)
	if errors.Is(err, ErrLocked) {
		s.usage.next.CompareAndSwap(0, now.Add(usageInterval).UnixNano())
		return
	}
	if err != nil && !s.usage.failed {
		s.usage.failed = true
		s.cfg.Logger.Warn("key store: the record of last uses cannot be written", slog.String("path", s.usagePath()),
			slog.Any("error", err))
	}
}

// usagePath is where the file is.
func (s *Store) usagePath() string { return filepath.Join(s.cfg.Dir, UsageName) }

// writeUsage merges what this process knows into the file. The caller holds usage.mu.
func (s *Store) writeUsage(ctx context.Context) error {
	// A lock of its own: uses must not wait for an administrator.
	lock, err := lockFile(ctx, s.cfg.fsys, s.usagePath()+".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	doc, err := s.readUsage()
	if err != nil {
		return err
	}
	known := s.knownKeys()
	s.usage.last.Range(func(id, p any) bool {
		name, u := id.(uuid).String(), p.(*atomic.Pointer[Use]).Load()
		if u != nil && !u.Time.Before(doc.Keys[name].Time) {
			doc.Keys[name] = *u
		}
		return true
	})
	maps.DeleteFunc(doc.Keys, func(name string, _ Use) bool { return !known[name] })
	b, err := s.sealUsage(doc)
	if err != nil {
		return err
	}
	how := replaceOld
	if _, err := readFile(s.cfg.fsys, s.usagePath(), maxUsageSize); errors.Is(err, fs.ErrNotExist) {
		how = createNew
	}
	return writeDurable(s.cfg.fsys, s.usagePath(), b, how)
}

// knownKeys are the ids of all CMKs.
func (s *Store) knownKeys() map[string]bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	known := map[string]bool{}
	if s.snap != nil {
		for id := range s.snap.keys {
			known[id.String()] = true
		}
	}
	return known
}

// readUsage reads the file. A missing or damaged one is a record that begins now.
func (s *Store) readUsage() (usageJSON, error) {
	doc := usageJSON{Since: s.start.UTC().Round(0), Keys: map[string]Use{}}
	b, err := readFile(s.cfg.fsys, s.usagePath(), maxUsageSize)
	if errors.Is(err, fs.ErrNotExist) {
		return doc, nil
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		return doc, err
	}
	got, err := s.openUsage(b)
	if errors.Is(err, ErrDamaged) {
		s.cfg.Logger.Warn("key store: the record of last uses is damaged and begins anew", slog.String("path", s.usagePath()))
		return doc, nil
	}
	if err != nil {
		return doc, err
	}
	return got, nil
}

// sealUsage returns the file that holds doc.
func (s *Store) sealUsage(doc usageJSON) ([]byte, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	head := make([]byte, usageHeader, usageHeader+len(text)+tagSize)
	copy(head, usageMagic)
	if err := s.fillRandom(head[len(usageMagic):]); err != nil {
		return nil, err
	}
	key, err := s.deriveFromStoreKey(contextUsage, head[len(usageMagic):])
	if err != nil {
		return nil, err
	}
	defer clear(key[:])
	return sealOnce(&key, head, text, head[:usageHeader:usageHeader]), nil
}

// openUsage reads what sealUsage returned.
func (s *Store) openUsage(b []byte) (usageJSON, error) {
	if len(b) < usageHeader+tagSize || string(b[:len(usageMagic)]) != usageMagic {
		return usageJSON{}, damaged("the record of last uses")
	}
	key, err := s.deriveFromStoreKey(contextUsage, b[len(usageMagic):usageHeader])
	if err != nil {
		return usageJSON{}, err
	}
	defer clear(key[:])
	text, err := openOnce(&key, nil, b[usageHeader:], b[:usageHeader])
	if err != nil {
		return usageJSON{}, damaged("the record of last uses")
	}
	doc := usageJSON{}
	if err := json.Unmarshal(text, &doc); err != nil {
		return usageJSON{}, damaged("the record of last uses")
	}
	if doc.Keys == nil {
		doc.Keys = map[string]Use{}
	}
	return doc, nil
}
