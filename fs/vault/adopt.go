package vault

import "kmsfs/fs/backing"

// Adopt gives a stored object, entry in the stored directory from, the name name in dir: what it is there does not open under
// its stored name, as it was put there without the key. from is of the same backing file system; nothing else may be at work on
// the object. EEXIST where the name is taken. The companions of a long stored name stay behind.
func (v *Vault) Adopt(from backing.Dir, entry string, dir *Node, name string) error {
	return v.make(dir, name, func(d *dirState, sealed string) error {
		return from.Rename(entry, d.h, sealed, RenameNoReplace)
	})
}
