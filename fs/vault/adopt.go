package vault

import (
	"crypto/rand"
	"errors"
	"slices"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Adopt gives a stored object, entry in the stored directory from, the name name in dir: what it is there does not open under
// its stored name, as it was put there without the key. from is of the same backing file system; nothing else may be at work on
// the object. EEXIST where the name is taken. The companions of a long stored name stay behind.
func (v *Vault) Adopt(from backing.Dir, entry string, dir *Node, name string) error {
	return v.make(dir, name, func(d *dirState, sealed string) error {
		return from.Rename(entry, d.h, sealed, RenameNoReplace)
	})
}

// PeekName is envelope.VolumeKeys.PeekName: what a stored name opens as in the directory that it is of, whichever that is.
func (v *Vault) PeekName(entry, longCipher string) (string, error) {
	return v.keys.PeekName(entry, longCipher)
}

// HasDirID says whether the stored directory h has an id of this vault, or one of a later version.
func (v *Vault) HasDirID(h backing.Dir) (bool, error) {
	_, _, err := v.readDirFile(h)
	if err == nil || errors.Is(err, envelope.ErrUnsupported) {
		return true, nil
	}
	if errors.Is(err, ErrCorrupt) {
		err = nil
	}
	return false, err
}

// RecoverDirID returns what the id file of the stored directory h, which has no valid one, was: where one bit of it has changed its
// MAC tells which, and where more of it has changed but not the id, the names in the directory tell that it is the id; then zone says
// whether there was an encryption zone, which nothing tells. A file that was about to take its place counts as well. nil where
// nothing tells. Nothing is written.
func (v *Vault) RecoverDirID(h backing.Dir) (file []byte, zone bool, err error) {
	var names []string
	var long envelope.Companions
	if err := h.ReadDir(func(e backing.Entry) bool {
		long.Add(e.Name)
		if envelope.IsSealedName(e.Name) {
			names = append(names, e.Name)
		}
		return true
	}); err != nil {
		return nil, false, err
	}
	proves := func(id envelope.DirID) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			_, err := v.keys.OpenName(id, name, long.Cipher(name))
			return err == nil
		})
	}
	for _, name := range []string{envelope.DirFileName, zoneAside} {
		b, err := wholeDirFile(h, name)
		if err != nil {
			if errors.Is(err, syscall.ENOENT) || backing.OtherKind(err) {
				continue
			}
			return nil, false, err
		}
		if v.keys.MendDirFile(b) {
			if id, _, err := v.keys.ParseDirFile(b); err == nil && (len(names) == 0 || proves(id)) {
				return b, false, nil
			}
		}
		if _, _, err := v.keys.ParseDirFile(b); len(b) >= envelope.DirFileSize && !errors.Is(err, envelope.ErrUnsupported) {
			if id := envelope.DirID(b[8:24]); proves(id) {
				return v.keys.MarshalDirFile(id, ""), len(b) > envelope.DirFileSize, nil
			}
		}
	}
	return nil, false, nil
}

// SetDirID makes file, of RecoverDirID, the id file of the stored directory h, durably; nil: one with an id of its own, under which none
// of the names in it opens.
func (v *Vault) SetDirID(h backing.Dir, file []byte) error {
	if v.readOnly {
		return ErrReadOnly
	}
	if file == nil {
		var id envelope.DirID
		rand.Read(id[:])
		file = v.keys.MarshalDirFile(id, "")
	}
	return writeAside(h, zoneAside, envelope.DirFileName, file)
}
