package policy

import (
	"strings"
	"unicode/utf8"
)

// letters says how letters are compared.
type letters int

// The ways of comparing letters.
const (
	exact   letters = iota
	anyCase         // as if all ASCII letters were lower-case
)

// glob tells whether s matches pattern, in which * stands for any number of characters and ? for one. It takes at most
// the product of both lengths.
func glob(pattern, s string, how letters) bool {
	p, i := 0, 0
	star, mark := -1, 0 // the last star, and where in s what it stands for ends
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p, i = p+1, i+width(s[i:])
		case p < len(pattern) && same(pattern[p], s[i], how):
			p, i = p+1, i+1
		case star >= 0:
			mark += width(s[mark:])
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// width is the size of the first character of s in bytes.
func width(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// same compares two bytes.
func same(a, b byte, how letters) bool {
	return a == b || how == anyCase && lower(a) == lower(b)
}

// lower is the lower-case form of an ASCII letter.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// arnParts is how many parts an ARN has: arn, partition, service, region, account and resource.
const arnParts = 6

// isARNPattern tells whether globARN can match anything with the pattern. In an ARN a star does not stand for a colon, so
// that a Deny of arn:aws:iam::* would deny nothing.
func isARNPattern(pattern string) bool {
	return pattern == "*" || strings.Count(pattern, ":") >= arnParts-1
}

// globARN is glob on each of the six parts of an ARN by itself, so that a star in one does not reach into the next.
func globARN(pattern, s string) bool {
	ps, ss := strings.SplitN(pattern, ":", arnParts), strings.SplitN(s, ":", arnParts)
	if len(ps) != len(ss) || len(ps) != arnParts {
		return pattern == "*"
	}
	for i := range ps {
		if !glob(ps[i], ss[i], exact) {
			return false
		}
	}
	return true
}
