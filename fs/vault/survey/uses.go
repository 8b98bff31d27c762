package survey

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sort"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
)

// Places where a CMK may be used.
const (
	InRecords   = "records"             // data keys in the key tables
	InVolumeKey = "volume key"          // wrappings in vault.json
	InNewFiles  = "CMK of new files"    // the key that vault.json names
	InZone      = "encryption zone"     // the key that a directory names
	InLeftover  = "left-over key table" // a file in .kmsfs/keys that is no table: of a replacement that was cut short
)

// Use is one kind of use of a CMK in a vault.
type Use struct {
	Place    string
	Count    int64
	Examples []string // file ids and tables, or stored paths; a few
}

// examplesMost is how many examples are given of each use.
const examplesMost = 5

// Match tells what counts as use.
type Match struct {
	// Wrapping tells whether a wrapping is by the CMK or key material in question. It is called by several goroutines.
	Wrapping func(w envelope.Wrapping) bool
	// Key tells whether a reference, as a zone or the config names it, means the CMK; an error where that cannot be told.
	Key func(ref string) (bool, error)
}

// Uses is what FindUses has found.
type Uses struct {
	Volume  envelope.VolumeID
	Records int64 // looked at
	Uses    []Use
	// Unproven is why it cannot be told that there is no other use: what is damaged or cannot be read.
	Unproven []string
}

// finder looks for uses.
type finder struct {
	m    Match
	mu   sync.Mutex
	uses map[string]*Use
	out  Uses
}

func (f *finder) use(place, example string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.uses[place]
	if u == nil {
		u = &Use{Place: place}
		f.uses[place] = u
	}
	u.Count++
	if len(u.Examples) < examplesMost {
		u.Examples = append(u.Examples, example)
	}
}

func (f *finder) unproven(path string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.out.Unproven) < problemsMost {
		f.out.Unproven = append(f.out.Unproven, path+": "+err.Error())
	}
}

func (f *finder) key(place, path, ref string) {
	is, err := f.m.Key(ref)
	if err != nil {
		f.unproven(path, err)
	} else if is {
		f.use(place, path)
	}
}

// FindUses looks for all that needs a CMK or key material in the vault in top: live, spare and orphaned records, the volume
// key, the CMKs of new files and of encryption zones, and what a replacement that was cut short has left. o chooses a shard
// of the key tables; shard 0 has all that is not in tables.
func FindUses(ctx context.Context, top backing.Dir, m Match, o sidecar.ScanOptions) (*Uses, error) {
	f := &finder{m: m, uses: map[string]*Use{}}
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return nil, err
	}
	f.out.Volume = cfg.Volume
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	sc, err := sidecar.Open(ctl, cfg.Volume)
	if err != nil {
		return nil, err
	}
	defer sc.Close()
	o.Parallel = runtime.GOMAXPROCS(0)
	if err := sc.Scan(ctx, o, f.part); err != nil {
		return nil, err
	}
	if o.Shard == 0 {
		if err := f.rest(ctx, top, ctl, cfg); err != nil {
			return nil, err
		}
	}
	for _, u := range f.uses {
		f.out.Uses = append(f.out.Uses, *u)
	}
	sort.Slice(f.out.Uses, func(i, j int) bool { return f.out.Uses[i].Place < f.out.Uses[j].Place })
	return &f.out, nil
}

func (f *finder) part(p *sidecar.Part) error {
	path := envelope.ControlDir + "/keys/" + envelope.TableName(p.Table)
	if p.Err != nil {
		f.unproven(path, p.Err)
		return nil
	}
	n := int64(0)
	for e := range p.Entries() {
		if e.Err != nil {
			f.unproven(path, e.Err)
			continue
		}
		n++
		f.record(InRecords, path, e.Record)
	}
	f.mu.Lock()
	f.out.Records += n
	f.mu.Unlock()
	return nil
}

func (f *finder) record(place, path string, r *envelope.Record) {
	for _, w := range r.Wrappings {
		if w.Kind == envelope.KindKeysource && f.m.Wrapping(w) { // kind 1 is under a key of the same record
			f.use(place, "file id "+r.ID.String()+" in "+path)
			return
		}
	}
}

// rest looks at what is in no table.
func (f *finder) rest(ctx context.Context, top, ctl backing.Dir, cfg *envelope.Config) error {
	f.config(cfg, "vault.json")
	if b, err := readAll(ctl, "vault.json.new", envelope.ConfigMax); err == nil {
		if c, err := envelope.ParseConfig(b); err == nil {
			f.config(c, "vault.json.new")
		} else {
			f.unproven("vault.json.new, which a crash has left and which may be removed", err)
		}
	} else if !errors.Is(err, syscall.ENOENT) {
		f.unproven("vault.json.new", err)
	}
	keys, err := ctl.OpenDir("keys")
	if err != nil {
		return err
	}
	defer keys.Close()
	if err := keys.ReadDir(func(e backing.Entry) bool {
		if _, ok := envelope.ParseTableName(e.Name); !ok {
			f.leftover(keys, e.Name)
		}
		return true
	}); err != nil {
		return err
	}
	r := &run{top: top, zones: map[string]uint16{}, links: map[[2]uint64]struct{}{}, only: dirsAlone}
	r.res.Config, r.res.Zones = cfg, []Zone{{}}
	if err := r.walk(ctx); err != nil {
		return err
	}
	for _, z := range r.res.Zones[1:] {
		f.key(InZone, z.Path, z.Key)
	}
	for _, p := range r.res.Problems {
		f.unproven(p.Path, errors.New(p.What))
	}
	return nil
}

func (f *finder) config(c *envelope.Config, path string) {
	for _, w := range c.Wrappings {
		if f.m.Wrapping(w) {
			f.use(InVolumeKey, path)
		}
	}
	f.key(InNewFiles, path, c.Key)
}

// leftover looks for records at every place of a file that is no key table, or no longer: whatever its slots were.
func (f *finder) leftover(keys backing.Dir, name string) {
	path := envelope.ControlDir + "/keys/" + name
	const most = 64 << 20
	b, err := readAll(keys, name, most)
	if err != nil {
		if !errors.Is(err, syscall.ENOENT) {
			f.unproven(path, err)
		}
		return
	}
	for off := 0; off+envelope.MinSlotSize <= len(b); off += envelope.MinSlotSize {
		if !bytes.HasPrefix(b[off:], []byte("KMR1")) {
			continue
		}
		err := envelope.ErrCorrupt
		for z := envelope.MinSlotSize; z <= envelope.MaxSlotSize && off+z <= len(b) && err != nil; z *= 2 {
			var r *envelope.Record
			if r, err = envelope.ParseRecord(b[off : off+z]); err == nil {
				f.record(InLeftover, path, r)
			}
		}
		if err != nil {
			f.unproven(path+", which may be removed while nothing writes to the vault", err)
		}
	}
}

// readAll reads a file whole; one of more than most bytes is refused.
func readAll(d backing.Dir, name string, most int64) ([]byte, error) {
	h, err := d.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size > most {
		return nil, syscall.EFBIG
	}
	b := make([]byte, st.Size)
	n, err := h.ReadAt(b, 0)
	return b[:n], err
}
