package vault

import (
	"kmsfs/envelope"
)

// previousGroup returns the key of group n under the previous data key, nil where there is none.
func (f *file) previousGroup(n uint64) (*envelope.GroupKey, error) {
	if f.prev == nil {
		return nil, nil
	}
	return f.prev.key.Group(n)
}

// verifySector checks a sector under key or, where the file has one, the previous key.
func (f *file) verifySector(key *envelope.FileKey, b *envelope.IndexBlock, n uint64, sector int) error {
	err := b.VerifySector(key, n, sector)
	if err != nil && f.prev != nil && b.VerifySector(f.prev.key, n, sector) == nil {
		return nil
	}
	return err
}

// makeSure makes durable that the header names the key of a file that is being reencrypted. A kill may have left a header
// in memory alone that nobody synced; what is sealed under its key before it is durable would be lost with it. f.mu is held
// for writing.
func (f *file) makeSure() error {
	if f.prev == nil || f.sure == f.loc || f.form == formEmpty {
		return nil
	}
	if err := f.bf.DataSync(); err != nil {
		return err
	}
	f.sure = f.loc
	return nil
}

// eraseKeys gives up the records of f's keys, which belong to nothing any more.
func (f *file) eraseKeys() {
	f.v.keeper.erase(f.loc)
	if f.prev != nil {
		f.v.keeper.erase(f.prev.loc)
	}
}

// keepingTimes is keepingTime for what also reads all of the file: the access time stays too, and also where do fails.
func (f *file) keepingTimes(do func() error) error {
	st, err := f.bf.Stat()
	if err != nil {
		return err
	}
	was := f.seeTime(st)
	err = do()
	now, e := f.bf.Stat()
	if e == nil && now.Mode != st.Mode {
		e = f.bf.Chmod(st.Mode & 0o7777)
	}
	if back := f.backTo(was); e == nil && (now.Mtim != back || now.Atim != st.Atim) {
		e = f.bf.Utimes(st.Atim, back)
	}
	if err == nil {
		err = e
	}
	return err
}
