package keyfile

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/survey"
)

// Compared is how the records of a vault and of another source of the same vault differ.
type Compared struct {
	Volume    envelope.VolumeID
	Files     int64 // of the vault, that have a data key
	Same      int64 // records that are the same
	Rewrapped int64 // of the same data key, with other wrappings
	Differing int64 // at the same place, of another data key
	OnlyHere  int64
	OnlyThere int64
	// MissingHere and MissingThere are the files of the vault that have no record here, and there.
	MissingHere, MissingThere []survey.Stored
	Config                    string // of the other: same, rewrapped, or other
	DamagedHere, DamagedThere []Damage
	// Unread is how many files and directories could not be looked at, Problems which, the first of them.
	Unread   int64
	Problems []survey.Problem
}

// Complete tells whether the other source has the record of every file: it would do as a backup of the sidecar.
func (c *Compared) Complete() bool { return len(c.MissingThere) == 0 && c.Unread == 0 }

// Compare holds the records of the vault in top against those of another source. The vault may be mounted meanwhile. Where the
// other is a key file that is damaged or cut short there is an error beside what was found.
func Compare(ctx context.Context, top backing.Dir, other Source) (*Compared, error) {
	v, closing, err := OpenVault(top)
	if err != nil {
		return nil, err
	}
	defer closing()
	if v.Volume() != other.Volume() {
		return nil, fmt.Errorf("%w: volume %s is compared with volume %s", ErrOtherVault, v.Volume(), other.Volume())
	}
	seed := maphash.MakeSeed()
	here, there := newIndex(seed), newIndex(seed)
	if err := v.Tables(ctx, here.add); err != nil {
		return nil, err
	}
	damage := other.Tables(ctx, there.add)
	if damage != nil && !errors.Is(damage, envelope.ErrCorrupt) {
		return nil, damage
	}
	found, err := look(ctx, top, here, there)
	if err != nil {
		return nil, err
	}
	c := &Compared{Volume: v.Volume(), Files: found.count, Unread: found.unread, Problems: found.problems,
		DamagedHere: here.damaged, DamagedThere: there.damaged}
	c.records(here, there)
	sc := v.(*inVault).sc
	c.MissingHere = stillThere(top, found.lacking[0], func(s survey.Stored) bool { // it may have been made since
		_, err := sc.Reread(s.Head.Loc, s.Head.ID)
		return err == nil
	})
	c.MissingThere = stillThere(top, found.lacking[1], there.has)
	if c.Config, err = sameConfig(v.VaultConfig(), other.VaultConfig()); err != nil {
		return nil, err
	}
	return c, damage
}

// records counts the records.
func (c *Compared) records(here, there *index) {
	for loc, a := range here.at {
		b, ok := there.at[loc]
		switch {
		case !ok:
			c.OnlyHere++
		case a == b:
			c.Same++
		case a.id == b.id && a.body == b.body:
			c.Rewrapped++
		default:
			c.Differing++
		}
	}
	c.OnlyThere = int64(len(there.at)) - (c.Same + c.Rewrapped + c.Differing)
}

// sameConfig compares two configs of one vault.
func sameConfig(a, b *envelope.Config) (string, error) {
	equal := func(a, b *envelope.Config) (bool, error) {
		x, err := a.Remarshal()
		y, err2 := b.Remarshal()
		return string(x) == string(y), errors.Join(err, err2)
	}
	if same, err := equal(a, b); same || err != nil {
		return "same", err
	}
	c := *b
	c.Wrappings = a.Wrappings
	if same, err := equal(a, &c); same || err != nil {
		return "rewrapped", err
	}
	return "other", nil
}
