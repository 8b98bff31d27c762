package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"kmsfs/keysource"
)

// replacing says whether writeDurable may replace a file.
type replacing int

// The ways of writing.
const (
	createNew replacing = iota
	replaceOld
)

// writeDurable writes a file aside, makes it durable, reads it back and renames it into place, with the owner of the
// file that it replaces. On an error the old file stands, but for ErrNotDurable: then the new one does, for now. Its
// directory is ours and two writers of one name exclude each other with a lock.
func writeDurable(fsys fileSystem, path string, data []byte, how replacing) error {
	owner := ""
	if how == replaceOld {
		owner = path
	}
	return writeDurableFor(fsys, path, owner, data, how)
}

// writeDurableFor is writeDurable with the owner of the file named owner; empty is who calls.
func writeDurableFor(fsys fileSystem, path, owner string, data []byte, how replacing) error {
	aside := path + newSuffix
	// What a crash left behind.
	if err := fsys.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeAside(fsys, owner, aside, data); err != nil {
		_ = fsys.Remove(aside)
		return err
	}
	rename := fsys.Rename
	if how == createNew {
		rename = fsys.RenameNew
	}
	if err := rename(aside, path); err != nil {
		_ = fsys.Remove(aside)
		return err
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	return nil
}

// writeAside writes data to the new file aside, durably, and reads it back.
func writeAside(fsys fileSystem, owner, aside string, data []byte) (err error) {
	f, err := fsys.Create(aside)
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			_ = f.Close()
		}
	}()
	if owner != "" {
		if err := copyOwner(fsys, owner, f); err != nil {
			return err
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	closed = true
	if err := f.Close(); err != nil {
		return err
	}
	got, err := readFile(fsys, aside, len(data))
	if err != nil {
		return err
	}
	defer clear(got)
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%s does not read back as it was written", aside)
	}
	return nil
}

// createFor makes an empty file with the owner of the file named owner, unless there is one; an empty owner is who calls. One
// that is there keeps its owner: in a user's directory it may be a link to anything.
func createFor(fsys fileSystem, path, owner string) error {
	f, err := fsys.Create(path)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner != "" {
		err = copyOwner(fsys, owner, f)
	}
	return errors.Join(err, f.Close())
}

// copyOwner gives f the owner of the file at path, so that root can change a user's key store without taking it away
// from the user.
func copyOwner(fsys fileSystem, path string, f file) error {
	old, err := fsys.Open(path, refuseLinks)
	if err != nil {
		return err
	}
	defer old.Close()
	want, err := old.Stat()
	if err != nil {
		return err
	}
	have, err := f.Stat()
	if err != nil {
		return err
	}
	if have.uid == want.uid && have.gid == want.gid {
		return nil
	}
	return f.Chown(want.uid, want.gid)
}

// readFile reads a regular file of at most limit bytes.
func readFile(fsys fileSystem, path string, limit int) ([]byte, error) {
	f, err := fsys.Open(path, refuseLinks)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.mode.IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, damaged("%s is longer than %d bytes", path, limit)
	}
	return b, nil
}

// makeDir makes dir and its missing parents, durably.
func makeDir(fsys fileSystem, dir string) error {
	err := fsys.Mkdir(dir)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeDir(fsys, filepath.Dir(dir)); err != nil {
			return err
		}
		err = fsys.Mkdir(dir)
	}
	if err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

// lockFile waits for the lock of the store until ctx ends.
func lockFile(ctx context.Context, fsys fileSystem, path string) (io.Closer, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		lock, err := fsys.TryLock(path)
		if !errors.Is(err, errBusy) {
			return lock, err
		}
		// Real time: the other process does not know of a test's clock.
		if err := (keysource.SystemClock{}).Sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLocked, err)
		}
	}
}
