package survey

import (
	"context"
	"errors"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/walk"
)

// Stored is a stored file that has a data key.
type Stored struct {
	Path string // of the stored names
	Head envelope.Header
}

// Files calls visit for each stored file in top that has a data key, with what its header says, from several goroutines. A
// file of several names is met once. It returns what could not be looked at, the first of it one by one. It needs no config:
// what is lost may be all of .kmsfs.
func Files(ctx context.Context, top backing.Dir, visit func(Stored)) (unread int64, problems []Problem, err error) {
	r := &run{top: top, visit: visit, zones: map[string]uint16{}, links: map[[2]uint64]struct{}{}}
	r.res.Zones = []Zone{{}}
	err = r.walk(ctx)
	return r.res.Unread, r.res.Problems, err
}

// File is what Files tells of the file with the given stored names, as it is now; false where it is gone, or has no data key
// any more.
func File(top backing.Dir, path string) (s Stored, ok bool, err error) {
	up, name := walk.Split(path)
	d, err := walk.Open(top, up)
	if err != nil {
		return s, false, goneIsNone(err)
	}
	defer d.Close()
	f, st, err := d.OpenStat(name, syscall.O_RDONLY, 0)
	if err != nil {
		return s, false, goneIsNone(err)
	}
	defer f.Close()
	head, keyed, err := HeadOf(f, st.Size)
	return Stored{path, head}, keyed, err
}

// goneIsNone is err, or none where it says that there is no such file.
func goneIsNone(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}
