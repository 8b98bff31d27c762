package faults

import "kmsfs/fs/backing"

// The calls of Dir on the attributes of what has a name.

func (d *dir) StatAt(name string) (backing.Stat, error) {
	if err := d.at(StatAt, name); err != nil {
		return backing.Stat{}, err
	}
	return d.in.StatAt(name)
}

func (d *dir) StatBirth(name string) (backing.Stat, error) {
	if err := d.at(StatBirth, name); err != nil {
		return backing.Stat{}, err
	}
	return d.in.StatBirth(name)
}

func (d *dir) ChmodAt(name string, mode uint32) error {
	if err := d.at(ChmodAt, name); err != nil {
		return err
	}
	return d.in.ChmodAt(name, mode)
}

func (d *dir) ChownAt(name string, uid, gid uint32) error {
	if err := d.at(ChownAt, name); err != nil {
		return err
	}
	return d.in.ChownAt(name, uid, gid)
}

func (d *dir) UtimesAt(name string, atime, mtime backing.Timespec) error {
	if err := d.at(UtimesAt, name); err != nil {
		return err
	}
	return d.in.UtimesAt(name, atime, mtime)
}

func (d *dir) GetxattrAt(name, attr string, buf []byte) (int, error) {
	if err := d.at(GetxattrAt, name); err != nil {
		return 0, err
	}
	return d.in.GetxattrAt(name, attr, buf)
}

func (d *dir) SetxattrAt(name, attr string, value []byte, flags int) error {
	if err := d.at(SetxattrAt, name); err != nil {
		return err
	}
	return d.in.SetxattrAt(name, attr, value, flags)
}

func (d *dir) RemovexattrAt(name, attr string) error {
	if err := d.at(RemovexattrAt, name); err != nil {
		return err
	}
	return d.in.RemovexattrAt(name, attr)
}

func (d *dir) ListxattrAt(name string, buf []byte) (int, error) {
	if err := d.at(ListxattrAt, name); err != nil {
		return 0, err
	}
	return d.in.ListxattrAt(name, buf)
}
