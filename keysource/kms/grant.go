package kms

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// grantOperations are what a grant can allow here: AWS's list without the operations of asymmetric and HMAC CMKs.
var grantOperations = []string{"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom",
	"ReEncryptTo", "CreateGrant", "RetireGrant", "DescribeKey"}

// granting returns a grant that allows the caller what it asks for, or nil.
func (r *request) granting(k *local.Key, p permission) *keysource.Grant {
	for i := range k.Grants {
		g := &k.Grants[i]
		if r.isCaller(g.GranteePrincipal) && slices.Contains(g.Operations, p.action) &&
			(!p.cryptographic || meets(p.context, g)) && (p.create == nil || within(p.create, g)) {
			return g
		}
	}
	return nil
}

// isCaller tells whether arn is that of the caller.
func (r *request) isCaller(arn string) bool {
	return arn != "" && (arn == r.principal.ARN || arn == r.principal.SessionARN)
}

// meets tells whether an encryption context is as a grant wants it. Names are compared without regard to case, values
// exactly, as AWS does with grants.
func meets(ec keysource.Context, g *keysource.Grant) bool {
	switch {
	case g.ContextEquals != nil:
		return len(ec) == len(g.ContextEquals) && holds(ec, g.ContextEquals) && holds(g.ContextEquals, ec)
	case g.ContextSubset != nil:
		return holds(ec, g.ContextSubset)
	}
	return true
}

// holds tells whether all of part is in ec.
func holds(ec, part keysource.Context) bool {
	for name, value := range part {
		if !slices.Contains(folded(ec, name), value) {
			return false
		}
	}
	return true
}

// within tells whether a grant gives away no more than its parent, by which it is made: no other operations, and no
// wider constraints.
func within(child, parent *keysource.Grant) bool {
	for _, op := range child.Operations {
		if !slices.Contains(parent.Operations, op) {
			return false
		}
	}
	switch {
	case parent.ContextEquals != nil:
		return child.ContextEquals != nil && meets(child.ContextEquals, parent)
	case parent.ContextSubset != nil && child.ContextEquals != nil:
		return meets(child.ContextEquals, parent)
	case parent.ContextSubset != nil:
		return child.ContextSubset != nil && meets(child.ContextSubset, parent)
	}
	return true
}

// The layout of a grant token. It is not secret and proves nothing: grants work without it, at once.
const (
	grantTokenMagic = "kfg\x01"
	keyIDSize       = 16
	grantIDSize     = 32
)

// grantToken names a grant.
func grantToken(keyID, grantID string) string {
	b := []byte(grantTokenMagic)
	for _, text := range []string{strings.ReplaceAll(keyID, "-", ""), grantID} {
		part, err := hex.DecodeString(text)
		if err != nil {
			return "" // both are ours
		}
		b = append(b, part...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseGrantToken returns what a grant token names.
func parseGrantToken(token string) (keyID, grantID string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != len(grantTokenMagic)+keyIDSize+grantIDSize || !strings.HasPrefix(string(b), grantTokenMagic) {
		return "", "", false
	}
	b = b[len(grantTokenMagic):]
	h := hex.EncodeToString(b[:keyIDSize])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], hex.EncodeToString(b[keyIDSize:]), true
}

// grantTokens refuses what are no grant tokens. A token adds nothing: every grant is in force once it is made.
func (r *request) grantTokens(tokens []string) error {
	if len(tokens) > 10 {
		return r.invalid("GrantTokens", "have length less than or equal to 10")
	}
	for _, t := range tokens {
		if _, _, ok := parseGrantToken(t); !ok {
			return r.refuse("", keysource.CodeInvalidGrantToken, "The grant token is not valid.")
		}
	}
	return nil
}
