package memfs

import "kmsfs/fs/backing"

// The calls of Dir on the attributes of what has a name.

func (d *dir) StatAt(name string) (backing.Stat, error) {
	in, err := d.find(name)
	if err != nil {
		return backing.Stat{}, err
	}
	defer d.fs.mu.Unlock()
	return in.stat(), nil
}

func (d *dir) StatBirth(name string) (backing.Stat, error) {
	in, err := d.find(name)
	if err != nil {
		return backing.Stat{}, err
	}
	defer d.fs.mu.Unlock()
	st := in.stat()
	st.Btim = in.btim
	return st, nil
}

func (d *dir) ChmodAt(name string, mode uint32) error {
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	return d.fs.chmod(in, mode)
}

func (d *dir) ChownAt(name string, uid, gid uint32) error {
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	return d.fs.chown(in, uid, gid)
}

func (d *dir) UtimesAt(name string, atime, mtime backing.Timespec) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	if atime.Nsec == backing.UtimeOmit && mtime.Nsec == backing.UtimeOmit {
		return nil // utimensat(2): not even the name is looked at
	}
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	return d.fs.utimes(in, atime, mtime)
}

func (d *dir) GetxattrAt(name, attr string, buf []byte) (int, error) {
	if err := backing.CheckName(name); err != nil {
		return 0, err
	}
	if err := checkAttr(attr); err != nil { // before the lookup, as the kernel does
		return 0, err
	}
	in, err := d.find(name)
	if err != nil {
		return 0, err
	}
	defer d.fs.mu.Unlock()
	return d.fs.getxattr(in, attr, buf)
}

func (d *dir) SetxattrAt(name, attr string, value []byte, flags int) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	if err := checkSet(attr, value, flags); err != nil { // before the lookup, as the kernel does
		return err
	}
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	return d.fs.setxattr(in, attr, value, flags)
}

func (d *dir) RemovexattrAt(name, attr string) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	if err := checkAttr(attr); err != nil { // before the lookup, as the kernel does
		return err
	}
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	return d.fs.removexattr(in, attr)
}

func (d *dir) ListxattrAt(name string, buf []byte) (int, error) {
	in, err := d.find(name)
	if err != nil {
		return 0, err
	}
	defer d.fs.mu.Unlock()
	return d.fs.listxattr(in, buf)
}
