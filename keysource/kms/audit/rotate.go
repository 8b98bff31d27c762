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
	due := l.cfg.MaxSize > 0 && l.size >= l.cfg.MaxSize && l.broken == nil
	l.mu.Unlock()
	if !due {
		return
	}
	if err := l.replaceFile(); err != nil {
		l.cfg.Logger.Error("audit log cannot be rotated, going on with the file", slog.String("path", l.cfg.Path), slog.Any("error", err))
	}
}

// replaceFile moves the file away, durably, and makes a new one. On an error the old one is still in use.
func (l *Log) replaceFile() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	aside := rotatedName(l.cfg.Path, l.good)
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", aside, errors.Join(err, fs.ErrExist))
	}
	if err := errors.Join(l.f.Truncate(l.size), l.f.Sync()); err != nil {
		return err
	}
	if err := os.Rename(l.cfg.Path, aside); err != nil {
		return err
	}
	f, err := l.cfg.open(l.cfg.Path)
	if err != nil {
		return errors.Join(err, os.Rename(aside, l.cfg.Path))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	space := max(spaceStep, l.reserved) // the calls that are under way keep their room
	err = f.Allocate(0, space)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return errors.Join(err, f.Close(), os.Rename(aside, l.cfg.Path))
	}
	if err != nil {
		space = math.MaxInt64
	}
	old := l.f
	l.f, l.size, l.allocated = f, 0, space
	return old.Close()
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
