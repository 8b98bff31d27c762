package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"kmsfs/keysource"
)

// update makes one change: under the file lock it reads the newest generation, lets change edit a clone, and writes
// the clone as the next generation. When it returns nil the change is durable and in use; after an error nothing has
// changed, but for ErrNotDurable.
func (s *Store) update(ctx context.Context, op string, change func(sn *snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.admin <- struct{}{}:
		defer func() { <-s.admin }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.closed { // written with s.admin held too
		return keysource.ErrClosed
	}
	lock, err := lockFile(ctx, s.cfg.fsys, filepath.Join(s.cfg.Dir, LockName))
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer lock.Close()
	return s.changeLocked(op, change)
}

// changeLocked makes one change. The caller has s.admin and the file lock.
func (s *Store) changeLocked(op string, change func(sn *snapshot) error) error {
	if err := s.reload(); err != nil {
		return fmt.Errorf("%s: %s: %w", op, s.path, err)
	}
	next := s.snap.clone()
	next.index()
	events, err := s.settle(next, s.now())
	if err == nil {
		err = change(next)
	}
	if errors.Is(err, errNoChange) && len(events) == 0 {
		return nil
	}
	if err != nil && !errors.Is(err, errNoChange) {
		next.wipeUnless(s.snap)
		return err
	}
	if err := s.save(next); err != nil {
		next.wipeUnless(s.snap)
		return fmt.Errorf("%s: %w", op, err)
	}
	s.publish(next)
	s.report(events)
	return nil
}

// errNoChange is how a change says that all is already as it should be.
var errNoChange = errors.New("no change")

// save writes next as the next generation. The caller has s.admin and the file lock.
func (s *Store) save(next *snapshot) error {
	next.index()
	next.header.generation++
	b, h, err := sealStore(next, s.storeKey, s.cfg.Rand)
	if err != nil {
		return err
	}
	if err := writeDurable(s.cfg.fsys, s.path, b, replaceOld); err != nil {
		return fmt.Errorf("write key store: %w", err)
	}
	next.header = h
	return nil
}

// ChangeMasterKey seals the store under another master key: a new passphrase, or a key file, which is made where it is
// missing. Processes that have the store open go on. The old passphrase or key file no longer opens the store, but
// still opens copies of the file from before, and whoever could open such a copy may have kept the store key.
func (s *Store) ChangeMasterKey(ctx context.Context, m Master) error {
	m, err := m.resolve(s.cfg.Dir)
	if err != nil {
		return err
	}
	// Before the lock is taken: a person may be typing a passphrase.
	storeKey, storeID, err := s.copyStoreKey()
	if err != nil {
		return err
	}
	defer clear(storeKey[:])
	l, err := lockStoreKey(ctx, s.cfg, m, storeID, &storeKey)
	if err != nil {
		return fmt.Errorf("ChangeMasterKey: %w", err)
	}
	return s.update(ctx, "ChangeMasterKey", func(sn *snapshot) error {
		sn.header.lock = l
		return nil
	})
}

// copyStoreKey returns the store key and the store id, neither of which ever changes. The caller wipes the key.
func (s *Store) copyStoreKey() (key [secretSize]byte, id [16]byte, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return key, id, keysource.ErrClosed
	}
	return *s.storeKey, s.snap.header.storeID, nil
}

// deriveFromStoreKey is a key for one thing that is sealed beside the store file. The caller wipes it.
func (s *Store) deriveFromStoreKey(context string, salt []byte) ([secretSize]byte, error) {
	storeKey, _, err := s.copyStoreKey()
	defer clear(storeKey[:])
	if err != nil {
		return [secretSize]byte{}, err
	}
	return derive(context, storeKey[:], salt), nil
}
