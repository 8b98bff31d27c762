package faults

import (
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

const (
	oCreat = unix.O_CREAT
	oTrunc = unix.O_TRUNC
)

// Wrap returns d with hook before every call to it and to whatever is opened through it.
func Wrap(d backing.Dir, hook Hook) backing.Dir { return &dir{meta{d, hook}, d} }

// dir is a backing.Dir behind a hook.
type dir struct {
	meta
	in backing.Dir
}

// at asks the hook about a call on one name.
func (d *dir) at(c Call, name string) error { return d.hook.ask(Op{Call: c, Name: name}) }

// ask answers for calls that are made whole or not at all.
func (h Hook) ask(o Op) error {
	_, err := Limit(h(o), 0)
	return err
}

func (d *dir) file(f backing.File, err error) (backing.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{meta{f, d.hook}, f}, nil
}

func (d *dir) dir(o backing.Dir, err error) (backing.Dir, error) {
	if err != nil {
		return nil, err
	}
	return Wrap(o, d.hook), nil
}

// bare returns the Dir that a wrapped one wraps: implementations know only their own.
func bare(d backing.Dir) backing.Dir {
	if w, ok := d.(*dir); ok {
		return w.in
	}
	return d
}

func bareFile(f backing.File) backing.File {
	if w, ok := f.(*file); ok {
		return w.in
	}
	return f
}

func (d *dir) Open(name string, flags int, mode uint32) (backing.File, error) {
	if err := d.hook.ask(Op{Call: Open, Name: name, Flags: flags}); err != nil {
		return nil, err
	}
	return d.file(d.in.Open(name, flags, mode))
}

func (d *dir) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	if err := d.hook.ask(Op{Call: OpenStat, Name: name, Flags: flags}); err != nil {
		return nil, backing.Stat{}, err
	}
	f, st, err := d.in.OpenStat(name, flags, mode)
	f, err = d.file(f, err)
	return f, st, err
}

func (d *dir) Tmpfile(mode uint32) (backing.File, error) {
	if err := d.at(Tmpfile, ""); err != nil {
		return nil, err
	}
	return d.file(d.in.Tmpfile(mode))
}

func (d *dir) OpenDir(name string) (backing.Dir, error) {
	if err := d.at(OpenDir, name); err != nil {
		return nil, err
	}
	return d.dir(d.in.OpenDir(name))
}

func (d *dir) Dup() (backing.Dir, error) {
	if err := d.at(Dup, ""); err != nil {
		return nil, err
	}
	return d.dir(d.in.Dup())
}

func (d *dir) Mkdir(name string, mode uint32) error {
	if err := d.at(Mkdir, name); err != nil {
		return err
	}
	return d.in.Mkdir(name, mode)
}

func (d *dir) Mknod(name string, mode uint32, dev uint64) error {
	if err := d.at(Mknod, name); err != nil {
		return err
	}
	return d.in.Mknod(name, mode, dev)
}

func (d *dir) Symlink(target, name string) error {
	if err := d.at(Symlink, name); err != nil {
		return err
	}
	return d.in.Symlink(target, name)
}

func (d *dir) Readlink(name string) (string, error) {
	if err := d.at(Readlink, name); err != nil {
		return "", err
	}
	return d.in.Readlink(name)
}

func (d *dir) Unlink(name string) error {
	if err := d.at(Unlink, name); err != nil {
		return err
	}
	return d.in.Unlink(name)
}

func (d *dir) Rmdir(name string) error {
	if err := d.at(Rmdir, name); err != nil {
		return err
	}
	return d.in.Rmdir(name)
}

func (d *dir) Rename(name string, to backing.Dir, newName string, flags uint32) error {
	if err := d.hook.ask(Op{Call: Rename, Name: name, NewName: newName, Flags: int(flags)}); err != nil {
		return err
	}
	return d.in.Rename(name, bare(to), newName, flags)
}

func (d *dir) Link(name string, to backing.Dir, newName string) error {
	if err := d.hook.ask(Op{Call: Link, Name: name, NewName: newName}); err != nil {
		return err
	}
	return d.in.Link(name, bare(to), newName)
}

func (d *dir) LinkFile(f backing.File, name string) error {
	if err := d.at(LinkFile, name); err != nil {
		return err
	}
	return d.in.LinkFile(bareFile(f), name)
}

func (d *dir) ReadDir(f func(backing.Entry) bool) error {
	if err := d.at(ReadDir, ""); err != nil {
		return err
	}
	return d.in.ReadDir(f)
}

func (d *dir) Statfs() (backing.Statfs, error) {
	if err := d.at(Statfs, ""); err != nil {
		return backing.Statfs{}, err
	}
	return d.in.Statfs()
}

func (d *dir) Sync() error {
	if err := d.at(Sync, ""); err != nil {
		return err
	}
	return d.in.Sync()
}

func (d *dir) SyncFS() error {
	if err := d.at(SyncFS, ""); err != nil {
		return err
	}
	return d.in.SyncFS()
}
