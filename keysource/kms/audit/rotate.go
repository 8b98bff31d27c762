package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// rotate begins a new file if the present one is large enough. Only the writer calls it.
func (l *Log) rotate() {
	l.mu.Lock()
	due := l.cfg.MaxSize > 0 && l.size >= max(l.cfg.MaxSize, l.rotateAt) && l.broken == nil
	l.mu.Unlock()
	if !due {
		return
	}
	l.rotateAt = 0
	if err := l.replaceFile(); err != nil {
		l.rotateAt = l.size + spaceStep // or each line would try again
		l.cfg.Logger.Error("audit log cannot be rotated, the file stays", slog.String("path", l.cfg.Path), slog.Any("error", err))
	}
}

// replaceFile moves the file away, durably, and makes a new one. On an error the old one is still in use, with the space
// that it had.
func (l *Log) replaceFile() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	aside := rotatedName(l.cfg.Path, l.good)
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", aside, errors.Join(err, fs.ErrExist))
	}
	if err := l.f.Sync(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.broken = err // as in syncLater: what is in the file is not certain any more
		return fmt.Errorf("not durable, calls are refused until the server is started again: %w", err)
	}
	if err := os.Rename(l.cfg.Path, aside); err != nil {
		return err
	}
	f, err := l.cfg.open(l.cfg.Path)
	if err != nil {
		return errors.Join(err, os.Rename(aside, l.cfg.Path))
	}
	old, size := l.f, l.size
	if err := l.use(f); err != nil {
		return errors.Join(err, f.Close(), os.Rename(aside, l.cfg.Path))
	}
	// Only now: until then the space taken ahead is that of calls under way.
	return errors.Join(old.Truncate(size), old.Close())
}

// use goes on with an empty file. The calls that are under way and the lines that are pending keep their room.
func (l *Log) use(f file) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	need := l.reserved
	if l.pending != nil {
		need += int64(len(l.pending.lines))
	}
	space := max(spaceStep, need)
	switch err := f.Allocate(0, space); {
	case errors.Is(err, errors.ErrUnsupported):
		space = math.MaxInt64
	case err != nil:
		return err
	}
	l.f, l.size, l.allocated = f, 0, space
	return nil
}

// rotatedName is what the file is renamed to.
func rotatedName(path string, h Head) string { return fmt.Sprintf("%s.%020d", path, h.Sequence) }

// rotatedHead is the end of the newest file that was moved away, or the zero Head where there is none: for a log whose
// present file has no line yet.
func (l *Log) rotatedHead() (Head, error) {
	entries, err := os.ReadDir(filepath.Dir(l.cfg.Path))
	if err != nil {
		return Head{}, err
	}
	newest := ""
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(l.cfg.Path)+".")
		if ok && len(digits) == 20 && strings.Trim(digits, "0123456789") == "" && e.Type().IsRegular() {
			newest = max(newest, e.Name())
		}
	}
	if newest == "" {
		return Head{}, nil
	}
	path := filepath.Join(filepath.Dir(l.cfg.Path), newest)
	f, err := os.Open(path)
	if err != nil {
		return Head{}, err
	}
	defer f.Close()
	old := osFile{f}
	size, err := old.Size()
	if err != nil {
		return Head{}, err
	}
	head, end, err := readEnd(old, size)
	if err == nil && (end != size || rotatedName(l.cfg.Path, head) != path) {
		err = fmt.Errorf("it does not end with the line of its name: %w", ErrBroken)
	}
	if err != nil {
		return Head{}, fmt.Errorf("%s: %w", path, err)
	}
	return head, nil
}
