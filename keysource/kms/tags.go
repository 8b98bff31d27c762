package kms

import (
	"context"

	"kmsfs/keysource"
)

// TagResource sets tags of a CMK.
func (s *Service) TagResource(ctx context.Context, c *Call, in *TagResourceInput) (*NoOutput, error) {
	return serve(s, c, "TagResource", in, func(r *request) (*NoOutput, error) {
		if in.Tags == nil {
			return nil, r.null("Tags")
		}
		tags := tagsOf(in.Tags)
		k, err := r.administered(ctx, in.KeyID, permission{tags: tags})
		if err != nil {
			return nil, err
		}
		return done(s.store.TagResource(ctx, keysource.KeyRef(k.ARN), tags))
	})
}

// UntagResource removes tags of a CMK.
func (s *Service) UntagResource(ctx context.Context, c *Call, in *UntagResourceInput) (*NoOutput, error) {
	return serve(s, c, "UntagResource", in, func(r *request) (*NoOutput, error) {
		if in.TagKeys == nil {
			return nil, r.null("TagKeys")
		}
		k, err := r.administered(ctx, in.KeyID, permission{values: map[string][]string{"aws:tagkeys": in.TagKeys}})
		if err != nil {
			return nil, err
		}
		return done(s.store.UntagResource(ctx, keysource.KeyRef(k.ARN), in.TagKeys))
	})
}

// ListResourceTags lists the tags of a CMK, by key.
func (s *Service) ListResourceTags(ctx context.Context, c *Call, in *ListResourceTagsInput) (*ListResourceTagsOutput, error) {
	return serve(s, c, "ListResourceTags", in, func(r *request) (*ListResourceTagsOutput, error) {
		k, err := r.administered(ctx, in.KeyID, permission{})
		if err != nil {
			return nil, err
		}
		p, err := paged(r, k.Tags, func(t keysource.Tag) string { return t.Key }, in.Limit, 50, 50, in.Marker)
		if err != nil {
			return nil, err
		}
		out := &ListResourceTagsOutput{Tags: []Tag{}, NextMarker: p.next, Truncated: p.truncated}
		for _, t := range p.items {
			out.Tags = append(out.Tags, Tag{TagKey: t.Key, TagValue: t.Value})
		}
		return out, nil
	})
}

// tagsOf are tags as the store has them.
func tagsOf(list []Tag) []keysource.Tag {
	var tags []keysource.Tag
	for _, t := range list {
		tags = append(tags, keysource.Tag{Key: t.TagKey, Value: t.TagValue})
	}
	return tags
}
