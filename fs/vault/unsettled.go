package vault

import (
	"context"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Unsettled says whether n, a regular file, is as a crash has left it: its checks are not strict, a growth or truncation is to
// be finished, or index blocks are to be made whole. It reads right all the same.
func (v *Vault) Unsettled(ctx context.Context, n *Node) (bool, error) {
	f, err := v.acquire(n)
	if err != nil {
		return false, err
	}
	defer f.release()
	if err := f.enter(ctx, lockRead); err != nil {
		return false, err
	}
	defer f.leave(lockRead)
	if f.pends() {
		return true, nil
	}
	groups, size, err := f.unsettled()
	return size || len(groups) > 0, n.fail("look for what is not settled", err)
}

// Settle has what Unsettled tells of mended by the next Flush. Content, size and time stay.
func (v *Vault) Settle(ctx context.Context, n *Node) error {
	f, err := v.acquire(n)
	if err != nil {
		return err
	}
	defer f.release()
	return f.keepingTime(func() error {
		if err := f.enterWrite(ctx, 0); err != nil {
			return err
		}
		defer f.leaveWrite()
		groups, size, err := f.unsettled()
		if err != nil {
			return n.fail("settle", err)
		}
		for _, g := range groups {
			f.touch(g)
		}
		if size && f.form == formGroups {
			f.touch(0)
		}
		return nil
	})
}

// unsettled returns the groups that are not settled, and whether the size is not. f is held.
func (f *file) unsettled() (groups []uint64, size bool, err error) {
	if f.form != formGroups {
		return nil, f.excess, nil
	}
	size = f.excess || f.flags&envelope.FlagExact == 0 || f.floor != f.size
	geo := &f.v.geo
	for g, more := NextGroup(f.bf, geo, 0); more && f.inside(g); g, more = NextGroup(f.bf, geo, g+1) {
		loose, err := f.loose(g)
		if err != nil {
			return nil, false, err
		}
		if loose {
			groups = append(groups, g)
		}
	}
	return groups, size, nil
}

// loose says whether group n is not settled.
func (f *file) loose(n uint64) (bool, error) {
	g, err := f.group(n)
	if err != nil || g.fresh {
		return false, err
	}
	if g.stale {
		return true, nil
	}
	for i := range f.v.chunksIn(n, f.size) {
		if g.blk.Unsettled(i) {
			return true, nil
		}
	}
	if n == 0 {
		return false, nil
	}
	parent, k := envelope.PresenceParent(n)
	p, err := f.group(parent)
	return err == nil && !p.blk.Presence(k), err
}

// NextGroup returns the first group from g on that is not all a hole in the stored file bf: g itself where that cannot be told. more is
// false where holes reach to the end of the file.
func NextGroup(bf backing.File, geo *envelope.Geometry, g uint64) (next uint64, more bool) {
	at, more := backing.NextData(bf, geo.IndexOffset(g))
	return max(g, uint64(at/geo.GroupSealed())), more
}
