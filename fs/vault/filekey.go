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
	"kmsfs/keysource"
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

// fileKey unwraps the data key of file id, whose record is at loc. A record that does not open is read again under the
// name of its table: it may have been rewrapped, and its old CMK be gone.
func (v *Vault) fileKey(ctx context.Context, loc envelope.Locator, id envelope.FileID) (*envelope.FileKey, error) {
	r, err := v.record(loc, id)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	defer func() { v.ahead.asked(loc, time.Since(began)) }()
	fk, err := v.unwrap(ctx, r)
	if err == nil {
		return fk, nil
	}
	now, e := v.sidecar.Reread(loc, id)
	if e != nil || ctx.Err() != nil || slices.EqualFunc(r.Wrappings, now.Wrappings, sameWrapping) {
		return nil, err
	}
	return v.unwrap(ctx, now)
}

func sameWrapping(a, b envelope.Wrapping) bool {
	return a.KeyARN == b.KeyARN && bytes.Equal(a.Blob, b.Blob)
}

// unwrap returns the data key of a record, by the first of its wrappings that opens.
func (v *Vault) unwrap(ctx context.Context, r *envelope.Record) (*envelope.FileKey, error) {
	var errs []error
	for _, w := range r.Wrappings {
		if w.Kind != 0 {
			errs = append(errs, fmt.Errorf("%w: wrapping kind %d", envelope.ErrUnsupported, w.Kind))
			continue
		}
		dk, err := v.ks.Decrypt(ctx, keysource.DecryptInput{
			CiphertextBlob:    w.Blob,
			EncryptionContext: envelope.FileContext(v.cfg.Volume, r.ID),
			KeyID:             keysource.KeyRef(w.KeyARN),
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), r.ID, v.geo)
		dk.Plaintext.Wipe()
		if err == nil {
			err = r.Verify(fk)
		}
		if err == nil {
			return fk, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrNoKey, errors.Join(errs...))
}
