package kms

import (
	"context"
	"fmt"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// EnableKeyRotation has a CMK rotated every 90 to 2560 days.
func (s *Service) EnableKeyRotation(ctx context.Context, c *Call, in *EnableKeyRotationInput) (*NoOutput, error) {
	return serve(s, c, "EnableKeyRotation", in, func(r *request) (*NoOutput, error) {
		days := local.DefaultRotationPeriod
		if in.RotationPeriodInDays != nil {
			days = *in.RotationPeriodInDays
		}
		if days < 90 || days > 2560 {
			return nil, r.invalid("RotationPeriodInDays", "have value between 90 and 2560")
		}
		k, err := r.administered(ctx, in.KeyID, permission{values: map[string][]string{"kms:rotationperiodindays": number(days)}})
		if err != nil {
			return nil, err
		}
		return done(s.store.EnableKeyRotation(ctx, keysource.KeyRef(k.ARN), days))
	})
}

// DisableKeyRotation ends the automatic rotation of a CMK.
func (s *Service) DisableKeyRotation(ctx context.Context, c *Call, in *DisableKeyRotationInput) (*NoOutput, error) {
	return serve(s, c, "DisableKeyRotation", in, func(r *request) (*NoOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		return done(s.store.DisableKeyRotation(ctx, keysource.KeyRef(k.ARN)))
	})
}

// GetKeyRotationStatus says whether and when a CMK is rotated. While it is pending deletion it is not.
func (s *Service) GetKeyRotationStatus(ctx context.Context, c *Call, in *GetKeyRotationStatusInput) (*GetKeyRotationStatusOutput, error) {
	return serve(s, c, "GetKeyRotationStatus", in, func(r *request) (*GetKeyRotationStatusOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		out := &GetKeyRotationStatusOutput{KeyID: k.ARN}
		if k.RotationPeriod > 0 && k.Origin == keysource.OriginAWSKMS && k.KeyState != keysource.KeyStatePendingDeletion {
			out.KeyRotationEnabled, out.RotationPeriodInDays, out.NextRotationDate = true, k.RotationPeriod, newTime(k.NextRotation)
		}
		return out, nil
	})
}

// RotateKeyOnDemand gives a customer managed CMK new key material at once.
func (s *Service) RotateKeyOnDemand(ctx context.Context, c *Call, in *RotateKeyOnDemandInput) (*RotateKeyOnDemandOutput, error) {
	return serve(s, c, "RotateKeyOnDemand", in, func(r *request) (*RotateKeyOnDemandOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		if k.KeyManager == keysource.ManagerAWS {
			return nil, r.refuse(k.ARN, keysource.CodeAccessDenied, "%s is an AWS managed key, which %s cannot change.", k.ARN, r.op)
		}
		md, err := s.store.RotateKeyOnDemand(ctx, keysource.KeyRef(k.ARN))
		if err != nil {
			return nil, err
		}
		c.Audit.KeyMaterialID = md.CurrentKeyMaterialID
		c.Audit.ResponseElements = map[string]any{"keyId": md.ARN}
		return &RotateKeyOnDemandOutput{KeyID: md.ARN}, nil
	})
}

// numbered is a key material with its place.
type numbered struct {
	keysource.KeyRotation
	place int
}

// ListKeyRotations lists the key material of a CMK, the oldest first: what rotations made current, or with
// ALL_KEY_MATERIAL all.
func (s *Service) ListKeyRotations(ctx context.Context, c *Call, in *ListKeyRotationsInput) (*ListKeyRotationsOutput, error) {
	return serve(s, c, "ListKeyRotations", in, func(r *request) (*ListKeyRotationsOutput, error) {
		if err := r.oneOf("IncludeKeyMaterial", in.IncludeKeyMaterial, "ROTATIONS_ONLY", "ALL_KEY_MATERIAL"); err != nil {
			return nil, err
		}
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		all, err := s.store.ListKeyRotations(ctx, keysource.KeyRef(k.ARN))
		if err != nil {
			return nil, err
		}
		var list []numbered
		for i, m := range all {
			if m.RotationType != "" || in.IncludeKeyMaterial == "ALL_KEY_MATERIAL" {
				list = append(list, numbered{m, i})
			}
		}
		p, err := paged(r, list, func(n numbered) string { return fmt.Sprintf("%08d", n.place) }, in.Limit, 1000, 100, in.Marker)
		if err != nil {
			return nil, err
		}
		out := &ListKeyRotationsOutput{Rotations: []RotationsListEntry{}, NextMarker: p.next, Truncated: p.truncated}
		for _, m := range p.items {
			out.Rotations = append(out.Rotations, rotationEntry(m.KeyRotation))
		}
		return out, nil
	})
}

// rotationEntry describes a key material as AWS does.
func rotationEntry(m keysource.KeyRotation) RotationsListEntry {
	e := RotationsListEntry{KeyID: m.KeyID, KeyMaterialID: m.KeyMaterialID, KeyMaterialDescription: m.KeyMaterialDescription,
		KeyMaterialState: string(m.State), RotationType: string(m.RotationType)}
	if m.RotationType != "" {
		e.RotationDate = newTime(m.RotationDate)
	}
	if m.Origin == keysource.OriginExternal {
		e.ImportState = "IMPORTED"
		if m.Missing {
			e.ImportState = "PENDING_IMPORT"
		} else {
			e.ExpirationModel, e.ValidTo = expirationModel(newTime(m.ValidTo)), newTime(m.ValidTo)
		}
	}
	return e
}
