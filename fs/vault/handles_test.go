package vault_test

import (
	"sync/atomic"

	"kmsfs/fs/backing"
)

// counted is a directory that counts the handles open in it and below.
type counted struct {
	backing.Dir
	open *atomic.Int64
}

type countedFile struct {
	backing.File
	open *atomic.Int64
}

func countHandles(d backing.Dir, open *atomic.Int64) backing.Dir {
	open.Add(1)
	return &counted{d, open}
}

func (d *counted) dir(n backing.Dir, err error) (backing.Dir, error) {
	if err != nil {
		return nil, err
	}
	return countHandles(n, d.open), nil
}

func (d *counted) file(f backing.File, err error) (backing.File, error) {
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &countedFile{f, d.open}, nil
}

func bare(d backing.Dir) backing.Dir { return d.(*counted).Dir }

func (d *counted) Open(name string, flags int, mode uint32) (backing.File, error) {
	return d.file(d.Dir.Open(name, flags, mode))
}

func (d *counted) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	f, st, err := d.Dir.OpenStat(name, flags, mode)
	f, err = d.file(f, err)
	return f, st, err
}

func (d *counted) Tmpfile(mode uint32) (backing.File, error) { return d.file(d.Dir.Tmpfile(mode)) }
func (d *counted) OpenDir(name string) (backing.Dir, error)  { return d.dir(d.Dir.OpenDir(name)) }
func (d *counted) Dup() (backing.Dir, error)                 { return d.dir(d.Dir.Dup()) }

func (d *counted) Lock(name string, mode backing.LockMode) (backing.File, error) {
	return d.file(d.Dir.Lock(name, mode))
}

func (d *counted) Rename(name string, to backing.Dir, newName string, flags uint32) error {
	return d.Dir.Rename(name, bare(to), newName, flags)
}

func (d *counted) Link(name string, to backing.Dir, newName string) error {
	return d.Dir.Link(name, bare(to), newName)
}

func (d *counted) LinkFile(f backing.File, name string) error {
	return d.Dir.LinkFile(f.(*countedFile).File, name)
}

func (d *counted) Close() error {
	d.open.Add(-1)
	return d.Dir.Close()
}

func (f *countedFile) Close() error {
	f.open.Add(-1)
	return f.File.Close()
}
