package local

import (
	"context"
	"strings"

	"kmsfs/keysource"
)

// CreateAlias names the CMK target. The alias must not exist, and must not begin with "alias/aws/".
func (s *Store) CreateAlias(ctx context.Context, name string, target keysource.KeyRef) error {
	const op = "CreateAlias"
	if err := checkAlias(op, name); err != nil {
		return err
	}
	return s.update(ctx, op, func(sn *snapshot) error {
		if sn.aliases[name] != nil {
			return fail(op, "", keysource.CodeAlreadyExists, "An alias with the name %s already exists", sn.arnPrefix()+name)
		}
		k, err := aliasTarget(op, sn, target)
		if err != nil {
			return err
		}
		now := s.now()
		sn.aliases[name] = &alias{name, k.id, now, now}
		return nil
	})
}

// UpdateAlias moves an alias to another CMK. Nothing else changes: files name the CMK itself.
func (s *Store) UpdateAlias(ctx context.Context, name string, target keysource.KeyRef) error {
	const op = "UpdateAlias"
	if err := checkAlias(op, name); err != nil {
		return err
	}
	return s.update(ctx, op, func(sn *snapshot) error {
		old := sn.aliases[name]
		if old == nil {
			return errNoAlias(op, sn, name)
		}
		k, err := aliasTarget(op, sn, target)
		if err != nil {
			return err
		}
		if old.target == k.id {
			return errNoChange
		}
		sn.aliases[name] = &alias{name, k.id, old.created, s.now()}
		return nil
	})
}

// DeleteAlias removes an alias. The CMK stays as it is.
func (s *Store) DeleteAlias(ctx context.Context, name string) error {
	const op = "DeleteAlias"
	if err := checkAlias(op, name); err != nil {
		return err
	}
	return s.update(ctx, op, func(sn *snapshot) error {
		if sn.aliases[name] == nil {
			return errNoAlias(op, sn, name)
		}
		delete(sn.aliases, name)
		return nil
	})
}

// ListAliases returns the aliases of one CMK, or with an empty key all of them, by name.
func (s *Store) ListAliases(ctx context.Context, key keysource.KeyRef) ([]keysource.AliasListEntry, error) {
	var list []keysource.AliasListEntry
	err := s.with(ctx, func(sn *snapshot) error {
		list = nil
		var only *cmk
		if key != "" {
			k, err := sn.find("ListAliases", key)
			if err != nil {
				return err
			}
			only = k
		}
		for _, a := range sn.sortedAliases() {
			if only == nil || only.id == a.target {
				list = append(list, keysource.AliasListEntry{AliasName: a.name, AliasARN: sn.arnPrefix() + a.name,
					TargetKeyID: a.target.String(), CreationDate: a.created, LastUpdatedDate: a.updated})
			}
		}
		return nil
	})
	return list, err
}

// checkAlias refuses a name that is no alias or is reserved.
func checkAlias(op, name string) error {
	if !keysource.ValidAliasName(name) {
		return keysource.WithHint(fail(op, "", keysource.CodeInvalidAliasName,
			"%q is not an alias: alias/ and letters, digits, / _ - : up to 256 bytes", name), "write alias/NAME")
	}
	if strings.HasPrefix(name, keysource.ReservedAliasPrefix) {
		return fail(op, "", keysource.CodeInvalidAliasName, "%s is reserved: alias/aws/ is for AWS managed keys", name)
	}
	return nil
}

// aliasTarget finds the CMK that an alias is to name.
func aliasTarget(op string, sn *snapshot, target keysource.KeyRef) (*cmk, error) {
	k, err := sn.find(op, target)
	if err != nil {
		return nil, err
	}
	if err := customerManaged(op, k); err != nil {
		return nil, err
	}
	if k.state == keysource.KeyStatePendingDeletion {
		return nil, errState(op, k.arn, k.state)
	}
	n := 0
	for _, a := range sn.aliases {
		if a.target == k.id {
			n++
		}
	}
	if n >= maxAliasesPerKey {
		return nil, fail(op, k.arn, keysource.CodeLimitExceeded, "%s has %d aliases already.", k.arn, n)
	}
	return k, nil
}

// errNoAlias is AWS's error for an alias that is not there.
func errNoAlias(op string, sn *snapshot, name string) error {
	return fail(op, "", keysource.CodeNotFound, "Alias %s is not found.", sn.arnPrefix()+name)
}
