package fsck

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// LostFound is the directory in the root of a vault that gets what is misplaced.
const LostFound = "lost+found"

// Mended is what was done about a finding.
type Mended struct {
	Finding
	Done string `json:"done"`
}

// mender is one Mend.
type mender struct {
	ctx context.Context
	top backing.Dir
	v   *vault.Vault
	sc  *sidecar.Sidecar
	dir *vault.Node // lost+found, with a reference; nil until needed
	all []Mended

	name string // of dir
}

// settleAtOnce is how many files are held to be settled.
const settleAtOnce = 256

// Mend does something about findings, of the vault in top that is open for writing as v, by nobody else. What was done before an
// error, or a kill, stays done, and all of it is durable when Mend returns without an error.
func Mend(ctx context.Context, top backing.Dir, v *vault.Vault, findings []Finding) ([]Mended, error) {
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	m := &mender{ctx: ctx, top: top, v: v}
	if m.sc, err = sidecar.Open(ctl, v.Config().Volume); err != nil {
		return nil, err
	}
	defer m.sc.Close()
	defer func() {
		if m.dir != nil {
			v.Forget(m.dir, 1)
		}
	}()
	if err := top.SyncFS(); err != nil { // a power cut must not bring back a file, or a header, whose record is erased
		return nil, err
	}
	held := 0
	for _, f := range findings {
		if err := ctx.Err(); err != nil {
			return m.all, err
		}
		if err := m.mend(f); err != nil {
			return m.all, fmt.Errorf("%s: %w", f.Stored, err)
		}
		if f.Kind == Unsettled {
			if held++; held%settleAtOnce == 0 {
				if err := v.Flush(); err != nil {
					return m.all, err
				}
			}
		}
	}
	if err := v.Flush(); err != nil {
		return m.all, err
	}
	return m.all, top.SyncFS()
}

func (m *mender) done(f Finding, what string) { m.all = append(m.all, Mended{f, what}) }

// mend does something about one finding.
func (m *mender) mend(f Finding) error {
	switch f.Kind {
	case OrphanRecords:
		var locs []envelope.Locator
		for _, slot := range f.slots {
			locs = append(locs, envelope.Locator{Table: f.table, Slot: slot})
		}
		left, err := m.sc.Zero(locs, func(uint64) bool { return false })
		if err == nil && len(left) == 0 {
			m.done(f, "erased")
		}
		return err
	case OrphanCompanion, Leftover:
		if err := remove(m.top, f.Stored); err != nil {
			return err
		}
		m.done(f, "removed")
	case TableHeader:
		n, err := m.sc.MendHeader(f.table)
		if err == nil && n > 0 {
			m.done(f, "made anew; the old table is kept beside it")
		}
		return err
	case Unsettled:
		return m.settle(f)
	case Misplaced:
		return m.adopt(f, f.Stored)
	case LostDirectory:
		return m.rescue(f, f.Stored)
	}
	return nil
}

// settle settles a file. One that cannot be is told of by kmsfs verify.
func (m *mender) settle(f Finding) error {
	n, err := m.node(f.Stored)
	if err != nil {
		return nil // gone, or moved by what was mended before
	}
	defer m.v.Forget(n, 1)
	err = m.v.Settle(m.ctx, n)
	if errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrNoKey) {
		return nil
	}
	if err == nil {
		m.done(f, "settled")
	}
	return err
}

// node finds what has a stored path, with a reference.
func (m *mender) node(stored string) (*vault.Node, error) {
	n := m.v.Root()
	m.v.Refer(n)
	for part := range strings.SplitSeq(stored, "/") {
		next, _, err := m.v.LookupStored(n, part)
		m.v.Forget(n, 1)
		if err != nil {
			return nil, err
		}
		n = next
	}
	return n, nil
}

// lostFound is the directory of that name in the root of the vault, which is made where it is missing; with a number after it where
// the name is that of something else.
func (m *mender) lostFound() (*vault.Node, error) {
	for i := 1; m.dir == nil; i++ {
		if m.name = LostFound; i > 1 {
			m.name = fmt.Sprintf("%s.%d", LostFound, i)
		}
		n, _, err := m.v.Lookup(m.v.Root(), m.name)
		if errors.Is(err, syscall.ENOENT) {
			n, _, err = m.v.Mkdir(m.v.Root(), m.name, 0o700, vault.Caller{})
		}
		if err != nil {
			return nil, err
		}
		if n.Kind() == syscall.S_IFDIR {
			m.dir = n
		} else {
			m.v.Forget(n, 1)
		}
	}
	return m.dir, nil
}

// adopt moves something whose name is not known to lost+found, under a name that tells what it is.
func (m *mender) adopt(f Finding, stored string) error {
	up, entry := walk.Split(stored)
	from, err := walk.Open(m.top, up)
	if err != nil {
		return gone(err)
	}
	defer from.Close()
	dir, err := m.lostFound()
	if err != nil {
		return err
	}
	name, err := strangerName(from, entry)
	if err != nil {
		return gone(err)
	}
	for i := 1; ; i++ {
		try := name
		if i > 1 {
			try = fmt.Sprintf("%s.%d", name, i)
		}
		err := m.v.Adopt(from, entry, dir, try)
		if errors.Is(err, syscall.EEXIST) && i < 10000 {
			continue
		}
		if err == nil {
			f.Stored = stored
			m.done(f, "moved to "+path.Join(m.name, try))
		}
		return gone(err)
	}
}

// gone is err, but for what is there no more.
func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// strangerName tells what something is by its id, or its inode.
func strangerName(d backing.Dir, entry string) (string, error) {
	st, err := d.StatAt(entry)
	if err != nil {
		return "", err
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		f, err := d.Open(entry, syscall.O_RDONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		var b [envelope.HeaderSize]byte
		if n, err := f.ReadAt(b[:], 0); err == nil {
			if h, err := envelope.ParseHeader(b[:n]); err == nil {
				return fmt.Sprintf("file-%v", h.ID), nil
			}
		}
		return fmt.Sprintf("file-inode-%d", st.Ino), nil
	case syscall.S_IFDIR:
		return fmt.Sprintf("directory-inode-%d", st.Ino), nil
	case syscall.S_IFLNK:
		return fmt.Sprintf("symlink-inode-%d", st.Ino), nil
	}
	return fmt.Sprintf("inode-%d", st.Ino), nil
}

// rescue moves all that is in a directory without an id to lost+found. What stays, an empty directory, is kmsfs verify's.
func (m *mender) rescue(f Finding, stored string) error {
	d, err := walk.Open(m.top, stored)
	if err != nil {
		return gone(err)
	}
	defer d.Close()
	var names []string
	if err := d.ReadDir(func(e backing.Entry) bool {
		if !envelope.IsReserved(e.Name) {
			names = append(names, e.Name)
		}
		return true
	}); err != nil {
		return err
	}
	for _, name := range names {
		sub := walk.Join(stored, name)
		if st, err := d.StatAt(name); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			if h, err := d.OpenDir(name); err == nil {
				_, err := vault.PeekZone(h)
				h.Close()
				if err != nil { // no id either
					if err := m.rescue(f, sub); err != nil {
						return err
					}
					continue
				}
			}
		}
		if err := m.adopt(f, sub); err != nil {
			return err
		}
	}
	return nil
}
