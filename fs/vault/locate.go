package vault

import (
	"errors"
	"fmt"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// StoredName returns how name stands in directory dir, whether it is there or not.
func (v *Vault) StoredName(dir *Node, name string) (envelope.SealedName, error) {
	d, sealed, err := v.enterDir(dir, name)
	if err != nil {
		return envelope.SealedName{}, err
	}
	d.put()
	return sealed, nil
}

// PlainName returns the name that stands in directory dir as stored, and how it stands there. It fails with ErrCorrupt where
// stored does not open: it is of another directory or vault, damaged, or without its companions.
func (v *Vault) PlainName(dir *Node, stored string) (string, envelope.SealedName, error) {
	d, err := v.use(dir)
	if err != nil {
		return "", envelope.SealedName{}, err
	}
	defer d.put()
	cipher := ""
	if envelope.IsLongEntry(stored) {
		if cipher, err = longCipher(d.h, stored); err != nil {
			return "", envelope.SealedName{}, err
		}
	}
	name, err := v.keys.OpenName(d.id, stored, cipher)
	if err != nil {
		return "", envelope.SealedName{}, fmt.Errorf("%w: stored name %q does not open: %w", ErrCorrupt, stored, err)
	}
	sealed, err := v.keys.SealName(d.id, name)
	return name, sealed, err
}

// longCipher returns what the companions of a long name in d hold.
func longCipher(d backing.Dir, entry string) (string, error) {
	var pieces [2]string
	err := d.ReadDir(func(e backing.Entry) bool {
		if tag, part, piece, ok := envelope.ParseCompanion(e.Name); ok && tag == entry {
			pieces[part] = piece
		}
		return true
	})
	return pieces[0] + pieces[1], err
}

// KeyPlace returns where the record of n's data key stands, as the header says; a Locator of zeros for what has no data
// key. A file that is damaged behind its header has one all the same: who asks may want to mend it.
func (v *Vault) KeyPlace(n *Node) (envelope.Locator, error) {
	if n.kind != sIFREG {
		return envelope.Locator{}, nil
	}
	f, err := v.acquire(n)
	if err != nil {
		return envelope.Locator{}, err
	}
	defer f.release()
	is, err := f.identify()
	if is.form == formEmpty {
		return envelope.Locator{}, n.fail("open", err)
	}
	if errors.Is(err, ErrCorrupt) {
		err = nil
	}
	return is.loc, n.fail("open", err)
}

// JournalFiles returns the names in .kmsfs/journal of a vault: what a mount that has not ended has there, or one that has
// died. None where there is no journal.
func (v *Vault) JournalFiles() ([]string, error) {
	d, err := v.ctlDir.OpenDir(journalDirName)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var names []string
	err = d.ReadDir(func(e backing.Entry) bool {
		names = append(names, e.Name)
		return true
	})
	return names, err
}
