package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/keysource"
)

// zoneAside is what the id file of a directory is written as before it takes the place of the old one.
const zoneAside = envelope.DirFileName + ".new"

// XattrZone is the extended attribute of a directory that is its encryption zone, as SetZone takes it. Who may write to the
// directory is not thereby one who may set it: that is for the caller of Setxattr and Removexattr to decide.
const XattrZone = xattrVirtual + "zone"

// zones says whether there may be encryption zones.
func (v *Vault) zones() bool {
	return slices.Contains(v.current.Load().Features, envelope.FeatureZones)
}

// zoneOf returns the CMK that a data key of n is to be of, as its encryption zone names it: "" for that of the vault. Of the
// names of a file any one counts.
func (v *Vault) zoneOf(n *Node) (string, error) {
	v.watch.look()
	if !v.zones() {
		return "", nil
	}
	for n != v.root {
		up, _, ok := n.loc()
		if n.kind == sIFDIR {
			zone, err := v.ownZone(n)
			if zone != "" || err != nil {
				return zone, err
			}
		}
		if !ok {
			return "", nil // a file without a name
		}
		n = up
	}
	return "", nil
}

// ownZone returns the zone that directory n itself is, "" for none.
func (v *Vault) ownZone(n *Node) (string, error) {
	d, err := v.use(n)
	if err != nil {
		return "", err
	}
	defer d.put()
	if v.shared { // another host may have set it
		_, zone, err := v.readDirFile(d.h)
		return zone, n.fail("open directory", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.zone, nil
}

// Zone returns the CMK of the encryption zone that directory n itself is, as it was named; "" where it is none. The root's is
// that of the vault.
func (v *Vault) Zone(n *Node) (string, error) {
	switch {
	case n.kind != sIFDIR:
		return "", syscall.ENOTDIR
	case n == v.root:
		return v.current.Load().Key, nil
	}
	return v.ownZone(n)
}

// SetZone makes directory n an encryption zone: files below it, whose data key is bound from now on, get it from the CMK
// key, which is an alias, id or ARN; "" makes it none. It is durable when SetZone returns. Files that have a key keep it until
// they are rewrapped. For the root it changes the CMK of the vault, which cannot be "".
func (v *Vault) SetZone(ctx context.Context, n *Node, key string) error {
	switch {
	case n.kind != sIFDIR:
		return syscall.ENOTDIR
	case v.readOnly:
		return ErrReadOnly
	case key == "" && n == v.root, len(key) > envelope.ZoneKeyMax:
		return syscall.EINVAL
	}
	if key != "" {
		if err := v.checkZoneKey(ctx, key); err != nil {
			return err
		}
	}
	if n == v.root {
		return v.changeConfig(func(c *envelope.Config) bool {
			changes := c.Key != key
			c.Key = key
			return changes
		})
	}
	if key != "" {
		if err := v.changeConfig(func(c *envelope.Config) bool {
			if slices.Contains(c.Features, envelope.FeatureZones) {
				return false
			}
			c.Features = append(c.Features, envelope.FeatureZones)
			return true
		}); err != nil {
			return err
		}
	}
	d, err := v.use(n)
	if err != nil {
		return err
	}
	defer d.put()
	d.names.Lock()
	defer d.names.Unlock()
	if d.removed {
		return syscall.ENOENT
	}
	st, err := d.h.Stat()
	if err != nil {
		return err
	}
	if err := writeAside(d.h, zoneAside, envelope.DirFileName, v.keys.MarshalDirFile(d.id, key)); err != nil {
		return n.fail("set zone", err)
	}
	if err := d.h.Utimes(st.Atim, st.Mtim); err != nil { // nothing that shows has changed
		v.log.Warn("cannot put the times of a directory back", "inode", n.ino, "err", err)
	}
	d.mu.Lock()
	d.zone = key
	d.mu.Unlock()
	return nil
}

// setZoneXattr is Setxattr of XattrZone.
func (v *Vault) setZoneXattr(ctx context.Context, n *Node, key string, flags int) error {
	const create, replace = 1, 2 // XATTR_CREATE and XATTR_REPLACE
	zone, err := v.Zone(n)
	switch {
	case err != nil:
		return err
	case key == "":
		return syscall.EINVAL
	case flags&create != 0 && zone != "":
		return syscall.EEXIST
	case flags&replace != 0 && zone == "":
		return syscall.ENODATA
	}
	return v.SetZone(ctx, n, key)
}

// removeZoneXattr is Removexattr of XattrZone.
func (v *Vault) removeZoneXattr(ctx context.Context, n *Node) error {
	zone, err := v.Zone(n)
	if err == nil && zone == "" {
		err = syscall.ENODATA
	}
	if err != nil {
		return err
	}
	return v.SetZone(ctx, n, "")
}

// checkZoneKey refuses a CMK that makes no data keys now.
func (v *Vault) checkZoneKey(ctx context.Context, key string) error {
	if _, err := keysource.KeyRef(key).Parse(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.deadline)
	defer cancel()
	m, err := v.ks.DescribeKey(ctx, keysource.KeyRef(key))
	switch {
	case errors.Is(err, keysource.ErrDenied): // who may not describe it may still use it
		return nil
	case err != nil:
		return fmt.Errorf("encryption zone: %w", err)
	case !m.Enabled:
		return fmt.Errorf("encryption zone: %w", keysource.NewError("DescribeKey", key, keysource.CodeDisabled, "its state is "+string(m.KeyState)))
	}
	return nil
}

// changeConfig replaces vault.json where change says that it has changed it, and takes it over.
func (v *Vault) changeConfig(change func(c *envelope.Config) bool) error {
	changed := false
	err := v.sidecar.Locked(func() error {
		cfg, err := ReadConfig(v.top)
		if err != nil {
			return err
		}
		if err := cfg.Verify(v.keys); err != nil {
			return err
		}
		if changed = change(cfg); !changed {
			return nil
		}
		b, err := cfg.Marshal(v.keys)
		if err != nil {
			return err
		}
		return WriteConfig(v.ctlDir, b)
	})
	if err == nil {
		err = v.watch.reload()
	}
	return err
}
