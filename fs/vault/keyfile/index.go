package keyfile

import (
	"context"
	"errors"
	"hash/maphash"
	"sort"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/survey"
)

// Source is where records come from: a [Reader], or a vault by [OpenVault].
type Source interface {
	// Volume is the vault's id.
	Volume() envelope.VolumeID
	// VaultConfig is the vault's config, not verified.
	VaultConfig() *envelope.Config
	// Tables calls f for each table or part of one.
	Tables(ctx context.Context, f func(Table) error) error
}

// Volume is the id of the vault whose keys the file holds.
func (k *Reader) Volume() envelope.VolumeID { return k.Head.Volume }

// VaultConfig is Config.
func (k *Reader) VaultConfig() *envelope.Config { return k.Config }

// inVault is the sidecar of a vault as a Source.
type inVault struct {
	ctl backing.Dir
	sc  *sidecar.Sidecar
	cfg *envelope.Config
}

// OpenVault makes the sidecar of the vault in top a Source; closing it leaves top open.
func OpenVault(top backing.Dir) (_ Source, closing func(), err error) {
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return nil, nil, err
	}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, nil, err
	}
	sc, err := sidecar.Open(ctl, cfg.Volume)
	if err != nil {
		ctl.Close()
		return nil, nil, err
	}
	return &inVault{ctl, sc, cfg}, func() { sc.Close(); ctl.Close() }, nil
}

func (v *inVault) Volume() envelope.VolumeID     { return v.cfg.Volume }
func (v *inVault) VaultConfig() *envelope.Config { return v.cfg }

func (v *inVault) Tables(ctx context.Context, f func(Table) error) error {
	return tablesOf(ctx, v.sc, f)
}

// tablesOf reads the tables of a sidecar, one at a time.
func tablesOf(ctx context.Context, sc *sidecar.Sidecar, f func(Table) error) error {
	return sc.Scan(ctx, sidecar.ScanOptions{}, func(p *sidecar.Part) error {
		return f(Table{Header: envelope.TableHeader{ID: p.Table, SlotSize: uint32(p.SlotSize), Created: p.Created}, Part: p, Err: p.Err})
	})
}

// mark is what is kept of a record: whose it is, and what tells whether another is the same.
type mark struct {
	id   envelope.FileID
	body uint64 // of what a rewrap leaves alone
	wrap uint64 // of the wrappings
}

// index is the whole records of a source.
type index struct {
	seed    maphash.Seed
	at      map[envelope.Locator]mark
	damaged []Damage
}

func newIndex(seed maphash.Seed) *index {
	return &index{seed: seed, at: map[envelope.Locator]mark{}}
}

// add takes in a table.
func (x *index) add(t Table) error {
	name := tablePrefix + envelope.TableName(t.Header.ID)
	if t.Err != nil {
		x.damaged = append(x.damaged, Damage{Path: name, What: t.Err.Error()})
		return nil
	}
	for e := range t.Part.Entries() {
		if e.Err != nil {
			x.damaged = append(x.damaged, Damage{Path: name, What: e.Err.Error()})
			continue
		}
		const body, wrappings = 8, 84 // behind the used length, and where the wrappings begin
		x.at[e.Loc] = mark{e.Record.ID, maphash.Bytes(x.seed, e.Raw[body:wrappings]),
			maphash.Bytes(x.seed, e.Raw[wrappings:e.Record.MarshaledSize()])}
	}
	return nil
}

// has tells whether the record that a file names is there.
func (x *index) has(s survey.Stored) bool {
	m, ok := x.at[s.Head.Loc]
	return ok && m.id == s.Head.ID
}

// files are the stored files of a vault that have a data key, held against indexes.
type files struct {
	mu       sync.Mutex
	count    int64
	lacking  [][]survey.Stored // by index, those whose record is not there
	used     map[envelope.Locator]struct{}
	unread   int64
	problems []survey.Problem
}

// look walks the tree.
func look(ctx context.Context, top backing.Dir, in ...*index) (*files, error) {
	f := &files{lacking: make([][]survey.Stored, len(in)), used: map[envelope.Locator]struct{}{}}
	var err error
	f.unread, f.problems, err = survey.Files(ctx, top, func(s survey.Stored) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.count++
		for i, x := range in {
			if x.has(s) {
				if i == 0 {
					f.used[s.Head.Loc] = struct{}{}
				}
				continue
			}
			f.lacking[i] = append(f.lacking[i], s)
		}
	})
	for _, l := range f.lacking {
		sort.Slice(l, func(i, j int) bool { return l[i].Path < l[j].Path })
	}
	return f, err
}

// stillThere leaves out of list what is gone since, or has its record by now, as the tree and has say.
func stillThere(top backing.Dir, list []survey.Stored, has func(survey.Stored) bool) []survey.Stored {
	var left []survey.Stored
	for _, s := range list {
		now, ok, err := survey.File(top, s.Path)
		switch {
		case err != nil:
			left = append(left, s)
		case ok && !has(now):
			left = append(left, now)
		}
	}
	return left
}

// control opens .kmsfs; nil where there is none.
func control(top backing.Dir) (backing.Dir, error) {
	ctl, err := top.OpenDir(envelope.ControlDir)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	return ctl, err
}
