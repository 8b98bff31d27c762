package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/archive"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/mirror"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/view"
	"kmsfs/keysource"
)

// withPlain opens the vault at path and calls f with its plaintext. A vault that is mounted here is flushed first, so that
// what was written to the mount is seen; what is written meanwhile may not be, and may not open.
func (a *app) withPlain(ctx context.Context, s *storeFlags, path string, access vault.Access, f func(o *openedVault, root backing.Dir) error) (err error) {
	p, err := s.vaultPlan(path)
	if err != nil {
		return err
	}
	mounts := mountsOf(p.Vault)
	if access == vault.ReadOnly {
		for _, m := range mounts {
			if _, ro := m.has("ro"); ro {
				continue
			}
			if err := a.control(ctx, m, "flush", struct{}{}, func(json.RawMessage) error { return nil }); err != nil {
				fmt.Fprintf(a.stderr, "kmsfs: warning: %s could not be flushed: what was written there last may be missing: %s\n", m.Mountpoint, oneLine(err.Error()))
			}
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // little is alive at any time: a fifth less processor time
	o, err := a.openPlan(ctx, s, p, access)
	if err != nil {
		return err
	}
	defer o.closeInto(&err)
	root := view.Root(ctx, o.Vault)
	defer root.Close()
	err = f(o, root)
	switch {
	case errors.Is(err, vault.ErrCorrupt) && access == vault.ReadOnly && len(mounts) > 0:
		return hintf(err, "the vault is mounted on %s, and may be written to: try again, or read it there", quote(mounts[0].Mountpoint))
	case errors.Is(err, sidecar.ErrNoRecord) && keysource.Hint(err) == "":
		return hintf(err, importHint)
	}
	return err
}

// inVault is a path from the root of a vault, which may be named by its place on a mount of it: in full, so that what a path means
// does not depend on the working directory.
func inVault(o *openedVault, path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	return onlyPath(o.plan.Vault, path)
}

// find finds path in a vault.
func find(o *openedVault, root backing.Dir, path string) (tree.At, error) {
	at, err := tree.Find(root, inVault(o, path))
	return at, notFound(err, o.plan.Vault, path)
}

// notFound explains an error about a path in a vault.
func notFound(err error, vaultDir, path string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOENT):
		return hintf(faultf(syscall.ENOENT, "there is no %s in the vault %s", path, vaultDir), "kmsfs ls %s; paths are from the root of the vault", quote(vaultDir))
	case errors.Is(err, syscall.ENOTDIR):
		return hintf(faultf(syscall.ENOTDIR, "%s: something on the way is no directory", path), "symbolic links are not followed: name the place itself")
	}
	if path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// terminal says whether w is one.
func terminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// byteBar is a progress bar of bytes whose end is not known.
func byteBar(f *os.File) *progressbar.ProgressBar {
	return progressbar.NewOptions64(-1, progressbar.OptionSetWriter(f), progressbar.OptionShowBytes(true),
		progressbar.OptionSetElapsedTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

// meter shows on a terminal how a long work goes on, and tells of what failed. Its methods are safe for concurrent use.
type meter struct {
	a      *app
	mu     sync.Mutex
	bar    *progressbar.ProgressBar // nil where there is no terminal
	bytes  atomic.Int64
	failed atomic.Int64
	damage atomic.Bool // something failed because it is damaged
	noKey  atomic.Bool // something failed because its data key is lost
	began  time.Time
}

func (a *app) newMeter() *meter {
	m := &meter{a: a, began: time.Now()}
	if f, ok := terminal(a.stderr); ok {
		m.bar = byteBar(f)
	}
	return m
}

// add counts bytes.
func (m *meter) add(n int64) {
	total := m.bytes.Add(n)
	if m.bar != nil {
		m.mu.Lock()
		_ = m.bar.Set64(total)
		m.mu.Unlock()
	}
}

// line prints a line for people beside the bar.
func (m *meter) line(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
	fmt.Fprintf(m.a.stderr, format+"\n", args...)
}

// trouble tells of something that is left out.
func (m *meter) trouble(path string, err error) {
	m.failed.Add(1)
	switch {
	case check.KeyIsLost(err):
		m.noKey.Store(true)
	case check.IsDamage(err):
		m.damage.Store(true)
	}
	m.line("kmsfs: %s: %s", oneLine(path), oneLine(err.Error()))
}

// outcome is err, the end of a work that left something out, as damage where some of that was, and what to do.
func (m *meter) outcome(err error) error {
	switch {
	case !errors.Is(err, mirror.ErrIncomplete) && !errors.Is(err, archive.ErrIncomplete):
		return err
	case m.noKey.Load():
		return hintf(fmt.Errorf("%w: %w", err, sidecar.ErrNoRecord), importHint+"; restore all else that is named above from a backup; kmsfs verify finds all damage")
	case m.damage.Load():
		return hintf(fmt.Errorf("%w: %w", err, vault.ErrCorrupt), "restore what is named above from a backup; kmsfs verify finds all damage")
	}
	return hintf(err, "mend what is named above and run it again")
}

// importHint is what to do where data keys are lost.
const importHint = "kmsfs keys import VAULT FILE puts back lost data keys, from what kmsfs keys export has written"

// end takes the bar away.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}
