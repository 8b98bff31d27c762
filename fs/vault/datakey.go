package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kmsfs/envelope"
	"kmsfs/keysource"
)

// OpenVolumeKey unwraps the volume key of a config, by the first of its wrappings that opens, and verifies the config with it.
func OpenVolumeKey(ctx context.Context, ks keysource.Keysource, cfg *envelope.Config) (*envelope.VolumeKeys, error) {
	var errs []error
	for _, w := range cfg.Wrappings {
		dk, err := ks.Decrypt(ctx, keysource.DecryptInput{
			CiphertextBlob: w.Blob, EncryptionContext: envelope.VolumeContext(cfg.Volume), KeyID: keysource.KeyRef(w.KeyARN),
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		vk, err := envelope.NewVolumeKeys(dk.Plaintext.Bytes())
		dk.Plaintext.Wipe()
		if err == nil {
			if err = cfg.Verify(vk); err == nil {
				return vk, nil
			}
			vk.Wipe()
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("volume key: %w", errors.Join(errs...))
}

// NewDataKey has the keysource make a data key for file id, and returns it with its record of the time now, which stands
// nowhere yet. The record has the wrapping of the CMK named by key, where that is "" the one that cfg names, and one of each
// further CMK that has wrapped the volume key: any one of them opens the file.
func NewDataKey(ctx context.Context, ks keysource.Keysource, cfg *envelope.Config, geo envelope.Geometry, id envelope.FileID, key string, now time.Time) (*envelope.FileKey, *envelope.Record, error) {
	kc := envelope.FileContext(cfg.Volume, id)
	if key == "" {
		key = cfg.Key
	}
	dk, err := ks.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{
		KeyID: keysource.KeyRef(key), EncryptionContext: kc, NumberOfBytes: envelope.KeySize,
	})
	if err != nil {
		return nil, nil, err
	}
	defer dk.Plaintext.Wipe()
	var more []string
	for _, w := range cfg.Wrappings[1:] {
		if w.KeyARN != dk.KeyID { // an alias may have moved to it
			more = append(more, w.KeyARN)
		}
	}
	wrappings, err := wrapAll(ctx, ks, dk, kc, more)
	if err != nil {
		return nil, nil, err
	}
	fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), id, geo)
	if err != nil {
		return nil, nil, err
	}
	return fk, envelope.NewRecord(fk, id, now.UnixNano(), wrappings), nil
}

// OpenDataKey returns the data key of a record of the volume, by the first of its wrappings that opens. It fails with ErrNoKey.
func OpenDataKey(ctx context.Context, ks keysource.Keysource, volume envelope.VolumeID, geo envelope.Geometry, r *envelope.Record) (*envelope.FileKey, error) {
	var errs []error
	for _, w := range r.Wrappings {
		if w.Kind == envelope.KindPrevious {
			continue
		}
		if w.Kind != envelope.KindKeysource {
			errs = append(errs, fmt.Errorf("%w: wrapping kind %d", envelope.ErrUnsupported, w.Kind))
			continue
		}
		dk, err := ks.Decrypt(ctx, keysource.DecryptInput{
			CiphertextBlob:    w.Blob,
			EncryptionContext: envelope.FileContext(volume, r.ID),
			KeyID:             keysource.KeyRef(w.KeyARN),
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), r.ID, geo)
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
