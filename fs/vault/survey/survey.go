// Package survey counts what of a vault stands under which CMK and key material: records, files and bytes, by encryption
// zone. It reads the sidecar and the tree as they are on the disk, asks no keysource and needs no volume key, so that nothing
// of what it says is authentic: it is for looking, not for deciding whom to trust.
//
// Start with [Run]. The vault may be mounted meanwhile; what is made or removed during the run may or may not count.
package survey

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"sync"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// Scope says what to look at.
type Scope uint8

// The two scopes.
const (
	Everything Scope = iota // the sidecar and the tree
	TablesOnly              // the sidecar alone: no files, bytes and zones
)

// Wrapping is what is known of one wrapping of a data key, without its bytes.
type Wrapping struct {
	KeyARN        string
	KeyMaterialID string // "" where the keysource told none
	Branch        bool   // by a branch key, which the CMK has wrapped
}

// Count is how much there is of something.
type Count struct {
	Records int64 // data keys
	Files   int64
	Bytes   int64 // of plaintext
}

func (c *Count) add(o Count) {
	c.Records += o.Records
	c.Files += o.Files
	c.Bytes += o.Bytes
}

// Class is the data keys that have the same wrappings, the first of which is the one that is tried first.
type Class struct {
	Wrappings []Wrapping
	Count
}

// Zone is an encryption zone, the root's first.
type Zone struct {
	Path    string // of the stored names, "" for the root
	Key     string // its CMK as it was named
	Count          // Records is those of its files
	Classes map[int]Count
}

// Problem is something that is not as it should be.
type Problem struct {
	Path string // of the stored names in the vault
	What string
}

// problemsMost is how many problems are told one by one.
const problemsMost = 1000

// Result is what Run has found.
type Result struct {
	Config  *envelope.Config // not verified
	Tables  int
	Classes []Class
	Zones   []Zone // without the tree: the root's alone, with no counts
	Spare   int64  // records that no file names: of a mount's stock, deleted and not yet erased, or left by a crash
	Empty   int64  // files that hold nothing and have no key
	Missing int64  // files whose record is not there, erased, or another file's
	// BranchKeys is how many different branch keys wrap data keys.
	BranchKeys int
	Damaged    int64 // records and tables that cannot be read
	Unread     int64 // files and directories that could not be looked at
	Problems   []Problem
}

// table is what is kept of one key table: 6 bytes a slot, and what tells whose record it is.
type table struct {
	class []uint16 // 1 + the index, by slot; 0: no record
	who   []uint64 // the first half of the file id
	zone  []uint16 // 1 + the index of the zone of the file that names it; guarded by a lock of run
}

// extent says what of the tree is looked at.
type extent uint8

const (
	filesToo  extent = iota
	dirsAlone        // for their zones
)

// slotsMost bounds the slots of one table, of which kmsfs uses 2048: what is kept of a table is as large as its last slot.
const slotsMost = 1 << 21

// run is one survey.
type run struct {
	only  extent
	visit func(Stored) // nil: files are counted

	top backing.Dir
	geo envelope.Geometry

	mu       sync.Mutex
	res      Result
	classes  map[string]uint16
	zones    map[string]uint16 // by path
	branches map[string]struct{}
	tables   map[uint64]*table
	links    map[[2]uint64]struct{} // inodes of several names that were counted
}

// ErrTooMany is returned for a vault with more kinds of wrappings, or zones, than can be counted.
var ErrTooMany = errors.New("survey: more than 65000 zones or kinds of wrappings")

// Run surveys the vault in top.
func Run(ctx context.Context, top backing.Dir, scope Scope) (*Result, error) {
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return nil, err
	}
	geo, err := envelope.NewGeometry(cfg.ChunkSize)
	if err != nil {
		return nil, err
	}
	r := &run{top: top, geo: geo, classes: map[string]uint16{}, zones: map[string]uint16{}, tables: map[uint64]*table{},
		branches: map[string]struct{}{}, links: map[[2]uint64]struct{}{}}
	r.res.Config = cfg
	r.res.Zones = []Zone{{Key: cfg.Key, Classes: map[int]Count{}}}
	if err := r.scan(ctx); err != nil {
		return nil, err
	}
	r.res.BranchKeys = len(r.branches)
	if scope == Everything {
		if err := r.walk(ctx); err != nil {
			return nil, err
		}
		for _, t := range r.tables {
			for i, c := range t.class {
				if c != 0 && t.zone[i] == 0 {
					r.res.Spare++
				}
			}
		}
	}
	sort.Slice(r.res.Problems, func(i, j int) bool { return r.res.Problems[i].Path < r.res.Problems[j].Path })
	return &r.res, nil
}

// problem notes something for people. r.mu is held.
func (r *run) problem(path, what string) {
	if len(r.res.Problems) < problemsMost {
		r.res.Problems = append(r.res.Problems, Problem{path, what})
	}
}

// scan reads the key tables.
func (r *run) scan(ctx context.Context) error {
	ctl, err := r.top.OpenDir(envelope.ControlDir)
	if err != nil {
		return err
	}
	defer ctl.Close()
	sc, err := sidecar.Open(ctl, r.res.Config.Volume)
	if err != nil {
		return err
	}
	defer sc.Close()
	return sc.Scan(ctx, sidecar.ScanOptions{Parallel: runtime.GOMAXPROCS(0)}, r.part)
}

// part takes in a part of a table.
func (r *run) part(p *sidecar.Part) error {
	path := envelope.ControlDir + "/keys/" + envelope.TableName(p.Table)
	var entries []sidecar.Entry // parsed before the lock is taken
	if p.Err == nil {
		for e := range p.Entries() {
			entries = append(entries, e)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tables[p.Table]
	if t == nil {
		t = &table{}
		r.tables[p.Table] = t
		r.res.Tables++
	}
	if p.Err != nil {
		r.res.Damaged++
		r.problem(path, p.Err.Error())
		return nil
	}
	for _, e := range entries {
		if e.Err != nil {
			r.res.Damaged++
			r.problem(path, e.Err.Error())
			continue
		}
		if e.Loc.Slot >= slotsMost {
			r.res.Damaged++
			r.problem(path, fmt.Sprintf("slot %d is beyond what a key table has", e.Loc.Slot))
			continue
		}
		c, err := r.classOf(e.Record)
		if err != nil {
			return err
		}
		for int(e.Loc.Slot) >= len(t.class) {
			n := max(2*len(t.class), 64)
			t.class = append(t.class, make([]uint16, n-len(t.class))...)
			t.who = append(t.who, make([]uint64, n-len(t.who))...)
			t.zone = append(t.zone, make([]uint16, n-len(t.zone))...)
		}
		t.class[e.Loc.Slot], t.who[e.Loc.Slot] = c, half(e.Record.ID)
		r.res.Classes[c-1].Records++
	}
	return nil
}

func half(id envelope.FileID) uint64 {
	var n uint64
	for _, b := range id[:8] {
		n = n<<8 | uint64(b)
	}
	return n
}

// classOf returns 1 + the index of the class of a record. r.mu is held.
func (r *run) classOf(rec *envelope.Record) (uint16, error) {
	var name []byte
	ws := make([]Wrapping, 0, 1)
	for _, w := range rec.Wrappings {
		if w.Kind != envelope.KindKeysource {
			continue
		}
		id, branch := keysource.BranchOf(w.Blob)
		if branch {
			r.branches[id] = struct{}{}
		}
		ws = append(ws, Wrapping{w.KeyARN, w.KeyMaterialID, branch})
		name = append(append(append(name, w.KeyARN...), 0), w.KeyMaterialID...)
		if branch {
			name = append(name, 'b')
		}
		name = append(name, 0)
	}
	if c, ok := r.classes[string(name)]; ok {
		return c, nil
	}
	if len(r.res.Classes) >= 65000 {
		return 0, ErrTooMany
	}
	r.res.Classes = append(r.res.Classes, Class{Wrappings: ws})
	c := uint16(len(r.res.Classes))
	r.classes[string(name)] = c
	return c, nil
}
