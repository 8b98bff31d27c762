package memfs

import "maps"

// change makes name in dir stand for to, or for nothing. Its to is of the live tree.
type change struct {
	dir  *inode
	name string
	to   *inode
}

// nameOp is one operation on names: its changes happen together or, at a crash, not at all.
type nameOp struct {
	changes []change
	was     []*inode // what each name stood for before
	durable bool
}

// rename is the one place where names of the live tree change: it keeps link counts, parents and times, and logs.
func (fs *FS) rename(changes ...change) {
	op := &nameOp{changes: changes}
	for _, c := range changes {
		was := c.dir.entries[c.name]
		op.was = append(op.was, was)
		if was != nil {
			fs.unhook(was, c.dir)
		}
	}
	for _, c := range changes {
		if c.to == nil {
			delete(c.dir.entries, c.name)
		} else {
			c.dir.entries[c.name] = c.to
			fs.hookUp(c.to, c.dir)
		}
		fs.touch(c.dir, true)
	}
	fs.log = append(fs.log, op)
}

// unhook takes one name of in, in dir, off.
func (fs *FS) unhook(in, dir *inode) {
	in.nlink--
	fs.touch(in, false)
	if in.isDir() { // it has one name, and its own "." is gone too
		in.nlink--
		in.parent, in.dead = nil, true
		dir.nlink--
	}
}

// hookUp gives in one more name, in dir.
func (fs *FS) hookUp(in, dir *inode) {
	in.nlink++
	fs.touch(in, false)
	if in.isDir() {
		in.nlink++
		in.parent, in.dead = dir, false
		dir.nlink++
	}
}

// token is something that one nameOp provides and a later one may need.
type token struct {
	what tokenKind
	in   *inode
	name string
}

type tokenKind int

const (
	tokenEntry  tokenKind = iota // a change of name in directory in
	tokenInside                  // a change in directory in
	tokenAdded                   // a name for in
	tokenAny                     // any change
)

// gives returns the tokens that the op provides.
func (o *nameOp) gives() []token {
	tt := []token{{what: tokenAny}}
	for _, c := range o.changes {
		tt = append(tt, token{tokenEntry, c.dir, c.name}, token{what: tokenInside, in: c.dir})
		if c.to != nil {
			tt = append(tt, token{what: tokenAdded, in: c.to})
		}
	}
	return tt
}

// needs returns the tokens without whose op this one does not survive a crash, whatever gave them before it.
func (o *nameOp) needs(names Names) []token {
	if names == InOrder {
		return []token{{what: tokenAny}}
	}
	var tt []token
	added := map[*inode]bool{}
	for _, c := range o.changes {
		added[c.to] = true
		tt = append(tt, token{tokenEntry, c.dir, c.name})
		if names == PerDirectory {
			tt = append(tt, token{what: tokenInside, in: c.dir})
		}
	}
	for _, was := range o.was {
		if was == nil || added[was] {
			continue
		}
		tt = append(tt, token{what: tokenAdded, in: was})
		if was.isDir() {
			tt = append(tt, token{what: tokenInside, in: was})
		}
	}
	return tt
}

// closure adds to keep, by index into log, every op that a kept one needs.
func closure(log []*nameOp, keep []bool, names Names) {
	needed := map[token]bool{}
	for i := len(log) - 1; i >= 0; i-- {
		for _, t := range log[i].gives() {
			keep[i] = keep[i] || needed[t]
		}
		if keep[i] {
			for _, t := range log[i].needs(names) {
				needed[t] = true
			}
		}
	}
}

// syncInode makes what in says of itself and its content durable.
func (fs *FS) syncInode(in *inode) {
	in.metaOld = nil
	in.data.synced()
}

// syncNames makes the names in dir durable. What they need survives with them: see closure.
func (fs *FS) syncNames(dir *inode) {
	for _, op := range fs.log {
		for _, c := range op.changes {
			op.durable = op.durable || c.dir == dir
		}
	}
	fs.trim()
}

// trim moves the durable head of the log into the base.
func (fs *FS) trim() {
	for len(fs.log) > 0 && fs.log[0].durable {
		fs.log[0].apply(func(dir *inode) map[string]*inode { return dir.base })
		fs.log = fs.log[1:]
	}
}

// apply makes the changes in the maps that of gives for each directory.
func (o *nameOp) apply(of func(dir *inode) map[string]*inode) {
	for _, c := range o.changes {
		if c.to == nil {
			delete(of(c.dir), c.name)
		} else {
			of(c.dir)[c.name] = c.to
		}
	}
}

// syncAll makes everything durable that has a name or may have one after a crash.
func (fs *FS) syncAll() {
	for _, op := range fs.log {
		op.durable = true
	}
	fs.trim()
	fs.walk(func(in *inode) { fs.syncInode(in) })
}

// walk calls f once for each inode below the root of the live tree.
func (fs *FS) walk(f func(*inode)) {
	seen := map[*inode]bool{}
	var visit func(*inode)
	visit = func(in *inode) {
		if seen[in] {
			return
		}
		seen[in] = true
		f(in)
		for child := range maps.Values(in.entries) {
			visit(child)
		}
	}
	visit(fs.root)
}
