package vault_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// thing is a file, directory or symbolic link, known by its inode number, with all that it may be after a power cut: what
// it has been since it was last synced, the synced state first.
type thing struct {
	kind     uint32
	target   string              // of a symbolic link
	was      [][]byte            // contents
	synced   bool                // when there was something in it
	attrs    map[string][]string // extended attributes; "" is none
	modes    []uint32
	links    int
	anchored bool // it has been durable, with a durable way to it, and has had a name ever since
	// Of a directory.
	names map[string]uint64   // now
	since map[string][]uint64 // 0 is nothing
	zones []string
}

func (o *thing) data() []byte { return o.was[len(o.was)-1] }

func (o *thing) becomes(data []byte) {
	o.was = append(o.was, data)
	o.synced = o.synced && len(data) > 0 // one truncation, of which the crash here may keep the pages alone
}

// stands returns what name may stand for.
func (o *thing) stands(name string) []uint64 {
	if s := o.since[name]; len(s) > 0 {
		return s
	}
	return []uint64{0}
}

// world is a vault in use, and the model of it. A snapshot of it has no vault.
type world struct {
	v      *vault.Vault
	r      *rand.Rand
	mu     sync.Mutex // for the hook, which is called by whoever works for the vault
	things map[uint64]*thing
	root   uint64
	fresh  uint64 // stands for what is being made, whose number is not known
	steps  []string
}

// pending begins the numbers of what is being made.
const pending = uint64(1) << 63

// snapshot copies the model. w.mu is held.
func (w *world) snapshot() *world {
	n := &world{things: map[uint64]*thing{}, root: w.root, steps: slices.Clone(w.steps)}
	for ino, o := range w.things {
		c := *o
		c.was, c.modes, c.zones, c.names = slices.Clone(o.was), slices.Clone(o.modes), slices.Clone(o.zones), maps.Clone(o.names)
		c.attrs, c.since = map[string][]string{}, map[string][]uint64{}
		for k, x := range o.attrs {
			c.attrs[k] = slices.Clone(x)
		}
		for k, x := range o.since {
			c.since[k] = slices.Clone(x)
		}
		n.things[ino] = &c
	}
	return n
}

// change changes the model.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) note(format string, args ...any) {
	w.change(func() { w.steps = append(w.steps, fmt.Sprintf(format, args...)) })
}

// bind makes name in dir stand for ino, 0: for nothing. w.mu is held.
func (w *world) bind(dir uint64, name string, ino uint64) {
	d := w.things[dir]
	if was := d.names[name]; was != 0 {
		if o := w.things[was]; o.links == 1 {
			o.links, o.anchored = 0, false
		} else {
			o.links--
		}
	}
	d.since[name] = append(slices.Clone(d.stands(name)), ino)
	if delete(d.names, name); ino != 0 {
		d.names[name] = ino
		w.things[ino].links++
	}
}

// makes notes that something is being made under name, and returns what is to be called with its number.
func (w *world) makes(dir uint64, name string, o *thing) (made func(ino uint64)) {
	var ino uint64
	w.change(func() {
		w.fresh++
		ino = pending | w.fresh
		w.things[ino] = o
		if name != "" {
			w.bind(dir, name, ino)
		}
	})
	return func(is uint64) {
		w.change(func() {
			delete(w.things, ino)
			w.things[is] = o
			if name == "" {
				return
			}
			d := w.things[dir]
			d.names[name] = is
			for i, x := range d.since[name] {
				if x == ino {
					d.since[name][i] = is
				}
			}
		})
	}
}

func newThing(kind uint32, mode uint32) *thing {
	return &thing{kind: kind, was: [][]byte{{}}, modes: []uint32{mode}, attrs: map[string][]string{},
		names: map[string]uint64{}, since: map[string][]uint64{}, zones: []string{""}}
}

// anchor notes that ino is durable with the way to it, and what is durable in it so too. w.mu is held.
func (w *world) anchor(ino uint64) {
	o := w.things[ino]
	if o.anchored {
		return
	}
	o.anchored = true
	w.anchorIn(o)
}

func (w *world) anchorIn(o *thing) {
	for name, s := range o.since {
		if len(s) == 1 && o.names[name] == s[0] && s[0] != 0 {
			w.anchor(s[0])
		}
	}
}

// dirSynced notes that the names in dir are durable. w.mu is held.
func (w *world) dirSynced(dir uint64) {
	d := w.things[dir]
	for name := range d.since {
		d.since[name] = []uint64{d.names[name]}
	}
	d.attrsSynced()
	if d.anchored {
		w.anchorIn(d)
	}
}

// allSynced notes that everything is durable.
func (w *world) allSynced() {
	w.change(func() {
		for ino, o := range w.things {
			o.dataSynced()
			w.dirSynced(ino)
		}
		w.anchorIn(w.things[w.root])
	})
}

func (o *thing) dataSynced() {
	o.was = o.was[len(o.was)-1:]
	o.synced = len(o.data()) > 0
}

func (o *thing) attrsSynced() {
	o.modes = o.modes[len(o.modes)-1:]
	for name, s := range o.attrs {
		o.attrs[name] = s[len(s)-1:]
	}
}

// spot is a name in a directory, and what it stands for.
type spot struct {
	dir  uint64
	name string
	ino  uint64
	path string
}

// spots returns all names, those of directories first.
func (w *world) spots(dir uint64, path string) (all []spot) {
	d := w.things[dir]
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		ino := d.names[name]
		at := spot{dir, name, ino, path + "/" + name}
		all = append(all, at)
		if w.things[ino].kind == syscall.S_IFDIR {
			all = append(all, w.spots(ino, at.path)...)
		}
	}
	return all
}

// any returns one of the names for which is holds, of kind.
func (w *world) any(kind uint32, is func(spot) bool) (spot, bool) {
	var fit []spot
	for _, s := range w.spots(w.root, "") {
		if (kind == 0 || w.things[s.ino].kind == kind) && (is == nil || is(s)) {
			fit = append(fit, s)
		}
	}
	if len(fit) == 0 {
		return spot{}, false
	}
	return fit[w.r.IntN(len(fit))], true
}

// place returns a directory and a name in it that is free or not, of two more long ones.
func (w *world) place() spot {
	s := spot{ino: w.root}
	if d, ok := w.any(syscall.S_IFDIR, nil); ok && w.r.IntN(3) > 0 {
		s = d
	}
	name := []string{"a", "b", "c", "d", longA, longB}[w.r.IntN(6)]
	return spot{dir: s.ino, name: name, ino: w.things[s.ino].names[name], path: s.path + "/" + name}
}

// free is place with a name that is free, ok where one was found.
func (w *world) free() (s spot, ok bool) {
	for range 20 {
		if s = w.place(); s.ino == 0 {
			return s, true
		}
	}
	return s, false
}

// under says whether dir is ino or below it.
func (w *world) under(dir, ino uint64) bool {
	if dir == ino {
		return true
	}
	for _, up := range w.spots(w.root, "") {
		if up.ino == dir {
			return w.under(up.dir, ino)
		}
	}
	return false
}

// with calls f with the node of path.
func (w *world) with(path string, f func(n *vault.Node) error) error {
	n, err := find(w.v, path)
	if err != nil {
		return err
	}
	defer w.v.Forget(n, 1)
	return f(n)
}

// do makes step s, which is valid.
func (w *world) do(s step) error {
	w.note("%.60s", s.name)
	return s.do(w.v)
}

var attrNames = []string{"user.a", "user.b", "trusted.c"}

// step makes one random change, or makes something durable.
func (w *world) step() error {
	switch w.r.IntN(24) {
	case 0, 1:
		return w.create()
	case 2, 3:
		at, ok := w.free()
		if !ok {
			return nil
		}
		made := w.makes(at.dir, at.name, newThing(syscall.S_IFDIR, 0o755))
		if err := w.do(mkdir(at.path)); err != nil {
			return err
		}
		return w.with(at.path, func(n *vault.Node) error { made(n.Ino()); return nil })
	case 4:
		at, ok := w.free()
		if !ok {
			return nil
		}
		o := newThing(syscall.S_IFLNK, 0o777)
		o.target = fmt.Sprint("to ", w.r.IntN(1000))
		made := w.makes(at.dir, at.name, o)
		if err := w.do(symlink(at.path, o.target)); err != nil {
			return err
		}
		return w.with(at.path, func(n *vault.Node) error { made(n.Ino()); return nil })
	case 5:
		from, ok := w.any(0, func(s spot) bool { return w.things[s.ino].kind != syscall.S_IFDIR })
		to, free := w.free()
		if !ok || !free {
			return nil
		}
		w.change(func() { w.bind(to.dir, to.name, from.ino) })
		return w.do(link(from.path, to.path))
	case 6, 7, 8:
		return w.rename()
	case 9:
		at, ok := w.any(0, func(s spot) bool { return len(w.things[s.ino].names) == 0 })
		if !ok {
			return nil
		}
		w.change(func() { w.bind(at.dir, at.name, 0) })
		if w.things[at.ino].kind == syscall.S_IFDIR {
			return w.do(rmdir(at.path))
		}
		return w.do(unlink(at.path))
	case 10:
		return w.setxattr()
	case 11:
		return w.setZone()
	case 12, 13, 14:
		return w.sync()
	case 15, 16, 17:
		at := w.place()
		path := at.path[:strings.LastIndexByte(at.path, '/')]
		w.note("sync directory %.40s", path)
		return w.with(path, func(n *vault.Node) error {
			err := w.v.Fsync(n, vault.SyncScope(w.r.IntN(2)))
			if err == nil {
				w.change(func() { w.dirSynced(at.dir) })
			}
			return err
		})
	case 18:
		w.note("flush")
		err := w.v.Flush()
		if err == nil {
			w.allSynced()
		}
		return err
	default:
		return w.write()
	}
}

func (w *world) create() error {
	at, ok := w.free()
	if !ok {
		return nil
	}
	o := newThing(syscall.S_IFREG, 0o644)
	if w.r.IntN(4) > 0 {
		made := w.makes(at.dir, at.name, o)
		if err := w.do(put(at.path, nil)); err != nil {
			return err
		}
		return w.with(at.path, func(n *vault.Node) error { made(n.Ino()); return nil })
	}
	w.note("tmpfile %.40s", at.path)
	made := w.makes(at.dir, "", o)
	return inDir(w.v, at.path, func(dir *vault.Node, name string) error {
		n, _, err := w.v.Tmpfile(dir, 0o644, who)
		if err != nil {
			return err
		}
		defer w.v.Forget(n, 1)
		defer w.v.Release(n)
		made(n.Ino())
		p := pattern(byte(w.r.IntN(256)), w.r.Int64N(9000)+1)
		w.change(func() { o.becomes(p) })
		if _, err := w.v.Write(ctx, n, p, 0, vault.KeepPrivileges); err != nil {
			return err
		}
		w.change(func() { w.bind(at.dir, at.name, n.Ino()) })
		_, err = w.v.Link(n, dir, name)
		return err
	})
}

func (w *world) rename() error {
	from, ok := w.any(0, nil)
	if !ok {
		return nil
	}
	to, flags := w.place(), uint32(0)
	isDir := w.things[from.ino].kind == syscall.S_IFDIR
	if from.ino == to.ino || isDir && w.under(to.dir, from.ino) {
		return nil
	}
	if to.ino != 0 {
		over := w.things[to.ino]
		overDir := over.kind == syscall.S_IFDIR
		if overDir && w.under(from.dir, to.ino) {
			return nil
		}
		if isDir != overDir || overDir && len(over.names) > 0 || w.r.IntN(3) == 0 {
			flags = vault.RenameExchange
		}
	} else if w.r.IntN(3) == 0 {
		flags = vault.RenameNoReplace
	}
	w.change(func() {
		if flags == vault.RenameExchange {
			a, b := w.things[from.ino], w.things[to.ino]
			was := [2]bool{a.anchored, b.anchored}
			w.bind(from.dir, from.name, to.ino)
			w.bind(to.dir, to.name, from.ino)
			a.anchored, b.anchored = was[0], was[1]
			return
		}
		anchored := w.things[from.ino].anchored
		if to.ino != 0 && isDir { // the two change places first
			w.bind(from.dir, from.name, to.ino)
		}
		w.bind(from.dir, from.name, 0)
		w.bind(to.dir, to.name, from.ino)
		w.things[from.ino].anchored = anchored
	})
	s := rename(from.path, to.path, flags)
	s.name = fmt.Sprintf("rename %.30s to %.30s, %d", from.path, to.path, flags)
	return w.do(s)
}

func (w *world) setxattr() error {
	at, ok := w.any(0, func(s spot) bool { return w.things[s.ino].kind != syscall.S_IFLNK })
	if !ok {
		return nil
	}
	o, name := w.things[at.ino], attrNames[w.r.IntN(len(attrNames))]
	now := []string{""}
	if s := o.attrs[name]; len(s) > 0 {
		now = s
	}
	value := string(pattern(byte(w.r.IntN(256)), []int64{1, 20, 300, 5000}[w.r.IntN(4)]))
	if now[len(now)-1] != "" && w.r.IntN(2) == 0 {
		value = ""
	}
	w.note("xattr %s of %.40s, %d bytes", name, at.path, len(value))
	w.change(func() { o.attrs[name] = append(slices.Clone(now), value) })
	return w.with(at.path, func(n *vault.Node) error {
		if value == "" {
			return w.v.Removexattr(ctx, n, name)
		}
		return w.v.Setxattr(ctx, n, name, []byte(value), 0)
	})
}

func (w *world) setZone() error {
	at, ok := w.any(syscall.S_IFDIR, nil)
	if !ok {
		return nil
	}
	o, zone := w.things[at.ino], []string{"", "alias/one", "alias/two"}[w.r.IntN(3)]
	w.note("zone %.40s %q", at.path, zone)
	w.change(func() { o.zones = append(o.zones, zone) })
	return w.with(at.path, func(n *vault.Node) error {
		err := w.v.SetZone(ctx, n, zone)
		if err == nil {
			w.change(func() { o.zones = o.zones[len(o.zones)-1:] })
		}
		return err
	})
}

// sync makes a file durable.
func (w *world) sync() error {
	at, ok := w.any(syscall.S_IFREG, nil)
	if !ok {
		return nil
	}
	o, scope := w.things[at.ino], vault.SyncScope(w.r.IntN(2))
	w.note("sync %.40s, %d", at.path, scope)
	return w.with(at.path, func(n *vault.Node) error {
		err := w.v.Fsync(n, scope)
		if err == nil {
			w.change(func() {
				o.dataSynced()
				if scope == vault.SyncAll {
					o.attrsSynced()
				}
			})
		}
		return err
	})
}

// write changes what is in a file, or its mode or key.
func (w *world) write() error {
	at, ok := w.any(syscall.S_IFREG, nil)
	if !ok {
		return nil
	}
	o := w.things[at.ino]
	m := &modelFile{data: slices.Clone(o.data())}
	sizes := []int64{0, 1, 300, 3968, 4096, 5000, 9000, 20000, 63 * 4096, 63*4096 + 5000}
	off, length := sizes[w.r.IntN(len(sizes))], 1+sizes[w.r.IntN(8)]
	p := pattern(byte(w.r.IntN(256)), length)
	return w.with(at.path, func(n *vault.Node) (err error) {
		becomes := func(what string, change func()) {
			change()
			w.note("%s %.40s, %d at %d", what, at.path, length, off)
			w.change(func() { o.becomes(m.data) })
		}
		switch w.r.IntN(9) {
		case 0, 1, 2:
			becomes("write", func() { m.write(p, off) })
			_, err = w.v.Write(ctx, n, p, off, vault.KeepPrivileges)
		case 3, 4:
			becomes("append", func() { m.write(p, int64(len(m.data))) })
			_, err = w.v.Append(ctx, n, p, vault.KeepPrivileges)
		case 5:
			becomes("truncate", func() { m.truncate(off) })
			err = w.v.Truncate(ctx, n, off, vault.KeepPrivileges)
		case 6:
			becomes("punch", func() { m.zero(off, length) })
			err = w.v.Allocate(ctx, n, 3, off, length, vault.KeepPrivileges)
		case 7:
			w.note("chmod %.40s", at.path)
			mode := 0o600 + uint32(w.r.IntN(64))
			w.change(func() { o.modes = append(o.modes, mode) })
			_, err = w.v.SetAttr(ctx, n, vault.SetAttr{Mode: &mode})
		default:
			w.note("reencrypt %.40s", at.path)
			err = w.v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{})[0].Err
		}
		return err
	})
}

// TestPowerCutNames cuts the power before every operation on the backing file system that random changes of a tree lead to,
// with any subset of what was not synced lost, names in the order of a journal or in that of each directory alone. What was
// synced is there, under its name, and nothing that there is is refused: all of it can be listed, read and removed.
func TestPowerCutNames(t *testing.T) {
	lists, stride := effort(t, 8, 100, 1500), effort[int64](t, 37, 17, 5)
	var cuts atomic.Int64
	t.Cleanup(func() { t.Logf("%d crash states", cuts.Load()) })
	for seed := range lists {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			cuts.Add(cutNames(t, uint64(seed), stride))
		})
	}
}

func cutNames(t *testing.T, seed uint64, stride int64) (cuts int64) {
	var fs *memfs.FS
	var moment atomic.Int64
	var on atomic.Bool
	type state struct {
		at int64
		fs *memfs.FS
		p  memfs.Policy
		w  *world
	}
	var mu sync.Mutex
	var states []state
	w := &world{r: rand.New(rand.NewPCG(seed, 3)), things: map[uint64]*thing{}}
	fs = memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if !on.Load() || !op.Changes() {
			return nil
		}
		at := moment.Add(1)
		if (at+int64(seed))%stride != 0 {
			return nil
		}
		p := memfs.Policy{Names: memfs.Names(at / stride % 2), Sectors: at/stride%4 > 1, Choose: memfs.Random(seed<<32 | uint64(at))}
		s := state{at: at, p: p}
		w.change(func() { s.w, s.fs = w.snapshot(), fs.Crash(p) })
		mu.Lock()
		states = append(states, s)
		mu.Unlock()
		return nil
	}})
	ks := &memoryKeys{}
	w.v = newVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	w.root = w.v.Root().Ino()
	w.things[w.root] = newThing(syscall.S_IFDIR, 0)
	w.things[w.root].anchored = true
	on.Store(true)
	for range 60 {
		if err := w.step(); err != nil {
			t.Fatalf("seed %d: %v\nafter:\n       %s", seed, err, strings.Join(w.steps, "\n       "))
		}
	}
	on.Store(false)
	if err := w.v.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if why := s.w.foundIn(s.fs, s.p.Names, ks); why != "" {
			t.Fatalf("seed %d, moment %d, names %d, sectors %v: %s\nafter:\n       %s", seed, s.at, s.p.Names, s.p.Sectors, why, strings.Join(s.w.steps, "\n       "))
		}
	}
	return int64(len(states))
}

// foundIn says what is wrong with what a crash has left of a world.
func (w *world) foundIn(fs *memfs.FS, names memfs.Names, ks *memoryKeys) string {
	for round, access := range []vault.Access{vault.ReadOnly, vault.ReadWrite, vault.ReadWrite} {
		v, err := vault.Open(ctx, fs.Root(), ks, vault.Options{Access: access})
		if err != nil {
			return fmt.Sprintf("round %d: open: %v", round, err)
		}
		found := map[uint64]bool{w.root: true}
		v.Refer(v.Root())
		err = w.compare(v, v.Root(), w.root, "", found)
		for ino, o := range w.things {
			if err == nil && o.anchored && !found[ino] && names == memfs.InOrder { // else it was moved to where no way leads that is durable
				err = fmt.Errorf("inode %d, of kind %o, is lost", ino, o.kind)
			}
		}
		if err == nil && round == 2 {
			v.Refer(v.Root())
			err = removeAll(v, v.Root())
		}
		if err = errors.Join(err, v.Flush(), v.Close()); err != nil {
			return fmt.Sprintf("round %d: %v", round, err)
		}
	}
	if left := inTmp(fs); len(left) > 0 && names == memfs.InOrder { // else a removed directory may have got back what was in it
		return fmt.Sprintf("%q is left in tmp", left)
	}
	return ""
}

// inTmp returns the names in .kmsfs/tmp.
func inTmp(fs *memfs.FS) (names []string) {
	ctl, err := fs.Root().OpenDir(envelope.ControlDir)
	if err != nil {
		return []string{err.Error()}
	}
	tmp, err := ctl.OpenDir("tmp")
	if err != nil {
		return []string{err.Error()}
	}
	tmp.ReadDir(func(e backing.Entry) bool { names = append(names, e.Name); return true })
	return names
}

// compare compares a directory with what it may be.
func (w *world) compare(v *vault.Vault, dir *vault.Node, ino uint64, path string, found map[uint64]bool) error {
	defer v.Forget(dir, 1)
	d := w.things[ino]
	there := map[string]bool{}
	var bad error
	if err := v.List(dir, func(e vault.DirEntry, err error) bool {
		if bad = err; err == nil {
			there[e.Name] = true
		}
		return err == nil
	}); err != nil || bad != nil {
		return fmt.Errorf("list %q: %w", path, errors.Join(err, bad))
	}
	if zone, err := v.Zone(dir); err != nil || ino != w.root && !slices.Contains(d.zones, zone) {
		return fmt.Errorf("%q: zone %q, %v, of %q", path, zone, err, d.zones)
	}
	for name := range d.since {
		if !there[name] && !slices.Contains(d.stands(name), 0) {
			return fmt.Errorf("%q in %q is gone", name, path)
		}
	}
	for name := range there {
		at := path + "/" + name
		n, st, err := v.Lookup(dir, name)
		if err != nil {
			return fmt.Errorf("look up %q: %w", at, err)
		}
		is, o := n.Ino(), w.things[n.Ino()]
		if o == nil { // it was being made
			for _, x := range d.stands(name) {
				if x&pending != 0 {
					is, o = x, w.things[x]
				}
			}
		}
		if o == nil || !slices.Contains(d.stands(name), is) {
			return fmt.Errorf("%q is inode %d, and was %v", at, n.Ino(), d.stands(name))
		}
		if n.Kind() != o.kind {
			return fmt.Errorf("%q is of kind %o", at, n.Kind())
		}
		found[is] = true
		if o.kind == syscall.S_IFDIR {
			if err := w.compareAttrs(v, n, o); err != nil {
				return fmt.Errorf("%q: %w", at, err)
			}
			if err := w.compare(v, n, is, at, found); err != nil {
				return err
			}
			continue
		}
		err = w.compareFile(v, n, o, st.Size)
		v.Forget(n, 1)
		if err != nil {
			return fmt.Errorf("%q: %w", at, err)
		}
	}
	return nil
}

// compareFile compares a file or symbolic link.
func (w *world) compareFile(v *vault.Vault, n *vault.Node, o *thing, size int64) error {
	if o.kind == syscall.S_IFLNK {
		if target, err := v.Readlink(n); err != nil || target != o.target {
			return fmt.Errorf("it leads to %q, %v", target, err)
		}
		return nil
	}
	got := make([]byte, 1<<20)
	k, err := v.Read(ctx, n, got, 0)
	if errors.Is(err, vault.ErrCorrupt) && !o.synced {
		return nil // its first block, or what says that there is one, has not reached the disk
	}
	if err != nil {
		return err
	}
	if why := (history{was: o.was}).explains(got[:k]); why != "" {
		return errors.New(why)
	}
	return w.compareAttrs(v, n, o)
}

// compareAttrs compares mode and extended attributes.
func (w *world) compareAttrs(v *vault.Vault, n *vault.Node, o *thing) error {
	st, err := v.Attr(n)
	if err != nil || o.kind == syscall.S_IFREG && !slices.Contains(o.modes, st.Mode&0o7777) {
		return fmt.Errorf("mode %o, %v, of %o", st.Mode, err, o.modes)
	}
	names, err := v.Listxattr(ctx, n)
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range attrNames {
		value, err := v.Getxattr(ctx, n, name)
		if err != nil && !errors.Is(err, syscall.ENODATA) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		was := o.attrs[name]
		if len(was) == 0 {
			was = []string{""}
		}
		if !slices.Contains(was, string(value)) {
			return fmt.Errorf("attribute %s has %d bytes, none of the %d values that it had", name, len(value), len(was))
		}
		if slices.Contains(names, name) != (err == nil) {
			return fmt.Errorf("attribute %s is listed: %v, and read: %v", name, slices.Contains(names, name), err)
		}
	}
	return nil
}

// removeAll removes all that is in dir.
func removeAll(v *vault.Vault, dir *vault.Node) error {
	defer v.Forget(dir, 1)
	var entries []vault.DirEntry
	if err := v.ReadDir(dir, func(e vault.DirEntry) bool { entries = append(entries, e); return true }); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Kind != syscall.S_IFDIR {
			if err := v.Unlink(dir, e.Name); err != nil {
				return fmt.Errorf("unlink %q: %w", e.Name, err)
			}
			continue
		}
		n, _, err := v.Lookup(dir, e.Name)
		if err == nil {
			err = removeAll(v, n)
		}
		if err == nil {
			err = v.Rmdir(dir, e.Name)
		}
		if err != nil {
			return fmt.Errorf("remove %q: %w", e.Name, err)
		}
	}
	return nil
}
