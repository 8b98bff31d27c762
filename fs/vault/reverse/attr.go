package reverse

import (
	"hash/fnv"
	"io"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// The highest bits of the inode numbers of the view tell apart what has none in the root's file system. Others keep theirs.
const (
	inoMade    = 1 << 63
	inoForeign = 1 << 62
	inoBits    = inoMade | inoForeign
)

// inoOf is the inode number of something of the source.
func (v *View) inoOf(st *backing.Stat) uint64 {
	if st.Dev == v.rootDev && st.Ino&inoBits == 0 {
		return st.Ino
	}
	h := fnv.New64a()
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(st.Dev>>(8*i)), byte(st.Ino>>(8*i))
	}
	h.Write(b[:])
	return h.Sum64()&^inoBits | inoForeign
}

// madeIno is the inode number of something that the source does not have, in the directory at path.
func madeIno(r role, path, name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte{byte(r)})
	io.WriteString(h, path)
	h.Write([]byte{0})
	io.WriteString(h, name)
	return h.Sum64() | inoMade
}

// stat returns the attributes of what is in the directory n, as the source or the state has them.
func (v *View) stat(n *Node, r role, name string) (backing.Stat, error) {
	switch r {
	case plain:
		d, err := v.dirs.get(n)
		if err != nil {
			return backing.Stat{}, err
		}
		defer d.put()
		return d.StatAt(name)
	case controlDir:
		st, err := v.ctl.Stat()
		v.undate(&st)
		return st, err
	case config:
		return v.ctl.StatAt(configName)
	case keysDir: // else listing it, which may make a table, would change it
		st, err := v.ctl.StatAt(keysName)
		v.undate(&st)
		return st, err
	case keyTable:
		return v.statTable(name)
	}
	// A directory's id and companions: the directory's, made when the state was.
	st, err := v.statDir(n)
	if err != nil {
		return backing.Stat{}, err
	}
	st.Mode, st.Nlink, st.Size, st.Rdev = sIFREG|0o600, 1, 0, 0
	v.undate(&st)
	if r == dirFile {
		st.Size = envelope.DirFileSize
	}
	return st, nil
}

// undate gives the times of when the state was made.
func (v *View) undate(st *backing.Stat) {
	moment := backing.Timespec{Sec: v.cfg.Created.Unix()}
	st.Atim, st.Mtim, st.Ctim = moment, moment, moment
}

// statDir returns the attributes of the directory n itself.
func (v *View) statDir(n *Node) (backing.Stat, error) {
	d, err := v.dirs.get(n)
	if err != nil {
		return backing.Stat{}, err
	}
	defer d.put()
	return d.Stat()
}

// Attr returns the attributes of n in the view. It fails with [vault.ErrStale] where something else has its name.
func (v *View) Attr(n *Node) (backing.Stat, error) {
	var st backing.Stat
	var err error
	if n.parent == nil {
		st, err = v.src.Stat()
	} else if st, err = v.stat(n.parent, n.role, n.name); err == nil && (st.Ino != n.srcIno || st.Dev != n.dev || st.Mode&sIFMT != n.kind) {
		if n.role == plain {
			return backing.Stat{}, vault.ErrStale
		} // a rewrap replaces vault.json and tables
	}
	if err != nil {
		return backing.Stat{}, err
	}
	return st, v.show(n, n.parent, &st)
}

// show makes of the attributes of n, which is in dir, those of the view.
func (v *View) show(n, dir *Node, st *backing.Stat) error {
	st.Ino = n.ino
	if n.role != plain {
		st.Blocks = (st.Size + 511) / 512
		return nil
	}
	switch st.Mode & sIFMT {
	case sIFLNK:
		if st.Size == 0 { // some file systems do not say
			target, err := v.readlink(n)
			if err != nil {
				return err
			}
			st.Size = int64(len(target))
		}
		st.Size = envelope.SealedTargetSize(st.Size)
	case sIFREG:
		size, err := v.storedSize(n, dir, st.Size)
		if err != nil {
			return err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.opens > 0 { // what who reads it will get
			size = n.held
		}
		st.Blocks = v.blocks(st.Size, size, st.Blocks)
		st.Size, n.told = size, size
	}
	return nil
}

// storedSize returns the stored size of the file n, of size bytes.
func (v *View) storedSize(n, dir *Node, size int64) (int64, error) {
	switch {
	case size > envelope.MaxPlain:
		return 0, syscall.EFBIG
	case size > envelope.InlineMax:
		return v.geo.SealedSize(size), nil
	case size > 0:
		return v.geo.InlineSize(size), nil
	}
	d, err := v.dirs.get(dir)
	if err != nil {
		return 0, err
	}
	defer d.put()
	if names, err := sealable(d, n.name); err != nil || len(names) == 0 {
		return 0, err
	}
	return v.geo.InlineSize(0), nil // its attributes need a file id
}

// blocks is what a stored file would take of a disk: tools take one that takes less than its size for a sparse one.
func (v *View) blocks(size, stored, blocks int64) int64 {
	if blocks*512 >= size {
		return (stored + 511) / 512
	}
	groups := (blocks*512 + v.geo.GroupPlain() - 1) / v.geo.GroupPlain()
	return min(blocks+groups*(envelope.BlockSize/512), (stored+511)/512)
}

// Readlink returns the sealed target of a symlink.
func (v *View) Readlink(n *Node) (string, error) {
	if n.kind != sIFLNK {
		return "", syscall.EINVAL
	}
	target, err := v.readlink(n)
	if err != nil {
		return "", err
	}
	salt := v.vk.ReverseSalt(n.path)
	return v.vk.SealTarget(target, &salt)
}

func (v *View) readlink(n *Node) (string, error) {
	d, err := v.dirs.get(n.parent)
	if err != nil {
		return "", err
	}
	defer d.put()
	return d.Readlink(n.name)
}
