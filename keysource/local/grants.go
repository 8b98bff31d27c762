package local

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"unicode/utf8"

	"kmsfs/keysource"
)

// grantIDSize is the size of a grant id in bytes.
const grantIDSize = 32

// Limits of AWS KMS.
const (
	maxGrants    = 50_000 // of one CMK
	maxGrantText = 256    // bytes of a name or ARN
)

// CreateGrant adds a grant to a CMK and returns it with its id. A grant with a name that the CMK has already, and all
// else the same, is that one.
func (s *Store) CreateGrant(ctx context.Context, key keysource.KeyRef, g keysource.Grant) (keysource.Grant, error) {
	const op = "CreateGrant"
	if err := checkGrant(op, g); err != nil {
		return keysource.Grant{}, err
	}
	var id [grantIDSize]byte
	if err := s.fillRandom(id[:]); err != nil {
		return keysource.Grant{}, err
	}
	g.ID, g.CreationDate = hex.EncodeToString(id[:]), s.now()
	g.Operations = slices.Clone(g.Operations)
	g.ContextSubset, g.ContextEquals = g.ContextSubset.Clone(), g.ContextEquals.Clone()
	err := s.update(ctx, op, func(sn *snapshot) error {
		k, err := sn.find(op, key)
		if err != nil {
			return err
		}
		if err := s.usable(op, k); err != nil {
			return err
		}
		for _, old := range k.grants {
			if g.Name != "" && sameGrant(old, g) {
				g = old
				return errNoChange
			}
		}
		if len(k.grants) >= maxGrants {
			return fail(op, k.arn, keysource.CodeLimitExceeded, "%s has %d grants already.", k.arn, len(k.grants))
		}
		return sn.change(k, func(k *cmk) error {
			k.grants = append(k.grants, g)
			slices.SortFunc(k.grants, func(a, b keysource.Grant) int { return strings.Compare(a.ID, b.ID) })
			return nil
		})
	})
	if err != nil {
		return keysource.Grant{}, err
	}
	return g, nil
}

// RevokeGrant removes a grant of a CMK, in whatever state the CMK is.
func (s *Store) RevokeGrant(ctx context.Context, key keysource.KeyRef, grantID string) error {
	const op = "RevokeGrant"
	return s.update(ctx, op, func(sn *snapshot) error {
		k, err := sn.find(op, key)
		if err != nil {
			return err
		}
		return sn.change(k, func(k *cmk) error {
			i := slices.IndexFunc(k.grants, func(g keysource.Grant) bool { return g.ID == grantID })
			if i < 0 {
				return fail(op, k.arn, keysource.CodeNotFound, "Grant ID %s is not found.", clip(grantID))
			}
			k.grants = slices.Delete(k.grants, i, i+1)
			return nil
		})
	})
}

// sameGrant tells whether two grants differ in nothing but id and date.
func sameGrant(a, b keysource.Grant) bool {
	return a.Name == b.Name && a.GranteePrincipal == b.GranteePrincipal && a.RetiringPrincipal == b.RetiringPrincipal &&
		a.IssuingAccount == b.IssuingAccount && slices.Equal(a.Operations, b.Operations) &&
		a.ContextSubset.Equal(b.ContextSubset) && a.ContextEquals.Equal(b.ContextEquals) &&
		(a.ContextSubset == nil) == (b.ContextSubset == nil) && (a.ContextEquals == nil) == (b.ContextEquals == nil)
}

// checkGrant bounds what a grant holds.
func checkGrant(op string, g keysource.Grant) error {
	for field, text := range map[string]string{"granteePrincipal": g.GranteePrincipal, "retiringPrincipal": g.RetiringPrincipal,
		"name": g.Name, "issuingAccount": g.IssuingAccount} {
		if len(text) > maxGrantText || !utf8.ValidString(text) {
			return errValue(op, field, "UTF-8 and not longer than 256")
		}
	}
	switch {
	case g.GranteePrincipal == "":
		return errValue(op, "granteePrincipal", "not null")
	case len(g.Operations) == 0:
		return errValue(op, "operations", "not empty")
	case g.ContextSubset != nil && g.ContextEquals != nil:
		return errValue(op, "constraints", "one of encryptionContextSubset and encryptionContextEquals")
	}
	for _, c := range []keysource.Context{g.ContextSubset, g.ContextEquals} {
		if err := c.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// clip bounds text of the caller's in a message.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 128)], "?") }
