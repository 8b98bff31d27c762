package kms

import (
	"context"

	"kmsfs/keysource"
)

// GetKeyLastUsage says when a CMK was last used with success.
func (s *Service) GetKeyLastUsage(ctx context.Context, c *Call, in *GetKeyLastUsageInput) (*GetKeyLastUsageOutput, error) {
	return serve(s, c, "GetKeyLastUsage", in, func(r *request) (*GetKeyLastUsageOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		last, since, err := s.store.LastUse(ctx, keysource.KeyRef(k.ARN))
		if err != nil {
			return nil, err
		}
		out := &GetKeyLastUsageOutput{KeyID: k.ARN, TrackingStartDate: newTime(since), KeyCreationDate: newTime(k.CreationDate),
			KeyLastUsage: &KeyLastUsageData{}}
		if last.Operation != "" {
			out.KeyLastUsage = &KeyLastUsageData{Operation: last.Operation, Timestamp: newTime(last.Time),
				CloudTrailEventID: last.EventID, KMSRequestID: last.RequestID}
		}
		return out, nil
	})
}
