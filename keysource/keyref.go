package keysource

import (
	"fmt"
	"strings"
)

// AliasPrefix begins every alias name; ReservedAliasPrefix those that only a key store itself makes.
const (
	AliasPrefix         = "alias/"
	ReservedAliasPrefix = "alias/aws/"
)

// KeyRef names a CMK in one of the four ways of AWS KMS: a key id (1234abcd-12ab-...), a key ARN
// (arn:aws:kms:REGION:ACCOUNT:key/ID), an alias name (alias/NAME) or an alias ARN (arn:aws:kms:REGION:ACCOUNT:alias/NAME).
// What an alias stands for may change between two calls; a key id and a key ARN always mean the same CMK.
type KeyRef string

// ParsedRef is a KeyRef taken apart. Exactly one of KeyID and Alias is set.
type ParsedRef struct {
	// Partition, Region and Account are empty unless the reference is an ARN.
	Partition, Region, Account string
	// KeyID is the id of the CMK.
	KeyID string
	// Alias is the alias name with its prefix "alias/".
	Alias string
}

// maxRefSize is the limit of AWS KMS on a KeyId in bytes.
const maxRefSize = 2048

// Parse takes the reference apart. A form that cannot name a key is ErrInvalidArgument.
func (r KeyRef) Parse() (ParsedRef, error) {
	s := string(r)
	if s == "" || len(s) > maxRefSize {
		return ParsedRef{}, invalid("a key reference has 1 to 2048 bytes")
	}
	var p ParsedRef
	if strings.HasPrefix(s, "arn:") {
		parts := strings.SplitN(s, ":", 6)
		if len(parts) != 6 || parts[1] == "" || parts[2] != "kms" || parts[3] == "" || parts[4] == "" {
			return ParsedRef{}, NewError("", "", CodeInvalidARN, fmt.Sprintf("%q is not the ARN of a KMS key or alias", s))
		}
		p.Partition, p.Region, p.Account = parts[1], parts[3], parts[4]
		resource := parts[5]
		id, isKey := strings.CutPrefix(resource, "key/")
		switch {
		case isKey && validKeyID(id):
			p.KeyID = id
		case ValidAliasName(resource):
			p.Alias = resource
		default:
			return ParsedRef{}, NewError("", "", CodeInvalidARN, fmt.Sprintf("%q is not the ARN of a KMS key or alias", s))
		}
		return p, nil
	}
	switch {
	case ValidAliasName(s):
		p.Alias = s
	case validKeyID(s):
		p.KeyID = s
	default:
		return ParsedRef{}, invalid(fmt.Sprintf("%q is not a key id, key ARN, alias name or alias ARN", s))
	}
	return p, nil
}

// IsAlias tells whether the reference is an alias name or an alias ARN, so that what it stands for may change.
func (r KeyRef) IsAlias() bool {
	p, err := r.Parse()
	return err == nil && p.Alias != ""
}

// Matches tells whether the reference is arn itself or its key id, without knowing any alias: an alias never matches.
func (r KeyRef) Matches(arn string) bool {
	if string(r) == arn {
		return true
	}
	i := strings.LastIndex(arn, ":key/")
	return i >= 0 && string(r) == arn[i+len(":key/"):]
}

// IsKeyMaterialID tells whether s has the form of a key material id: 64 lower-case hexadecimal digits. No reference to a CMK
// has it.
func IsKeyMaterialID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// ValidAliasName tells whether s is "alias/" and 1 or more of [a-zA-Z0-9:/_-], 256 bytes in all at most.
func ValidAliasName(s string) bool {
	name, ok := strings.CutPrefix(s, AliasPrefix)
	return ok && name != "" && len(s) <= 256 && only(name, ":/_-")
}

// validKeyID tells whether s can be a key id: a UUID, or mrk- and hexadecimal digits.
func validKeyID(s string) bool {
	return s != "" && len(s) <= 256 && only(s, "-")
}

// only tells whether s has only ASCII letters, digits and the bytes of extra.
func only(s, extra string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte(extra, c) >= 0:
		default:
			return false
		}
	}
	return true
}
