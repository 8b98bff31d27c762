package local

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
)

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
	switch {
	case errors.Is(err, ErrLocked):
		s.usage.next.CompareAndSwap(0, now.Add(usageInterval).UnixNano())
	case err != nil && !errors.Is(err, keysource.ErrClosed) && !s.usage.failed:
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
	path := s.usagePath() + ".lock"
	if err := createFor(s.cfg.fsys, path, s.usageOwner()); err != nil {
		return err
	}
	lock, err := lockFile(ctx, s.cfg.fsys, path)
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
	owner := s.usageOwner()
	if owner == "" {
		return writeDurable(s.cfg.fsys, s.usagePath(), b, how)
	}
	return writeDurableFor(s.cfg.fsys, s.usagePath(), owner, b, how)
}

// usageOwner is the file whose owner gets what is written here: root uses a user's key store without taking the record
// away from the user. Empty is who calls, as nobody else can give files away.
func (s *Store) usageOwner() string {
	if s.cfg.fsys.UserID() != 0 {
		return ""
	}
	return s.path
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
