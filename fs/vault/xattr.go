package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Names that stand in the backing file system as they are, and that are made up.
const (
	aclAccess      = "system.posix_acl_access"
	aclDefault     = "system.posix_acl_default"
	xattrVirtual   = "user.kmsfs."
	xattrCap       = "security.capability"
	xattrValueMost = 64 << 10
)

// namespaced says whether name is in a namespace that xattr(7) knows.
func namespaced(name string) bool {
	for _, ns := range []string{"user.", "trusted.", "security.", "system."} {
		if len(name) > len(ns) && strings.HasPrefix(name, ns) {
			return !strings.HasPrefix(name, "system.") || name == aclAccess || name == aclDefault
		}
	}
	return false
}

// withMeta calls f with what n's attributes are reached by.
func (v *Vault) withMeta(n *Node, f func(m backing.Meta) error) error { return v.metaAt(n, v.at, f) }

// changeMeta is withMeta for a change of them.
func (v *Vault) changeMeta(n *Node, f func(m backing.Meta) error) error {
	return v.metaAt(n, v.atSame, f)
}

// metaAt is withMeta with the way to go where n is reached by a name.
func (v *Vault) metaAt(n *Node, at func(n *Node, f func(d backing.Dir, entry string) error) error, f func(m backing.Meta) error) error {
	if file := n.openFile(); file != nil {
		defer file.release()
		return f(file.handle())
	}
	if n == v.root {
		return f(v.top)
	}
	if d := n.orphan(); d != nil {
		defer d.put()
		return f(d.h)
	}
	return at(n, func(d backing.Dir, entry string) error { return f(named{d, entry}) })
}

// owner returns the id that n's attributes are bound to. Only directories and regular files that are not empty have one.
func (v *Vault) owner(n *Node) (id [16]byte, ok bool, err error) {
	switch n.kind {
	case sIFDIR:
		d, err := v.state(n)
		if err != nil {
			return id, false, err
		}
		return d.id, true, nil
	case sIFREG:
		f, err := v.acquire(n)
		if err != nil {
			return id, false, err
		}
		defer f.release()
		is, err := f.identify()
		return is.id, is.flags&envelope.FlagXattr != 0, n.fail("open", err)
	}
	return id, false, nil
}

// Getxattr returns the value of an extended attribute; ENODATA where there is none.
func (v *Vault) Getxattr(ctx context.Context, n *Node, name string) ([]byte, error) {
	if !namespaced(name) {
		return nil, ErrNotSupported
	}
	if name == aclAccess || name == aclDefault {
		var value []byte
		err := v.withMeta(n, func(m backing.Meta) (err error) {
			value, err = readXattr(m, name)
			return err
		})
		return value, err
	}
	if strings.HasPrefix(name, xattrVirtual) {
		return v.virtualXattr(n, name[len(xattrVirtual):])
	}
	id, ok, err := v.owner(n)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, syscall.ENODATA
	}
	var sealed []byte
	err = v.withMeta(n, func(m backing.Meta) (err error) {
		sealed, err = readXattr(m, v.keys.XattrName(id, name))
		return err
	})
	if err != nil {
		return nil, err
	}
	got, value, err := v.keys.OpenXattr(id, sealed)
	if err == nil && got != name {
		err = ErrCorrupt
	}
	if err != nil {
		return nil, n.fail("getxattr", err)
	}
	return value, nil
}

// readXattr reads an attribute of any size.
func readXattr(m backing.Meta, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := m.Getxattr(name, buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, syscall.ERANGE) || len(buf) >= 2*xattrValueMost {
			return nil, err
		}
		if n, err = m.Getxattr(name, nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+256)
	}
}

func listXattr(m backing.Meta) ([]string, error) {
	buf := make([]byte, 512)
	for {
		n, err := m.Listxattr(buf)
		if err == nil {
			var names []string
			for _, s := range bytes.Split(buf[:n], []byte{0}) {
				if len(s) > 0 {
					names = append(names, string(s))
				}
			}
			return names, nil
		}
		if errors.Is(err, syscall.EOPNOTSUPP) {
			return nil, nil
		}
		if !errors.Is(err, syscall.ERANGE) || len(buf) > 1<<20 {
			return nil, err
		}
		buf = make([]byte, 8*len(buf))
	}
}

// Listxattr returns the names of n's extended attributes. The made-up ones (user.kmsfs.*) are not among them: tools
// that copy attributes would copy them.
func (v *Vault) Listxattr(ctx context.Context, n *Node) ([]string, error) {
	var stored []string
	if err := v.withMeta(n, func(m backing.Meta) (err error) { stored, err = listXattr(m); return err }); err != nil {
		return nil, n.fail("listxattr", err)
	}
	var names []string
	var id [16]byte
	known, bound := false, false
	for _, s := range stored {
		switch {
		case s == aclAccess || s == aclDefault:
			names = append(names, s)
		case strings.HasPrefix(s, envelope.XattrPrefix):
			var err error
			if !known {
				if id, bound, err = v.owner(n); err != nil {
					return nil, err
				}
				known = true
			}
			if !bound { // a crash has kept it and not the header that it is bound by: see dropStrays
				continue
			}
			name, err := v.nameOfXattr(n, id, s)
			if errors.Is(err, syscall.ENODATA) {
				continue
			}
			if err != nil {
				return nil, n.fail("listxattr", err)
			}
			names = append(names, name)
		}
	}
	return names, nil
}

// nameOfXattr returns the name of the attribute of n that is stored as s. id is what n's attributes are bound to.
func (v *Vault) nameOfXattr(n *Node, id [16]byte, s string) (string, error) {
	var b []byte
	if err := v.withMeta(n, func(m backing.Meta) (err error) { b, err = readXattr(m, s); return err }); err != nil {
		return "", err
	}
	name, _, err := v.keys.OpenXattr(id, b)
	if err == nil && v.keys.XattrName(id, name) != s {
		err = ErrCorrupt
	}
	return name, err
}

// Setxattr sets an extended attribute; flags are XATTR_CREATE and XATTR_REPLACE of setxattr(2).
func (v *Vault) Setxattr(ctx context.Context, n *Node, name string, value []byte, flags int) error {
	if !namespaced(name) {
		return ErrNotSupported
	}
	if v.readOnly {
		return ErrReadOnly
	}
	if name == aclAccess || name == aclDefault {
		defer v.forgetACL(n)
		return v.changeMeta(n, func(m backing.Meta) error { return m.Setxattr(name, value, flags) })
	}
	if n.kind == sIFDIR && name == XattrZone {
		return v.setZoneXattr(ctx, n, string(value), flags)
	}
	if strings.HasPrefix(name, xattrVirtual) {
		return syscall.EPERM
	}
	if len(name) > 255 {
		return syscall.ERANGE
	}
	if len(value) > xattrValueMost {
		return syscall.E2BIG
	}
	id, err := v.bindXattrs(ctx, n)
	if err != nil {
		return err
	}
	sealed, err := v.keys.SealXattr(id, name, value)
	if err != nil {
		return err
	}
	if name == xattrCap {
		if f := n.openFile(); f != nil {
			defer f.release()
			f.mu.Lock()
			defer f.mu.Unlock()
			f.caps = capsUnknown
			return f.bf.Setxattr(v.keys.XattrName(id, name), sealed, flags)
		}
	}
	return v.changeMeta(n, func(m backing.Meta) error { return m.Setxattr(v.keys.XattrName(id, name), sealed, flags) })
}

// bindXattrs returns the id that n's attributes are bound to, giving a file a key and marking its header where needed.
func (v *Vault) bindXattrs(ctx context.Context, n *Node) ([16]byte, error) {
	id, ok, err := v.owner(n)
	if err != nil || ok {
		return id, err
	}
	if n.kind != sIFREG {
		return id, ErrNotSupported
	}
	f, err := v.acquire(n)
	if err != nil {
		return id, err
	}
	defer f.release()
	if err := f.enterWrite(ctx, 0); err != nil {
		return id, err
	}
	defer f.leaveWrite()
	if f.flags&envelope.FlagXattr != 0 {
		return f.id, nil
	}
	if err := f.dropStrays(); err != nil {
		return f.id, n.fail("setxattr", err)
	}
	err = f.keepingTime(func() error {
		if f.form == formGroups {
			return f.writeHeader(f.flags|envelope.FlagXattr, f.floor)
		}
		old := f.flags
		f.flags |= envelope.FlagXattr
		err := f.writeInline(append([]byte(nil), f.inline...))
		if err != nil {
			f.flags = old
		}
		return err
	})
	return f.id, n.fail("setxattr", err)
}

// dropStrays removes, durably, the attributes that a crash has kept of a file and not the header that says so: they may be bound to
// another id than those that come now. f.mu is held for writing.
func (f *file) dropStrays() error {
	names, err := listXattr(f.bf)
	if err != nil {
		return err
	}
	strays := false
	for _, name := range names {
		if !strings.HasPrefix(name, envelope.XattrPrefix) {
			continue
		}
		if err := f.bf.Removexattr(name); err != nil {
			return err
		}
		strays = true
	}
	if !strays {
		return nil
	}
	return f.bf.Sync()
}

// Removexattr removes an extended attribute; ENODATA where there is none.
func (v *Vault) Removexattr(ctx context.Context, n *Node, name string) error {
	if !namespaced(name) {
		return ErrNotSupported
	}
	if v.readOnly {
		return ErrReadOnly
	}
	if name == aclAccess || name == aclDefault {
		defer v.forgetACL(n)
		return v.changeMeta(n, func(m backing.Meta) error { return m.Removexattr(name) })
	}
	if n.kind == sIFDIR && name == XattrZone {
		return v.removeZoneXattr(ctx, n)
	}
	if strings.HasPrefix(name, xattrVirtual) {
		return syscall.EPERM
	}
	id, ok, err := v.owner(n)
	if err != nil {
		return err
	}
	if !ok {
		return syscall.ENODATA
	}
	return v.changeMeta(n, func(m backing.Meta) error { return m.Removexattr(v.keys.XattrName(id, name)) })
}

// forgetACL makes the next creation in n look again whether it has a default ACL.
func (v *Vault) forgetACL(n *Node) {
	n.mu.Lock()
	d := n.dir
	n.mu.Unlock()
	if d != nil {
		d.mu.Lock()
		d.acl = aclUnknown
		d.mu.Unlock()
	}
}

// dropCapabilityLocked removes security.capability, looking for it once only. f.mu is held for writing.
func (f *file) dropCapabilityLocked() error {
	if f.caps == capsNone && !f.v.shared {
		return nil
	}
	if f.flags&envelope.FlagXattr == 0 {
		f.caps = capsNone
		return nil
	}
	err := f.bf.Removexattr(f.v.keys.XattrName(f.id, xattrCap))
	if err != nil && !errors.Is(err, syscall.ENODATA) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	f.caps = capsNone
	return nil
}

// virtualXattr shows the record of n's key.
func (v *Vault) virtualXattr(n *Node, name string) ([]byte, error) {
	if n.kind == sIFDIR && xattrVirtual+name == XattrZone {
		zone, err := v.Zone(n)
		if err == nil && zone == "" {
			err = syscall.ENODATA
		}
		return []byte(zone), err
	}
	if n.kind != sIFREG {
		return nil, syscall.ENODATA
	}
	info, err := v.KeyInfo(n)
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, syscall.ENODATA
	}
	w := info.Wrappings[0]
	switch name {
	case "cmk":
		return []byte(w.KeyARN), nil
	case "key-material-id":
		return []byte(w.KeyMaterialID), nil
	case "wrapped-key":
		return []byte(hex.EncodeToString(w.Blob)), nil
	case "file-id":
		return []byte(info.ID.String()), nil
	case "created":
		return []byte(time.Unix(0, info.Created).UTC().Format(time.RFC3339Nano)), nil
	}
	return nil, syscall.ENODATA
}

// KeyInfo returns the sidecar's record of n's data key; nil for a file that has none yet.
func (v *Vault) KeyInfo(n *Node) (*envelope.Record, error) {
	f, err := v.acquire(n)
	if err != nil {
		return nil, err
	}
	defer f.release()
	is, err := f.identify()
	if err != nil || is.form == formEmpty {
		return nil, n.fail("open", err)
	}
	return v.record(is.loc, is.id)
}

// DamagedXattrs returns the stored names of those of n's extended attributes that do not open. What of them stands in the
// backing file system as it is is not looked at.
func (v *Vault) DamagedXattrs(n *Node) ([]string, error) {
	var id [16]byte
	known := false
	var bad []string
	var stored []string
	err := v.withMeta(n, func(m backing.Meta) (err error) {
		stored, err = listXattr(m)
		return err
	})
	for _, s := range stored {
		if err != nil {
			break
		}
		if !strings.HasPrefix(s, envelope.XattrPrefix) {
			continue
		}
		if !known {
			bound := false
			if id, bound, err = v.owner(n); err != nil || !bound { // where it is not, they mean nothing
				break
			}
			known = true
		}
		switch _, e := v.nameOfXattr(n, id, s); {
		case errors.Is(e, ErrCorrupt) || errors.Is(e, envelope.ErrCorrupt):
			bad = append(bad, s)
		case !errors.Is(e, syscall.ENODATA):
			err = e
		}
	}
	return bad, n.fail("listxattr", err)
}
