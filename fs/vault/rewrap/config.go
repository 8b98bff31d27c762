package rewrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// config rewraps the volume key, and names the CMK of new files where Options.To changes it. Where anything was rewrapped it
// replaces the config in any case: running mounts notice that, and give up the keys that they have made ahead. It fails with
// ErrKeyKept where all is done but that the CMK of new files stays.
func (r *run) config(ctx context.Context) error {
	for {
		again, err := r.configOnce(ctx)
		if err != nil || !again {
			return err
		}
	}
}

// configOnce tells to begin again where another has changed the config meanwhile.
func (r *run) configOnce(ctx context.Context) (again bool, err error) {
	cfg, err := vault.ReadConfig(r.top)
	if err != nil {
		return false, err
	}
	if cfg.Volume != r.cfg.Volume {
		return false, fmt.Errorf("%w: another vault's config has taken the place of this one's", envelope.ErrCorrupt)
	}
	seen, err := cfg.Remarshal()
	if err != nil {
		return false, err
	}
	r.cfg = cfg
	pl, planErr := r.plan(ctx, cfg.Wrappings, r.base())
	change := r.changesKey(ctx)
	r.volumeKey = r.volumeKey || pl != nil || planErr != nil
	if r.o.DryRun {
		r.keyChanged = change
		if pl != nil {
			r.countCalls(pl)
		}
		return false, planErr
	}
	if pl == nil && planErr == nil && !change && r.counts.rewrapped.Load() == 0 {
		return false, nil
	}
	was := slices.Clone(cfg.Wrappings)
	var reqID string
	if err = planErr; err == nil && pl != nil {
		var ws []envelope.Wrapping
		ws, reqID, err = r.wrap(ctx, pl, envelope.VolumeContext(cfg.Volume), func(key []byte) error {
			vk, err := envelope.NewVolumeKeys(key)
			if err != nil {
				return err
			}
			defer vk.Wipe()
			return cfg.Verify(vk)
		})
		if err == nil {
			cfg.Wrappings = ws
		}
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil { // the volume key stays as it is
		r.counts.failed.Add(1)
		r.log.Warn("the volume key was not rewrapped", "err", err)
		if err := r.event(envelope.Locator{}, envelope.FileID{}, ResultFailed, &plan{ws: was}, nil, reqID, err); err != nil {
			return false, err
		}
	}
	b, kept, err := r.seal(ctx, cfg, was, change)
	if err != nil {
		return false, err
	}
	err = r.sc.Locked(func() error {
		now, err := vault.ReadConfig(r.top)
		if err != nil {
			return err
		}
		there, err := now.Remarshal()
		if err != nil {
			return err
		}
		if !bytes.Equal(there, seen) {
			again = true
			return nil
		}
		return vault.WriteConfig(r.ctl, b)
	})
	if err != nil || again {
		return again, err
	}
	r.changed, r.keyChanged = true, change && kept == nil
	if !slices.EqualFunc(was, cfg.Wrappings, func(a, b envelope.Wrapping) bool { return bytes.Equal(a.Blob, b.Blob) }) {
		if err := r.event(envelope.Locator{}, envelope.FileID{}, ResultRewrapped, &plan{ws: was}, cfg.Wrappings, reqID, nil); err != nil {
			return false, err
		}
	}
	return false, kept
}

// changesKey tells whether new files are to get another CMK than now.
func (r *run) changesKey(ctx context.Context) bool {
	if r.o.To == "" {
		return false
	}
	old, to := r.describe(ctx, keysource.KeyRef(r.cfg.Key)), r.describe(ctx, r.o.To)
	if old.arn == to.arn {
		return false
	}
	return r.from == "" || r.from == r.cfg.Key || keysource.KeyRef(r.from).Matches(old.arn)
}

// seal returns the config as a file, with the new key where it changes: that needs the volume key. kept is why it does not.
func (r *run) seal(ctx context.Context, cfg *envelope.Config, old []envelope.Wrapping, change bool) (b []byte, kept, err error) {
	if !change {
		b, err = cfg.Remarshal()
		return b, nil, err
	}
	vk, err := r.volumeKeyOf(ctx, cfg, old)
	switch {
	case errors.Is(err, keysource.ErrDenied):
		kept = fmt.Errorf("%w: %w", ErrKeyKept, err)
		b, err = cfg.Remarshal()
		return b, kept, err
	case err != nil:
		return nil, nil, err
	}
	defer vk.Wipe()
	cfg.Key = string(r.o.To)
	b, err = cfg.Marshal(vk)
	return b, nil, err
}

// volumeKeyOf decrypts the volume key, from a new wrapping or an old one, and verifies the config with it.
func (r *run) volumeKeyOf(ctx context.Context, cfg *envelope.Config, old []envelope.Wrapping) (vk *envelope.VolumeKeys, err error) {
	var errs []error
	for _, w := range append(slices.Clone(cfg.Wrappings), old...) {
		err := r.patiently(ctx, func(ctx context.Context) error {
			r.counts.calls.Add(1)
			dk, err := r.ks.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: w.Blob, EncryptionContext: envelope.VolumeContext(cfg.Volume),
				KeyID: keysource.KeyRef(w.KeyARN)})
			if err != nil {
				return err
			}
			defer dk.Plaintext.Wipe()
			keys, err := envelope.NewVolumeKeys(dk.Plaintext.Bytes())
			if err != nil {
				return err
			}
			if err := cfg.Verify(keys); err != nil {
				keys.Wipe()
				return err
			}
			vk = keys
			return nil
		})
		if err == nil {
			return vk, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("volume key: %w", errors.Join(errs...))
}
