package check

import (
	"context"
	"slices"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/walk"
)

// Again looks at what Run or Again has found once more, and at what is below a directory that has turned out well. What is
// gone or in order now is left out, and counted in Gone; o.Vault is to have been opened anew.
func Again(ctx context.Context, top backing.Dir, o Options, findings []Finding) (*Result, error) {
	c, err := begin(ctx, top, o)
	if err != nil {
		return nil, err
	}
	defer c.end()
	if c.cfg == nil {
		return c.result(), nil
	}
	if err := c.control(); err != nil {
		return nil, err
	}
	if err := c.tablesAgain(findings); err != nil {
		return nil, err
	}
	c.res.Findings = slices.DeleteFunc(c.res.Findings, func(f Finding) bool {
		return !slices.ContainsFunc(findings, func(old Finding) bool { return old.Stored == f.Stored && old.slot == f.slot })
	})
	var items []item
	names := map[string]map[string]bool{} // by directory
	c.only = map[string][]Range{}
	seen := map[string]bool{}
	for _, f := range findings {
		if len(f.Ranges) > 0 {
			c.only[f.Stored] = merge(append(c.only[f.Stored], f.Ranges...))
		}
		if strings.HasPrefix(f.Stored, envelope.ControlDir+"/") || seen[f.Stored] {
			continue
		}
		seen[f.Stored] = true
		if f.Stored == "" {
			items = append(items, c.again(f)...)
			continue
		}
		dir, name := walk.Split(f.Stored)
		if f.Kind != Name {
			items = append(items, c.again(f)...)
			continue
		}
		if names[dir] == nil {
			names[dir] = map[string]bool{}
		}
		names[dir][name] = true
	}
	for dir, some := range names {
		items = append(items, c.relist(dir, some, findings)...)
	}
	if err := c.walk(items); err != nil {
		return nil, err
	}
	r := c.result()
	r.Gone = int64(len(seen))
	for _, f := range r.Findings {
		if seen[f.Stored] {
			delete(seen, f.Stored)
			r.Gone--
		}
	}
	return r, nil
}

// again is what looks at one finding anew: nothing where it has gone.
func (c *checker) again(f Finding) []item {
	at := place{f.Stored, f.Path}
	dir, name := walk.Split(f.Stored)
	h, err := walk.Open(c.top, dir)
	if err != nil {
		c.fault(Directory, at, err)
		return nil
	}
	defer h.Close()
	i := item{place: place{stored: dir}}
	i.plain, _ = walk.Split(f.Path)
	if f.Stored == "" {
		i.place = at
	} else if kind, err := kindOf(h, backing.Entry{Name: name}); err != nil {
		c.fault(File, at, err)
		return nil
	} else if kind == syscall.S_IFDIR {
		i.place, dir = at, f.Stored
	} else {
		_, plain := walk.Split(f.Path)
		i.entries = []entry{{name: name, plain: plain, kind: kind}}
	}
	if c.v != nil {
		if i.node, err = c.nodeOf(dir); err != nil {
			c.fault(Directory, at, err)
			return nil
		}
	}
	return []item{i}
}

// relist looks at some names of a directory anew, and returns what looks at those that have turned out well.
func (c *checker) relist(dir string, some map[string]bool, findings []Finding) []item {
	i := item{place: place{stored: dir}}
	for _, f := range findings {
		if d, _ := walk.Split(f.Stored); d == dir && f.Kind == Name {
			i.plain, _ = walk.Split(f.Path)
		}
	}
	h, err := walk.Open(c.top, dir)
	if err != nil {
		c.fault(Directory, i.place, err)
		return nil
	}
	defer h.Close()
	w := &worker{c: c}
	before := len(c.res.Findings)
	var entries []entry
	if c.v != nil {
		if i.node, err = c.nodeOf(dir); err == nil {
			entries, err = w.names(i)
			c.v.Forget(i.node, 1)
		}
	} else {
		entries, err = w.forms(i, h)
	}
	if err != nil {
		c.fault(Directory, i.place, err)
		return nil
	}
	found := c.res.Findings[before:]
	c.res.Findings = append(c.res.Findings[:before], slices.DeleteFunc(found, func(f Finding) bool {
		_, name := walk.Split(f.Stored)
		return f.Kind == Name && !some[name]
	})...)
	var items []item
	for _, e := range entries {
		if some[e.name] {
			items = append(items, c.again(Finding{Stored: i.below(e).stored, Path: i.below(e).plain})...)
		}
	}
	return items
}
