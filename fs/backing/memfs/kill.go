package memfs

import (
	"maps"
	"slices"

	"kmsfs/fs/backing/faults"
)

// Kill returns the file system that the next process finds after this one was killed now: whatever a call did that
// has returned is there, and what was not durable still is not. No handle is open and no lock held, and files
// without a name are gone; no hook and no FailAt is set. fs itself is not changed and shares nothing with it.
func (fs *FS) Kill() *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := New(Config{Now: fs.now})
	n.lastIno, n.failed = fs.lastIno, fs.failed
	c := copier{}
	n.root = c.inode(fs.root)
	for _, op := range fs.log {
		o := &nameOp{durable: op.durable}
		for i, ch := range op.changes {
			o.changes = append(o.changes, change{c.inode(ch.dir), ch.name, c.inode(ch.to)})
			o.was = append(o.was, c.inode(op.was[i]))
		}
		n.log = append(n.log, o)
	}
	return n
}

// WithHook is [FS.Kill], and the result has hook as [Config] has it.
func (fs *FS) WithHook(hook faults.Hook) *FS {
	n := fs.Kill()
	n.hook = hook
	return n
}

// copier holds the copy of each inode.
type copier map[*inode]*inode

func (c copier) inode(in *inode) *inode {
	if in == nil {
		return nil
	}
	if to := c[in]; to != nil {
		return to
	}
	to := &inode{
		ino: in.ino, rdev: in.rdev, btim: in.btim, meta: in.meta, metaOld: slices.Clone(in.metaOld),
		nlink: in.nlink, target: in.target, dead: in.dead,
		data: content{
			size: in.data.size, sizeOld: slices.Clone(in.data.sizeOld),
			pages: maps.Clone(in.data.pages), old: map[int64][]*page{}, alloc: maps.Clone(in.data.alloc),
			lost: maps.Clone(in.data.lost),
		},
		failed: in.failed,
	}
	c[in] = to
	for i, versions := range in.data.old {
		to.data.old[i] = slices.Clone(versions)
	}
	to.entries, to.base, to.parent = c.names(in.entries), c.names(in.base), c.inode(in.parent)
	return to
}

func (c copier) names(m map[string]*inode) map[string]*inode {
	if m == nil {
		return nil
	}
	n := make(map[string]*inode, len(m))
	for name, in := range m {
		n[name] = c.inode(in)
	}
	return n
}
