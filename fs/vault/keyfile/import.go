package keyfile

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sort"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/survey"
)

// ImportOptions is how to import. The zero value does all that can be done.
type ImportOptions struct {
	DryRun bool // write nothing
	// Volume says that the vault is that of this id, where it does not say so itself: its config is lost, and no file names
	// a record of the key file.
	Volume envelope.VolumeID
	// Now is the clock, for the name that a damaged config gets; nil: time.Now.
	Now func() time.Time
}

// ConfigState says what Import has done with vault.json.
type ConfigState string

// The states of the config.
const (
	ConfigKept    ConfigState = "kept"             // it was whole
	ConfigPut     ConfigState = "put in"           // it was missing
	ConfigDamaged ConfigState = "put in, old kept" // it was damaged, and is under another name now
)

// Imported is what Import has done.
type Imported struct {
	Head    Head
	Config  ConfigState
	Files   int64           // that have a data key
	Records int64           // put in
	Tables  int64           // made or replaced
	Missing []survey.Stored // files whose record is still not there
	// Unread is how many files and directories could not be looked at, Problems which, the first of them.
	Unread   int64
	Problems []survey.Problem
	Damaged  []Damage // what of the key file could not be read
}

// importer is one import.
type importer struct {
	ImportOptions
	top, ctl backing.Dir // ctl is nil while there is none
	lock     backing.File
	sc       *sidecar.Sidecar // nil while there are no key tables
	k        *Reader
	here     *index
	found    *files
	missing  map[uint64]map[uint32][]survey.Stored // by table and slot
	done     Imported
}

// Import puts the vault in top right from the key file in r: it puts in the records that files of the vault name and that
// are missing, erased, damaged or another's there, at their own places, and the config where it is missing or damaged. All
// else stays as it is. Nobody may have the vault open for writing: vault.ErrLocked. Where the key file is damaged or cut short,
// what is whole of it is put in, and there is an error beside what was done.
func Import(ctx context.Context, top backing.Dir, r io.Reader, o ImportOptions) (*Imported, error) {
	k, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	i := &importer{ImportOptions: o, top: top, k: k, here: newIndex(maphash.MakeSeed())}
	i.done.Head = k.Head
	defer i.close()
	if err := i.begin(ctx); err != nil {
		return nil, err
	}
	damage := k.Tables(ctx, i.table)
	if damage != nil && !errors.Is(damage, envelope.ErrCorrupt) {
		return nil, damage
	}
	if err := i.config(); err != nil {
		return nil, errors.Join(err, damage)
	}
	i.report()
	return &i.done, damage
}

func (i *importer) close() {
	if i.sc != nil {
		i.sc.Close()
	}
	if i.lock != nil {
		i.lock.Close()
	}
	if i.ctl != nil {
		i.ctl.Close()
	}
}

// begin looks at what is there, and keeps others out.
func (i *importer) begin(ctx context.Context) (err error) {
	if i.ctl, err = control(i.top); err != nil {
		return err
	}
	if i.done.Config, err = i.configNow(); err != nil {
		return err
	}
	if i.ctl != nil {
		if err := i.alone(); err != nil {
			return err
		}
		i.sc, err = sidecar.Open(i.ctl, i.k.Volume())
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
		if err != nil {
			i.sc = nil
		} else if err := tablesOf(ctx, i.sc, i.here.add); err != nil {
			return err
		}
	}
	if i.found, err = look(ctx, i.top, i.here); err != nil {
		return err
	}
	i.missing = map[uint64]map[uint32][]survey.Stored{}
	for _, s := range i.found.lacking[0] {
		if _, another := i.found.used[s.Head.Loc]; another { // the record there is in use: two files name one place
			continue
		}
		t := i.missing[s.Head.Loc.Table]
		if t == nil {
			t = map[uint32][]survey.Stored{}
			i.missing[s.Head.Loc.Table] = t
		}
		t[s.Head.Loc.Slot] = append(t[s.Head.Loc.Slot], s)
	}
	return nil
}

// configNow says what is to be done with the config.
func (i *importer) configNow() (ConfigState, error) {
	cfg, err := vault.ReadConfig(i.top)
	switch {
	case errors.Is(err, vault.ErrNotVault):
		return ConfigPut, nil
	case errors.Is(err, envelope.ErrCorrupt):
		return ConfigDamaged, nil
	case err != nil:
		return "", err
	case cfg.Volume != i.k.Volume():
		return "", fmt.Errorf("%w: the vault is volume %s, the key file of volume %s", ErrOtherVault, cfg.Volume, i.k.Volume())
	}
	return ConfigKept, nil
}

// alone takes the vault's lock.
func (i *importer) alone() (err error) {
	if i.DryRun || i.lock != nil {
		return nil
	}
	if i.lock, err = vault.LockAlone(i.ctl); err != nil {
		return err
	}
	return ownLike(i.lock, i.ctl)
}

// table puts in what files name of one table.
func (i *importer) table(t Table) error {
	if t.Err != nil {
		i.done.Damaged = append(i.done.Damaged, Damage{Path: tablePrefix + envelope.TableName(t.Header.ID), What: t.Err.Error()})
		return nil
	}
	wanted := i.missing[t.Header.ID]
	var records []sidecar.Found
	for e := range t.Part.Entries() {
		if e.Err != nil {
			i.done.Damaged = append(i.done.Damaged, Damage{Path: tablePrefix + envelope.TableName(t.Header.ID), What: e.Err.Error()})
			continue
		}
		for _, s := range wanted[e.Loc.Slot] {
			if s.Head.ID == e.Record.ID {
				records = append(records, sidecar.Found{Slot: e.Loc.Slot, Record: e.Record})
				break
			}
		}
	}
	if len(records) == 0 {
		return nil
	}
	var left []uint32
	if !i.DryRun {
		if err := i.prepare(); err != nil {
			return err
		}
		var err error
		if left, err = i.sc.Restore(t.Header, records); err != nil {
			return fmt.Errorf("key table %s: %w", envelope.TableName(t.Header.ID), err)
		}
	}
	i.done.Tables++
	for _, r := range records {
		if len(left) > 0 && left[0] == r.Slot {
			left = left[1:]
			continue
		}
		i.done.Records++
		i.here.at[envelope.Locator{Table: t.Header.ID, Slot: r.Slot}] = mark{id: r.Record.ID}
	}
	return nil
}

// prepare makes what is missing of .kmsfs, but for the config.
func (i *importer) prepare() (err error) {
	if i.sc != nil {
		return nil
	}
	if i.ctl == nil {
		if err := mkdirLike(i.top, envelope.ControlDir); err != nil {
			return err
		}
		if i.ctl, err = i.top.OpenDir(envelope.ControlDir); err != nil {
			return err
		}
	}
	if err := i.alone(); err != nil {
		return err
	}
	for _, name := range []string{"keys", "tmp"} {
		if err := mkdirLike(i.ctl, name); err != nil {
			return err
		}
	}
	if err := errors.Join(i.ctl.Sync(), i.top.Sync()); err != nil {
		return err
	}
	i.sc, err = sidecar.Open(i.ctl, i.k.Volume())
	return err
}

// config puts the config in, where that is to be done. It comes last: without it there is no vault yet, and with it there is
// all of what could be had.
func (i *importer) config() error {
	if i.done.Config == ConfigKept {
		return nil
	}
	if len(i.here.at) == 0 && i.Volume != i.k.Volume() {
		return fmt.Errorf("%w, perhaps: its config is missing, and no file of it names a record of the key file of volume %s", ErrOtherVault, i.k.Volume())
	}
	if i.DryRun {
		return nil
	}
	if err := i.prepare(); err != nil {
		return err
	}
	b, err := i.k.Config.Remarshal()
	if err != nil {
		return err
	}
	return i.sc.Locked(func() error {
		state, err := i.configNow() // while nobody changes it
		if err != nil || state == ConfigKept {
			return err
		}
		if state == ConfigDamaged {
			kept := "vault.json.damaged-" + i.Now().UTC().Format("20060102T150405Z")
			if err := i.ctl.Rename("vault.json", i.ctl, kept, vault.RenameNoReplace); err != nil {
				return fmt.Errorf("keep the damaged vault.json as %s: %w", kept, err)
			}
		}
		return vault.WriteConfig(i.ctl, b)
	})
}

// report says what is still missing.
func (i *importer) report() {
	i.done.Files, i.done.Unread, i.done.Problems = i.found.count, i.found.unread, i.found.problems
	i.done.Missing = stillThere(i.top, i.found.lacking[0], func(s survey.Stored) bool {
		if i.here.has(s) || i.sc == nil {
			return i.here.has(s)
		}
		_, err := i.sc.Reread(s.Head.Loc, s.Head.ID) // of a table whose header was mended
		return err == nil
	})
	sort.Slice(i.done.Missing, func(a, b int) bool { return i.done.Missing[a].Path < i.done.Missing[b].Path })
}

// mkdirLike makes a directory, which is the owner's of the one that it is in; one that is there stays as it is.
func mkdirLike(d backing.Dir, name string) error {
	if err := d.Mkdir(name, 0o700); errors.Is(err, syscall.EEXIST) {
		return nil
	} else if err != nil {
		return err
	}
	made, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	defer made.Close()
	return ownLike(made, d)
}

// ownLike gives m the owner of the directory that it is in, where this process may.
func ownLike(m backing.Meta, in backing.Dir) error {
	want, err := in.Stat()
	if err != nil {
		return err
	}
	st, err := m.Stat()
	if err != nil || st.UID == want.UID && st.GID == want.GID {
		return err
	}
	err = m.Chown(want.UID, want.GID)
	if errors.Is(err, syscall.EPERM) && st.UID == want.UID {
		return nil
	}
	return err
}
