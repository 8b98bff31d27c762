package vault

import (
	"bytes"
	"fmt"
)

// A tool that keeps no hard links makes two stored files of one, with the same file id, whose data key is one record. To erase that
// when one of them is deleted would lose the other. So the lock file says which file it is itself; where it is another, the vault is
// a copy, and no record is erased there but those that this mount has made.

// markMost is more than a mark has.
const markMost = 64

// ownMark is what the lock file of a vault that is no copy holds: its inode number and, where it is known, its birth.
func (v *Vault) ownMark() ([]byte, error) {
	st, err := v.ctlDir.StatBirth(lockName)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%d %d.%09d\n", st.Ino, st.Btim.Sec, st.Btim.Nsec), nil
}

// lookForCopy notes whether the vault is a copy. The lock is held. A vault without a mark gets one.
func (v *Vault) lookForCopy() error {
	own, err := v.ownMark()
	if err != nil {
		return err
	}
	b := make([]byte, markMost)
	n, err := v.lock.ReadAt(b, 0)
	switch {
	case err != nil:
		return err
	case n == 0:
		_, err = v.lock.WriteAt(own, 0)
		return err
	case !bytes.Equal(b[:n], own):
		v.copied.Store(true)
		v.log.Info("the vault is a copy: keys of files that are deleted stay, as a copy may have two files of one key; kmsfs fsck --repair looks")
	}
	return nil
}

// Claim makes the vault, which is open for writing, no copy any more. The caller knows that no two stored files have the same file id.
func (v *Vault) Claim() error {
	own, err := v.ownMark()
	if err != nil {
		return err
	}
	if err := v.lock.Truncate(0); err != nil {
		return err
	}
	if _, err := v.lock.WriteAt(own, 0); err != nil {
		return err
	}
	v.copied.Store(false)
	return v.lock.Sync()
}
