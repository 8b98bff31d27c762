package policy

import (
	"net/netip"
	"strconv"
	"strings"
)

// operator is a condition operator without its qualifiers.
type operator struct {
	// compare tells whether the value of a request is as the value of the policy says; nil for Null.
	compare func(want, got string) bool
	// negated operators hold where no value compares.
	negated bool
	// valid, where not nil, tells whether a value can be compared.
	valid func(v string) bool
	// form, where not nil, tells whether a value of a policy can match anything; those of requests need no form.
	form func(want string) bool
}

// operators are the condition operators that are supported, as AWS names them.
var operators = map[string]operator{
	"StringEquals":              {compare: equal},
	"StringNotEquals":           {compare: equal, negated: true},
	"StringEqualsIgnoreCase":    {compare: strings.EqualFold},
	"StringNotEqualsIgnoreCase": {compare: strings.EqualFold, negated: true},
	"StringLike":                {compare: like},
	"StringNotLike":             {compare: like, negated: true},
	"ArnEquals":                 {compare: globARN, form: isARNPattern},
	"ArnLike":                   {compare: globARN, form: isARNPattern},
	"ArnNotEquals":              {compare: globARN, form: isARNPattern, negated: true},
	"ArnNotLike":                {compare: globARN, form: isARNPattern, negated: true},
	"Bool":                      {compare: strings.EqualFold, valid: isBool},
	"NumericEquals":             {compare: func(want, got string) bool { return number(got) == number(want) }, valid: isNumber},
	"NumericNotEquals":          {compare: func(want, got string) bool { return number(got) == number(want) }, negated: true, valid: isNumber},
	"NumericLessThan":           {compare: func(want, got string) bool { return number(got) < number(want) }, valid: isNumber},
	"NumericLessThanEquals":     {compare: func(want, got string) bool { return number(got) <= number(want) }, valid: isNumber},
	"NumericGreaterThan":        {compare: func(want, got string) bool { return number(got) > number(want) }, valid: isNumber},
	"NumericGreaterThanEquals":  {compare: func(want, got string) bool { return number(got) >= number(want) }, valid: isNumber},
	"IpAddress":                 {compare: within, valid: isAddress},
	"NotIpAddress":              {compare: within, negated: true, valid: isAddress},
	"Null":                      {valid: isBool},
}

// equal is StringEquals.
func equal(want, got string) bool { return want == got }

// like is StringLike.
func like(want, got string) bool { return glob(want, got, exact) }

// number is the number that isNumber has accepted.
func number(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

// isNumber tells whether s is a decimal number.
func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && strings.Trim(s, "+-.0123456789eE") == ""
}

// isBool tells whether s is a truth value.
func isBool(s string) bool { return s == "true" || s == "false" }

// isAddress tells whether s is an address or a range of addresses.
func isAddress(s string) bool {
	_, ok := addresses(s)
	return ok
}

// addresses reads an address, or a range in CIDR notation.
func addresses(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}

// within is IpAddress.
func within(want, got string) bool {
	ranges, ok := addresses(want)
	one, ok2 := addresses(got)
	return ok && ok2 && ranges.Contains(one.Addr())
}

// keyKind says how many values a condition key has.
type keyKind int

// The kinds of condition key.
const (
	oneValue keyKind = iota
	manyValues
)

// conditionKeys are the condition keys that are supported, in lower case. A name that ends with : or / is a prefix.
var conditionKeys = map[string]keyKind{
	"aws:principalaccount":                       oneValue,
	"aws:principalarn":                           oneValue,
	"aws:principaltag/":                          oneValue,
	"aws:principaltype":                          oneValue,
	"aws:requesttag/":                            oneValue,
	"aws:resourceaccount":                        oneValue,
	"aws:resourcetag/":                           oneValue,
	"aws:securetransport":                        oneValue,
	"aws:sourceip":                               oneValue,
	"aws:tagkeys":                                manyValues,
	"aws:userid":                                 oneValue,
	"aws:username":                               oneValue,
	"kms:bypasspolicylockoutsafetycheck":         oneValue,
	"kms:calleraccount":                          oneValue,
	"kms:encryptionalgorithm":                    oneValue,
	"kms:encryptioncontext:":                     oneValue,
	"kms:encryptioncontextkeys":                  manyValues,
	"kms:expirationmodel":                        oneValue,
	"kms:grantconstrainttype":                    oneValue,
	"kms:grantisforawsresource":                  oneValue,
	"kms:grantoperations":                        manyValues,
	"kms:granteeprincipal":                       oneValue,
	"kms:keyorigin":                              oneValue,
	"kms:keyspec":                                oneValue,
	"kms:keyusage":                               oneValue,
	"kms:multiregion":                            oneValue,
	"kms:reencryptonsamekey":                     oneValue,
	"kms:requestalias":                           oneValue,
	"kms:resourcealiases":                        manyValues,
	"kms:retiringprincipal":                      oneValue,
	"kms:rotationperiodindays":                   oneValue,
	"kms:schedulekeydeletionpendingwindowindays": oneValue,
	"kms:trailingdayswithoutkeyusage":            oneValue,
	"kms:viaservice":                             oneValue,
	"kms:wrappingalgorithm":                      oneValue,
	"kms:wrappingkeyspec":                        oneValue,
}

// conditionKey returns a condition key as requests are asked for it: in lower case, but for what follows a prefix, which
// is the customer's. ok is false for a key that is not supported.
func conditionKey(name string) (key string, kind keyKind, ok bool) {
	// The prefix ends at the second colon or the first slash.
	from := strings.Index(name, ":") + 1
	end := len(name)
	if i := strings.IndexAny(name[from:], ":/"); i >= 0 {
		end = from + i + 1
	}
	if prefix := strings.HasSuffix(name[:end], ":") || strings.HasSuffix(name[:end], "/"); prefix != (end < len(name)) {
		return "", 0, false
	}
	key = strings.ToLower(name[:end])
	kind, ok = conditionKeys[key]
	return key + name[end:], kind, ok
}
