package kms

import (
	"context"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// defaultPendingWindow is the waiting time of ScheduleKeyDeletion in days where none is given.
const defaultPendingWindow = 30

// EnableKey makes a disabled CMK usable.
func (s *Service) EnableKey(ctx context.Context, c *Call, in *EnableKeyInput) (*NoOutput, error) {
	return serve(s, c, "EnableKey", in, func(r *request) (*NoOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		return done(s.store.EnableKey(ctx, keysource.KeyRef(k.ARN)))
	})
}

// DisableKey makes a CMK unusable until EnableKey.
func (s *Service) DisableKey(ctx context.Context, c *Call, in *DisableKeyInput) (*NoOutput, error) {
	return serve(s, c, "DisableKey", in, func(r *request) (*NoOutput, error) {
		k, err := r.key(ctx, "KeyId", in.KeyID, byID)
		if err != nil {
			return nil, err
		}
		p := r.withoutUsage(ctx, k, permission{action: r.op})
		if err := first(r.authorize(k, p), r.allowed(k)); err != nil {
			return nil, err
		}
		return done(s.store.DisableKey(ctx, keysource.KeyRef(k.ARN)))
	})
}

// ScheduleKeyDeletion makes a CMK unusable now, and deletes it after 7 to 30 days.
func (s *Service) ScheduleKeyDeletion(ctx context.Context, c *Call, in *ScheduleKeyDeletionInput) (*ScheduleKeyDeletionOutput, error) {
	return serve(s, c, "ScheduleKeyDeletion", in, func(r *request) (*ScheduleKeyDeletionOutput, error) {
		days := defaultPendingWindow
		if in.PendingWindowInDays != nil {
			days = *in.PendingWindowInDays
		}
		if days < 7 || days > 30 {
			return nil, r.invalid("PendingWindowInDays", "have value between 7 and 30")
		}
		k, err := r.key(ctx, "KeyId", in.KeyID, byID)
		if err != nil {
			return nil, err
		}
		p := r.withoutUsage(ctx, k, permission{action: r.op,
			values: map[string][]string{"kms:schedulekeydeletionpendingwindowindays": number(days)}})
		if err := first(r.authorize(k, p), r.allowed(k)); err != nil {
			return nil, err
		}
		md, err := s.store.ScheduleKeyDeletion(ctx, keysource.KeyRef(k.ARN), days)
		if err != nil {
			return nil, err
		}
		out := &ScheduleKeyDeletionOutput{KeyID: md.ARN, DeletionDate: newTime(md.DeletionDate), KeyState: string(md.KeyState),
			PendingWindowInDays: days}
		c.Audit.ResponseElements = map[string]any{"keyId": out.KeyID, "deletionDate": out.DeletionDate, "keyState": out.KeyState}
		return out, nil
	})
}

// withoutUsage adds to p how many days the CMK was not used, for policies that spare CMKs in use. Where the record cannot
// be read it counts as used just now.
func (r *request) withoutUsage(ctx context.Context, k *local.Key, p permission) permission {
	days := 0
	if last, since, err := r.s.store.LastUse(ctx, keysource.KeyRef(k.ARN)); err == nil {
		if last.Time.After(since) {
			since = last.Time
		}
		days = int(r.s.cfg.Clock.Now().Sub(since) / (24 * time.Hour))
	}
	if p.values == nil {
		p.values = map[string][]string{}
	}
	p.values["kms:trailingdayswithoutkeyusage"] = number(days)
	return p
}

// CancelKeyDeletion takes a ScheduleKeyDeletion back. The CMK is then disabled.
func (s *Service) CancelKeyDeletion(ctx context.Context, c *Call, in *CancelKeyDeletionInput) (*CancelKeyDeletionOutput, error) {
	return serve(s, c, "CancelKeyDeletion", in, func(r *request) (*CancelKeyDeletionOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		md, err := s.store.CancelKeyDeletion(ctx, keysource.KeyRef(k.ARN))
		if err != nil {
			return nil, err
		}
		c.Audit.ResponseElements = map[string]any{"keyId": md.ARN}
		return &CancelKeyDeletionOutput{KeyID: md.ARN}, nil
	})
}
