package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault/sidecar"
)

// record reads the record at loc, which must be that of file id.
func (v *Vault) record(loc envelope.Locator, id envelope.FileID) (*envelope.Record, error) {
	r, err := v.sidecar.Record(loc, id)
	return r, noKey(err)
}

// noKey makes an ErrNoKey of an error that says that the record is not there to be read.
func noKey(err error) error {
	if errors.Is(err, sidecar.ErrNoRecord) {
		return fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return err
}

// fileKey unwraps the data key of file id, whose record is at loc, and where the file is being reencrypted the previous one. A record that does not open is read again under the
// name of its table: it may have been rewrapped, and its old CMK be gone.
func (v *Vault) fileKey(ctx context.Context, loc envelope.Locator, id envelope.FileID) (*envelope.FileKey, *previous, error) {
	r, err := v.record(loc, id)
	if errors.Is(err, ErrNoKey) { // what is kept open of the table may be old
		r, err = v.sidecar.Reread(loc, id)
		err = noKey(err)
	}
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	defer func() { v.ahead.asked(loc, time.Since(began)) }()
	fk, err := v.unwrap(ctx, r)
	if err == nil {
		return withPrevious(fk, r)
	}
	now, e := v.sidecar.Reread(loc, id)
	if e != nil || ctx.Err() != nil || slices.EqualFunc(r.Wrappings, now.Wrappings, sameWrapping) {
		return nil, nil, err
	}
	if fk, err = v.unwrap(ctx, now); err != nil {
		return nil, nil, err
	}
	return withPrevious(fk, now)
}

// previous is the data key that a file had before, which is being reencrypted.
type previous struct {
	key *envelope.FileKey
	loc envelope.Locator // of its record
}

// withPrevious returns fk, the key of r, and the previous one that r has under it, if any.
func withPrevious(fk *envelope.FileKey, r *envelope.Record) (*envelope.FileKey, *previous, error) {
	old, loc, err := fk.OpenPrevious(r)
	if err != nil {
		fk.Wipe()
		return nil, nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	if old == nil {
		return fk, nil, nil
	}
	return fk, &previous{old, loc}, nil
}

func sameWrapping(a, b envelope.Wrapping) bool {
	return a.KeyARN == b.KeyARN && bytes.Equal(a.Blob, b.Blob)
}

// unwrap returns the data key of a record, by the first of its wrappings that opens.
func (v *Vault) unwrap(ctx context.Context, r *envelope.Record) (*envelope.FileKey, error) {
	return OpenDataKey(ctx, v.ks, v.cfg.Volume, v.geo, r)
}
