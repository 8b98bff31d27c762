package kms

import (
	"context"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// CreateAlias names a CMK. It needs the permission on the alias, in an identity policy, and on the CMK.
func (s *Service) CreateAlias(ctx context.Context, c *Call, in *CreateAliasInput) (*NoOutput, error) {
	return serve(s, c, "CreateAlias", in, func(r *request) (*NoOutput, error) {
		k, err := r.aliased(ctx, in.AliasName, in.TargetKeyID)
		if err != nil {
			return nil, err
		}
		if err := r.allowed(k); err != nil {
			return nil, err
		}
		return done(s.store.CreateAlias(ctx, in.AliasName, keysource.KeyRef(k.ARN)))
	})
}

// UpdateAlias moves an alias. It needs the permission on the alias, in an identity policy, and on both CMKs.
func (s *Service) UpdateAlias(ctx context.Context, c *Call, in *UpdateAliasInput) (*NoOutput, error) {
	return serve(s, c, "UpdateAlias", in, func(r *request) (*NoOutput, error) {
		k, err := r.aliased(ctx, in.AliasName, in.TargetKeyID)
		if err != nil {
			return nil, err
		}
		old, err := r.key(ctx, "AliasName", in.AliasName, byAlias)
		if err != nil {
			return nil, err
		}
		if err := first(r.authorize(old, permission{action: r.op}), r.allowed(k)); err != nil {
			return nil, err
		}
		return done(s.store.UpdateAlias(ctx, in.AliasName, keysource.KeyRef(k.ARN)))
	})
}

// DeleteAlias removes an alias. It needs the permission on the alias, in an identity policy, and on the CMK.
func (s *Service) DeleteAlias(ctx context.Context, c *Call, in *DeleteAliasInput) (*NoOutput, error) {
	return serve(s, c, "DeleteAlias", in, func(r *request) (*NoOutput, error) {
		if err := r.alias(in.AliasName); err != nil {
			return nil, err
		}
		k, err := r.key(ctx, "AliasName", in.AliasName, byAlias)
		if err != nil {
			return nil, err
		}
		if err := r.authorize(k, permission{action: r.op}); err != nil {
			return nil, err
		}
		return done(s.store.DeleteAlias(ctx, in.AliasName))
	})
}

// aliased finds the CMK that an alias is to name, may the caller do that to both.
func (r *request) aliased(ctx context.Context, name, target string) (*local.Key, error) {
	if err := r.alias(name); err != nil {
		return nil, err
	}
	k, err := r.key(ctx, "TargetKeyId", target, byID)
	if err != nil {
		return nil, err
	}
	return k, r.authorize(k, permission{action: r.op})
}

// alias checks the form of an alias name and the permission on it.
func (r *request) alias(name string) error {
	switch {
	case name == "":
		return r.null("AliasName")
	case len(name) > 256:
		return r.invalid("AliasName", "have length less than or equal to 256")
	case !keysource.ValidAliasName(name):
		return r.refuse("", keysource.CodeInvalidAliasName, "Alias must start with the prefix \"alias/\" and hold only a-z, A-Z, 0-9, :, /, _ and -.")
	}
	arn := r.s.arnPrefix() + name
	r.concerns(arn, r.s.account)
	return r.authorizeAccount(arn, permission{action: r.op})
}

// ListAliases lists the aliases of the account, or of one CMK, by name.
func (s *Service) ListAliases(ctx context.Context, c *Call, in *ListAliasesInput) (*ListAliasesOutput, error) {
	return serve(s, c, "ListAliases", in, func(r *request) (*ListAliasesOutput, error) {
		if err := r.authorizeAccount("*", permission{action: r.op}); err != nil {
			return nil, err
		}
		ref := keysource.KeyRef("")
		if in.KeyID != "" {
			k, err := r.key(ctx, "KeyId", in.KeyID, byID)
			if err != nil {
				return nil, err
			}
			ref = keysource.KeyRef(k.ARN)
		}
		list, err := s.store.ListAliases(ctx, ref)
		if err != nil {
			return nil, err
		}
		p, err := paged(r, list, func(a keysource.AliasListEntry) string { return a.AliasName }, in.Limit, 100, 50, in.Marker)
		if err != nil {
			return nil, err
		}
		out := &ListAliasesOutput{Aliases: []AliasListEntry{}, NextMarker: p.next, Truncated: p.truncated}
		for _, a := range p.items {
			out.Aliases = append(out.Aliases, AliasListEntry{AliasName: a.AliasName, AliasARN: a.AliasARN,
				TargetKeyID: a.TargetKeyID, CreationDate: newTime(a.CreationDate), LastUpdatedDate: newTime(a.LastUpdatedDate)})
		}
		return out, nil
	})
}
