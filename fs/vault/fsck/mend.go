package fsck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
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

	name  string // of dir
	moved string // path in the vault of where what is replaced is kept

	mu  sync.Mutex
	all []Mended
}

// settleAtOnce is how many files are held to be settled.
const settleAtOnce = 256

// rounds is how often Repair looks and mends: what was mended may show more, such as the files that are in a directory that has an id
// again.
const rounds = 8

// Repair finds and mends, until there is nothing more to be mended, in the vault in top that is open for writing as v, by nobody else.
// What it returns of findings is what is left. What was done before an error, or a kill, stays done.
func Repair(ctx context.Context, top backing.Dir, v *vault.Vault, o Options) (left *Result, did []Mended, err error) {
	for range rounds {
		if left, err = Find(ctx, top, v, o); err != nil {
			return left, did, err
		}
		some, err := Mend(ctx, top, v, left.Findings)
		did = append(did, some...)
		if err != nil || !slices.ContainsFunc(some, func(m Mended) bool { return m.shows() }) {
			done := map[[2]string]bool{}
			for _, m := range some {
				done[[2]string{string(m.Kind), m.Stored}] = true
			}
			left.Findings = slices.DeleteFunc(left.Findings, func(f Finding) bool { return done[[2]string{string(f.Kind), f.Stored}] })
			return left, did, err
		}
	}
	left, err = Find(ctx, top, v, o)
	return left, did, err
}

// shows says whether what was done about f may show other findings, or take them away.
func (f *Finding) shows() bool {
	switch f.Kind {
	case OrphanRecords, OrphanCompanion, Leftover, HalfMade, Unsettled:
		return false
	}
	return true
}

// Mend does something about findings, of the vault in top that is open for writing as v, by nobody else. What cannot be mended for an
// error of the disk does not keep the rest from it; the answer has all such errors. What was done before an error, or a kill, stays
// done, and all of it is durable when Mend returns without an error.
func Mend(ctx context.Context, top backing.Dir, v *vault.Vault, findings []Finding) ([]Mended, error) {
	if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Mendable() }) {
		return nil, nil
	}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	m := &mender{ctx: ctx, top: top, v: v, moved: walk.Join(damagedDir, time.Now().UTC().Format("20060102T150405.000000000Z"))}
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
	var errs []error
	var loose []Finding
	for _, f := range findings {
		if err := ctx.Err(); err != nil {
			return m.all, err
		}
		if f.Kind == Unsettled {
			loose = append(loose, f)
		} else if err := m.mend(f); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.Stored, err))
		}
	}
	for some := range slices.Chunk(loose, settleAtOnce) {
		errs = append(errs, m.settle(some))
	}
	errs = append(errs, v.Flush(), top.SyncFS())
	if err := errors.Join(errs...); err != nil {
		return m.all, err
	}
	return m.all, v.DropHeld()
}

func (m *mender) done(f Finding, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, Mended{f, what})
}

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
	case HalfMade:
		if err := m.removeDir(f.Stored); err != nil {
			return err
		}
		m.done(f, "removed")
	case TableHeader:
		n, err := m.sc.MendHeader(f.table)
		if err == nil && n > 0 {
			m.done(f, "made anew; the old table is kept beside it")
		}
		return err
	case RecordBit:
		left, err := m.sc.Restore(envelope.TableHeader{ID: f.table, Volume: m.v.Config().Volume}, f.records)
		if err == nil && len(left) == 0 {
			m.done(f, "put right")
		}
		return err
	case Misplaced:
		return m.adopt(f, f.name)
	case LostDirectory:
		return m.rescue(f)
	}
	return nil
}

// settle settles files, many at once: each may need its key. One that cannot be is told of by kmsfs verify.
func (m *mender) settle(some []Finding) error {
	var did []Finding
	err := walk.Run(m.ctx, walk.Workers(), slices.Clone(some), func(*walk.Queue[Finding]) (func(Finding) error, func()) {
		return func(f Finding) error {
			n, err := m.node(f.Stored)
			if err != nil {
				return gone(err) // or moved by what was mended before
			}
			defer m.v.Forget(n, 1)
			err = m.v.Settle(m.ctx, n)
			if errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrNoKey) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", f.Stored, err)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			did = append(did, f)
			return nil
		}, nil
	})
	err = errors.Join(err, m.v.Flush())
	if err == nil {
		for _, f := range did {
			m.done(f, "settled")
		}
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
			if n, _, err = m.v.Mkdir(m.v.Root(), m.name, 0o700, vault.Caller{}); err == nil {
				err = m.top.SyncFS() // not every file system keeps the order of what goes into it
			}
		}
		if err != nil {
			return nil, err
		}
		if ok, err := m.isWhole(n); err != nil {
			m.v.Forget(n, 1)
			return nil, err
		} else if ok {
			m.dir = n
		} else {
			m.v.Forget(n, 1)
		}
	}
	return m.dir, nil
}

// isWhole says whether n is a directory in which names can be made.
func (m *mender) isWhole(n *vault.Node) (bool, error) {
	if n.Kind() != syscall.S_IFDIR {
		return false, nil
	}
	err := m.v.List(n, func(vault.DirEntry, error) bool { return false })
	if errors.Is(err, vault.ErrCorrupt) {
		return false, nil
	}
	return err == nil, err
}

// adopt moves something whose name does not open to lost+found, under the name that it had, or one that tells what it is.
func (m *mender) adopt(f Finding, name string) error {
	up, entry := walk.Split(f.Stored)
	from, err := walk.Open(m.top, up)
	if err != nil {
		return gone(err)
	}
	defer from.Close()
	to, err := m.adoptFrom(from, entry, name)
	if err == nil {
		m.done(f, "moved to "+to)
	}
	return gone(err)
}

// adoptFrom is adopt of entry in a stored directory. It returns the path in the vault's plaintext.
func (m *mender) adoptFrom(from backing.Dir, entry, name string) (to string, err error) {
	dir, err := m.lostFound()
	if err != nil {
		return "", err
	}
	if name != "" {
		to, err := m.adoptAs(from, entry, dir, name, 100)
		if !errors.Is(err, syscall.EEXIST) && !errors.Is(err, envelope.ErrNameTooLong) {
			return to, err
		}
	}
	if name, err = strangerName(from, entry); err != nil {
		return "", err
	}
	return m.adoptAs(from, entry, dir, name, 10000)
}

// adoptAs gives entry a name in dir, with a number after it where it is taken; there are tries of them.
func (m *mender) adoptAs(from backing.Dir, entry string, dir *vault.Node, name string, tries int) (to string, err error) {
	for i := range tries {
		try := name
		if i > 0 {
			try = fmt.Sprintf("%s.%d", name, i+1)
		}
		to = path.Join(m.name, try)
		if err = m.v.Adopt(from, entry, dir, try); !errors.Is(err, syscall.EEXIST) {
			break
		}
	}
	return to, err
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
		b, err := readFile(d, entry, envelope.HeaderSize)
		if err != nil {
			return "", err
		}
		if h, err := envelope.ParseHeader(b); err == nil {
			return fmt.Sprintf("file-%v", h.ID), nil
		}
		return fmt.Sprintf("file-inode-%d", st.Ino), nil
	case syscall.S_IFDIR:
		return fmt.Sprintf("directory-inode-%d", st.Ino), nil
	case syscall.S_IFLNK:
		return fmt.Sprintf("symlink-inode-%d", st.Ino), nil
	}
	return fmt.Sprintf("inode-%d", st.Ino), nil
}

// rescue mends a directory whose id is lost. Where something tells it, that is all. Else what is in it of the vault goes to lost+found,
// and it gets another id; the old file and the companions are kept aside. What else is in it stays.
func (m *mender) rescue(f Finding) error {
	d, err := walk.Open(m.top, f.Stored)
	if err != nil {
		return gone(err)
	}
	defer d.Close()
	file, zone, err := m.v.RecoverDirID(d)
	if err != nil {
		return err
	}
	if ok, err := m.v.HasDirID(d); err != nil || ok && file == nil {
		return err
	}
	if file != nil {
		if err := m.keepAside(d, f.Stored, isDirFile); err != nil {
			return err
		}
		if err := m.v.SetDirID(d, file); err != nil {
			return err
		}
		done := "its id was told by what is left of it and the names in it; the old file is kept in " + m.moved
		if zone {
			done += "; whether it was an encryption zone is not known"
		}
		m.done(f, done)
		return nil
	}
	var parts envelope.Companions
	var names []string
	if err := d.ReadDir(func(e backing.Entry) bool {
		parts.Add(e.Name)
		if envelope.IsSealedName(e.Name) {
			names = append(names, e.Name)
		}
		return true
	}); err != nil {
		return err
	}
	n := 0
	for _, name := range names {
		_, err := m.adoptFrom(d, name, peekName(m.v, name, parts.Cipher(name)))
		if gone(err) != nil {
			return err
		}
		if err == nil {
			n++
		}
	}
	if err := m.keepAside(d, f.Stored, func(name string) bool {
		_, _, _, ok := envelope.ParseCompanion(name)
		return ok || isDirFile(name)
	}); err != nil {
		return err
	}
	if err := m.v.SetDirID(d, nil); err != nil {
		return err
	}
	m.done(f, fmt.Sprintf("it has another id; %d things that were in it are in %s, what was left of the old id is kept in %s", n, cmp.Or(m.name, LostFound), m.moved))
	return nil
}

// isDirFile says whether a name is that of a directory's id file, or of what was to take its place.
func isDirFile(name string) bool {
	return name == envelope.DirFileName || name == envelope.DirFileName+".new"
}

// keepAside keeps what is in a stored directory and has such a name in .kmsfs/damaged, as kmsfs verify --repair does. The id file stays
// too: until another takes its place it may tell the id.
func (m *mender) keepAside(d backing.Dir, stored string, is func(name string) bool) error {
	var names []string
	if err := d.ReadDir(func(e backing.Entry) bool {
		if is(e.Name) {
			names = append(names, e.Name)
		}
		return true
	}); err != nil || len(names) == 0 {
		return err
	}
	to, err := check.MakeDirs(m.top, walk.Join(m.moved, stored))
	if err != nil {
		return err
	}
	defer to.Close()
	if err := m.top.SyncFS(); err != nil {
		return err
	}
	for _, name := range names {
		if isDirFile(name) && isFile(d, name) {
			if err = d.Link(name, to, name); err != nil && !errors.Is(err, syscall.EEXIST) { // no hard links there
				err = backing.CopyFile(to, name, d, name)
			}
		} else {
			err = d.Rename(name, to, name, vault.RenameNoReplace)
		}
		if gone(err) != nil {
			return err
		}
	}
	return to.Sync()
}

// removeDir removes a directory that holds nothing but reserved names.
func (m *mender) removeDir(stored string) error {
	up, name := walk.Split(stored)
	d, err := walk.Open(m.top, up)
	if err != nil {
		return gone(err)
	}
	defer d.Close()
	return gone(m.v.RemoveUnnamed(d, name))
}
