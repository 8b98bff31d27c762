package vault

import (
	"errors"
	"sort"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// mark begins settling: it returns a moment, and what was written before it can be settled once it is durable.
func (f *file) mark() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settling, f.touched = f.touched, nil
	f.dirtyNoted = false
	return f.changed
}

// again puts off what was marked.
func (f *file) again() {
	defer f.release() // of the hold that mark took over: touch has got one of its own
	f.mu.Lock()
	defer f.mu.Unlock()
	f.putOff()
}

// putOff is again with f.mu held.
func (f *file) putOff() {
	for n := range f.settling {
		f.touch(n)
	}
	f.settling = nil
	f.v.keeper.settleLater(f)
}

// settle makes the checks strict on what was written before mark and is durable now: slots lose their previous
// entries, groups are noted as present, and where nothing has changed since, the size becomes exact.
func (f *file) settle(mark uint64) error {
	defer f.release()
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.keepingTime(func() error { return f.settleLocked(mark) })
	if err != nil && !errors.Is(err, ErrCorrupt) {
		f.putOff()
	}
	f.settling = nil
	f.shut()
	return err
}

// keepingTime calls do, which changes what is stored and not the content, and puts the modification time back, and the
// setuid and setgid bits that an ordinary user's write takes.
func (f *file) keepingTime(do func() error) error {
	st, err := f.bf.Stat()
	if err != nil {
		return err
	}
	was := f.seeTime(st)
	if err := do(); err != nil {
		return err
	}
	now, err := f.bf.Stat()
	if err == nil && now.Mode != st.Mode {
		err = f.bf.Chmod(st.Mode & 0o7777)
	}
	if err != nil {
		return err
	}
	back := f.backTo(was)
	if now.Mtim == back {
		return nil
	}
	return f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, back)
}

func (f *file) settleLocked(mark uint64) error {
	groups := make([]uint64, 0, len(f.settling))
	for n := range f.settling {
		if _, again := f.touched[n]; !again && f.inside(n) {
			groups = append(groups, n)
		}
	}
	if f.form != formGroups || !f.writable || !f.opened || f.isGone() {
		return nil
	}
	if f.v.shared {
		return nil // another host may be writing the same groups: they stay unsettled
	}
	if f.pends() { // written since: it will be put in place first
		f.putOff()
		return nil
	}
	if f.excess || f.flags&envelope.FlagCut != 0 && !f.cutDone {
		_, err := f.mendNow() // what it changes is not durable yet
		f.putOff()
		return err
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i] < groups[j] })
	kept := groups[:0]
	for _, n := range groups {
		ok, err := f.settleGroup(n)
		if err != nil {
			return err
		}
		if ok {
			kept = append(kept, n)
		}
	}
	groups = kept
	// Presence after the groups themselves, parents at once for all their children.
	for i := 0; i < len(groups); {
		if groups[i] == 0 {
			i++
			continue
		}
		p, _ := envelope.PresenceParent(groups[i])
		j := i
		for j < len(groups) {
			if q, _ := envelope.PresenceParent(groups[j]); q != p {
				break
			}
			j++
		}
		if err := f.notePresence(p, groups[i:j]); err != nil {
			return err
		}
		i = j
	}
	if f.changed == mark && (f.flags&envelope.FlagExact == 0 || f.floor != f.size) {
		return f.writeHeader(f.flags&^envelope.FlagCut|envelope.FlagExact, f.size)
	}
	return nil
}

// settleGroup drops the previous entries of group n; ok says that all of it is known durable.
func (f *file) settleGroup(n uint64) (ok bool, err error) {
	g, err := f.group(n)
	if err != nil {
		return false, err
	}
	if g.fresh {
		return false, nil // a hole was extended over it
	}
	if g.stale { // what a crash left of it is made whole first
		f.touch(n)
		return false, f.writeGroup(g)
	}
	from, to := envelope.SectorsPerBlock, -1
	for i := range f.v.chunksIn(n, f.size) {
		if !g.blk.Unsettled(i) {
			continue
		}
		cur, _ := g.blk.Slot(i)
		if g.known&(1<<i) == 0 {
			if cur, err = f.decide(g, i); err != nil {
				return false, err
			}
		}
		g.blk.SetSlot(i, cur, envelope.Entry{})
		g.blk.SetUnsettled(i, envelope.Settled)
		from, to = min(from, envelope.SectorOf(i)), max(to, envelope.SectorOf(i))
	}
	if to < 0 {
		return true, nil
	}
	return true, f.writeSectors(g, from, to)
}

// decide returns the entry that fits the data of slot i, where a crash of an earlier mount left two.
func (f *file) decide(g *group, i int) (envelope.Entry, error) {
	c := int(f.v.geo.ChunkSize())
	buf := f.v.buffers.get(2*c + 2*envelope.TagSize)
	defer f.v.buffers.put(buf)
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	chunk := g.n*envelope.ChunksPerGroup + uint64(i)
	stored := (*buf)[c+envelope.TagSize:][:c]
	got, err := f.bf.ReadAt(stored, f.v.geo.ChunkOffset(chunk))
	if err != nil {
		return envelope.Entry{}, err
	}
	_, which, err := f.openSlot(g, i, stored[:got], (*buf)[:c], s)
	clear((*buf)[:c])
	cur, prev := g.blk.Slot(i)
	switch which {
	case openedPrevious:
		cur = prev
	case openedHole:
		cur = envelope.Entry{}
	}
	return cur, err
}

// notePresence sets the presence bits of children, all of parent p. A parent that is a hole itself becomes real, and
// is noted with its own parent.
func (f *file) notePresence(p uint64, children []uint64) error {
	g, err := f.group(p)
	if err != nil {
		return err
	}
	wasFresh := g.fresh
	from, to := envelope.SectorsPerBlock, -1
	for _, n := range children {
		_, k := envelope.PresenceParent(n)
		if c, err := f.group(n); err != nil {
			return err
		} else if c.fresh {
			continue
		}
		if !g.blk.Presence(k) {
			g.blk.SetPresence(k, envelope.Present)
			from, to = min(from, k/envelope.PresencePerSector), max(to, k/envelope.PresencePerSector)
		}
	}
	if to < 0 {
		return nil
	}
	if err := f.writeSectors(g, from, to); err != nil {
		return err
	}
	if wasFresh && p > 0 {
		up, _ := envelope.PresenceParent(p)
		return f.notePresence(up, []uint64{p})
	}
	return nil
}

// isGone says whether the file has no name any more.
func (f *file) isGone() bool {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	return f.gone
}
