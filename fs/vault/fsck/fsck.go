// Package fsck finds what crashes, and tools without the key, leave in a vault that nobody has mounted, and mends it: records of no
// file, companions of no name, half-made directories, files that are not settled, key tables without a header, directories without
// an id, things that are in another place than kmsfs put them. It does not read what files hold: that is fs/vault/check's.
//
// Start with [Find] to look, [Repair] to mend. No content is ever deleted: what is misplaced goes to lost+found
// in the vault, and only files that hold nothing are removed. Mend may be killed at any moment, and done again.
package fsck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// Kind is what a finding is.
type Kind string

// The kinds that Mend does something about.
const (
	OrphanRecords   Kind = "orphan-records"   // of no file: in one key table
	OrphanCompanion Kind = "orphan-companion" // an empty file that held a part of a long name
	Leftover        Kind = "leftover"         // of something that was being replaced
	HalfMade        Kind = "half-made"        // a directory that never got its name, and has nothing in it
	TableHeader     Kind = "key-table-header" // damaged, and known from the rest of the table
	RecordBit       Kind = "record-bit"       // records of files in one key table, in each of which one bit is wrong
	Unsettled       Kind = "unsettled"        // a file as a crash has left it: it reads right
	Misplaced       Kind = "misplaced"        // its stored name does not open where it is
	LostDirectory   Kind = "lost-directory"   // without a valid id: the names in it cannot be known, their contents can
)

// The kinds that it does nothing about.
const (
	NoRecord Kind = "no-record" // a file whose data key is missing: kmsfs keys import may have it
	Damaged  Kind = "damaged"   // kmsfs verify --repair moves it aside
	Unread   Kind = "unread"    // it could not be looked at
	// OneKey: another stored file has the same id and data key: a copy that kept no hard links. Both read. A file that is copied on a
	// mount gets a key of its own.
	OneKey Kind = "one-key"
	// Foreign: it was put into the vault by something else than kmsfs, is not seen on a mount, and is left alone.
	Foreign Kind = "foreign"
)

// Finding is one thing.
type Finding struct {
	Kind   Kind   `json:"kind"`
	Stored string `json:"stored"`         // path in the vault
	Path   string `json:"path,omitempty"` // plaintext, "" where it is not known
	What   string `json:"what"`
	Err    error  `json:"-"`

	slots   []uint32        // of OrphanRecords
	records []sidecar.Found // of RecordBit
	tried   int             // of RecordBit: slots looked at
	table   uint64
	name    string // of Misplaced: what its stored name opens as without the directory, "" for nothing
}

// Mendable says whether Mend does something about it.
func (f *Finding) Mendable() bool {
	switch f.Kind {
	case NoRecord, Damaged, Unread, OneKey, Foreign:
		return false
	}
	return true
}

// Result is what Find has found.
type Result struct {
	Unclean     bool      `json:"unclean"` // the last mount that wrote did not end by an unmount
	Directories int64     `json:"directories"`
	Files       int64     `json:"files"`
	Records     int64     `json:"records"`
	Findings    []Finding `json:"findings"`
	// Unsure is why records of no file were not looked for: one may be needed by what could not be looked at or is damaged, and by a
	// vault that has no files at all, such as the state of a reverse mount or a copy of .kmsfs alone. "" where they were.
	Unsure string `json:"unsure,omitempty"`
}

// Options of Find.
type Options struct {
	// Progress is told of what was looked at, by several goroutines; nil: nobody is.
	Progress func(files int64)
	// Now is the time: records that are younger than a minute are of no crash, where the vault may be in use; zero: none is spared.
	Now time.Time
}

// spare is the age from which a record without a file belongs to nobody, where the vault is in use elsewhere.
const spare = time.Minute

// finder is one Find.
type finder struct {
	ctx context.Context
	top backing.Dir
	v   *vault.Vault
	o   Options
	sc  *sidecar.Sidecar

	waiting atomic.Int64 // entries of directories in the queue

	mu     sync.Mutex
	res    Result
	used   map[uint64]map[uint32]bool    // slots that files name, by table
	linked map[[2]uint64]bool            // files of several names that were looked at
	stored map[envelope.FileID][2]uint64 // the stored file of an id
	doubt  map[envelope.FileID]bool      // files whose header does not name a record of theirs
}

// Find looks at the vault in top, which is open as v; nobody else is to have it open.
func Find(ctx context.Context, top backing.Dir, v *vault.Vault, o Options) (*Result, error) {
	f := &finder{ctx: ctx, top: top, v: v, o: o, used: map[uint64]map[uint32]bool{}, linked: map[[2]uint64]bool{}, stored: map[envelope.FileID][2]uint64{}, doubt: map[envelope.FileID]bool{}}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	if f.sc, err = sidecar.Open(ctl, v.Config().Volume); errors.Is(err, syscall.ENOENT) {
		f.sc = sidecar.Empty(ctl, v.Config().Volume)
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", vault.ErrCorrupt, err)
	}
	defer f.sc.Close()
	root := v.Root()
	v.Refer(root)
	if err := walk.Run(ctx, walk.Workers(), []item{{node: root}}, func(q *walk.Queue[item]) (func(item) error, func()) {
		return func(i item) error { return f.look(q, i) }, nil
	}); err != nil {
		return nil, err
	}
	if err := f.aside(); err != nil {
		return nil, err
	}
	if err := f.control(ctl); err != nil {
		return nil, err
	}
	if err := f.tables(); err != nil {
		return nil, err
	}
	slices.SortFunc(f.res.Findings, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Stored, b.Stored), cmp.Compare(a.Kind, b.Kind)) })
	f.guess()
	if f.res.Findings == nil {
		f.res.Findings = []Finding{}
	}
	return &f.res, nil
}

// Unclean says whether the last mount of the vault in top that wrote to it did not end by an unmount. It is to be asked before
// the vault is opened for writing, which mends that.
func Unclean(top backing.Dir) (bool, error) {
	d, err := walk.Open(top, envelope.ControlDir+"/journal")
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	found := false
	err = d.ReadDir(func(backing.Entry) bool {
		found = true
		return false
	})
	return found, err
}

func (f *finder) add(x Finding) {
	f.mu.Lock()
	f.res.Findings = append(f.res.Findings, x)
	f.mu.Unlock()
}

// trouble notes what could not be looked at, or is damaged. What is there no more is neither.
func (f *finder) trouble(stored, plain string, err error) Kind {
	if errors.Is(err, syscall.ENOENT) && !errors.Is(err, vault.ErrCorrupt) {
		return ""
	}
	kind := Unread
	switch {
	case check.KeysourceFails(err):
	case errors.Is(err, vault.ErrNoKey), errors.Is(err, sidecar.ErrNoRecord):
		kind = NoRecord
	case errors.Is(err, vault.ErrCorrupt), errors.Is(err, envelope.ErrCorrupt):
		kind = Damaged
	}
	what := err
	var in *vault.FileError
	if errors.As(err, &in) {
		what = in.Err
	}
	if kind == Unread && !check.KeysourceFails(err) {
		f.miss(stored)
	}
	if !isAside(stored) {
		f.add(Finding{Kind: kind, Stored: stored, Path: plain, What: what.Error(), Err: err})
	}
	return kind
}

// miss notes that it is not known which record what is at stored needs: none is known to be nobody's.
func (f *finder) miss(stored string) {
	f.unsure("it cannot be told which record " + stored + " needs")
}

func (f *finder) unsure(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.res.Unsure == "" || why < f.res.Unsure {
		f.res.Unsure = why
	}
}

// use notes that a file names a record. Where that is not one of it, a record of its id is needed too.
func (f *finder) use(head envelope.Header, st *backing.Stat, path string, where place) {
	_, err := f.sc.Record(head.Loc, head.ID)
	loc, at := head.Loc, [2]uint64{st.Dev, st.Ino}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.doubt[head.ID] = true
	}
	if f.used[loc.Table] == nil {
		f.used[loc.Table] = map[uint32]bool{}
	}
	f.used[loc.Table][loc.Slot] = true
	if where == nested || where == apart { // it is not of the tree
		return
	}
	if first, ok := f.stored[head.ID]; !ok {
		f.stored[head.ID] = at
	} else if first != at {
		f.res.Findings = append(f.res.Findings, Finding{Kind: OneKey, Stored: path, What: fmt.Sprintf("another stored file is file %v too: the vault is a copy that kept no hard links", head.ID)})
	}
}

// seen says whether the file of st was looked at under another name.
func (f *finder) seen(st *backing.Stat) bool {
	if st.Nlink < 2 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := [2]uint64{st.Dev, st.Ino}
	again := f.linked[at]
	f.linked[at] = true
	return again
}

// guess notes what the names of misplaced things were. The parts of a long one may have stayed where it was.
func (f *finder) guess() {
	var orphans, here envelope.Companions
	dir := ""
	for i := range f.res.Findings {
		x := &f.res.Findings[i]
		if x.Kind != Misplaced {
			continue
		}
		up, entry := walk.Split(x.Stored)
		if !envelope.IsLongEntry(entry) {
			x.name = peekName(f.v, entry, "")
			continue
		}
		if orphans == nil {
			orphans = f.orphans()
		}
		if here == nil || dir != up {
			here, dir = companions(f.top, up), up
		}
		if x.name = peekName(f.v, entry, here.Cipher(entry)); x.name == "" {
			x.name = peekName(f.v, entry, orphans.Cipher(entry))
		}
	}
}

// orphans are the parts of long names that are nobody's. They are not nil.
func (f *finder) orphans() envelope.Companions {
	parts := envelope.Companions{}
	for _, x := range f.res.Findings {
		if x.Kind == OrphanCompanion {
			_, name := walk.Split(x.Stored)
			parts.Add(name)
		}
	}
	return parts
}

// companions are the parts of long names in a stored directory; none where it cannot be read. They are not nil.
func companions(top backing.Dir, dir string) envelope.Companions {
	parts := envelope.Companions{}
	d, err := walk.Open(top, dir)
	if err != nil {
		return parts
	}
	defer d.Close()
	d.ReadDir(func(e backing.Entry) bool {
		parts.Add(e.Name)
		return true
	})
	return parts
}

// peekName is what a stored name was in its directory, where that can be shown; "" for no name. It is not authentic.
func peekName(v *vault.Vault, entry, cipher string) string {
	name, err := v.PeekName(entry, cipher)
	if err != nil || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return ""
	}
	return name
}
