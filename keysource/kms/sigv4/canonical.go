package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// appendCanonical appends the canonical request of r, of which the headers in names are signed, to dst.
func appendCanonical(dst []byte, r *http.Request, a *authorization, body []byte) ([]byte, error) {
	dst = append(dst, r.Method...)
	dst = append(dst, '\n')
	dst = appendPath(dst, r.URL)
	dst = append(dst, '\n')
	dst, err := appendQuery(dst, r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	dst = append(dst, '\n')
	for _, name := range a.names {
		value, err := headerValue(r, name)
		if err != nil {
			return nil, err
		}
		dst = append(dst, name...)
		dst = append(dst, ':')
		dst = appendTrimmed(dst, value)
		dst = append(dst, '\n')
	}
	dst = append(dst, '\n')
	dst = append(dst, a.signedHeaders...)
	dst = append(dst, '\n')
	sum := sha256.Sum256(body)
	return hex.AppendEncode(dst, sum[:]), nil
}

// headerValue is the one value of a signed header. net/http takes some headers out of the map.
func headerValue(r *http.Request, name string) (string, error) {
	switch name {
	case "host":
		return r.Host, nil
	case "content-length":
		if r.ContentLength < 0 {
			return "", incomplete("'content-length' is signed and not sent.")
		}
		return strconv.FormatInt(r.ContentLength, 10), nil
	}
	values := r.Header[http.CanonicalHeaderKey(name)]
	switch len(values) {
	case 0:
		return "", incomplete("'%.64s' is signed and not sent.", name)
	case 1:
		return values[0], nil
	}
	return "", incomplete("'%.64s' is signed and sent more than once.", name)
}

// appendTrimmed appends a header's value without spaces around it and with single ones inside it.
func appendTrimmed(dst []byte, value string) []byte {
	value = strings.Trim(value, " \t")
	for i := 0; i < len(value); i++ {
		if value[i] == ' ' && i > 0 && value[i-1] == ' ' {
			continue
		}
		dst = append(dst, value[i])
	}
	return dst
}

// appendPath appends the path as it was sent, each segment encoded once more; for "/", which is all that KMS has, that
// is "/".
func appendPath(dst []byte, u *url.URL) []byte {
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	for i := 0; i < len(path); i++ {
		dst = appendEscaped(dst, path[i], '/')
	}
	return dst
}

// appendQuery appends the query with names and values encoded, sorted by both.
func appendQuery(dst []byte, raw string) ([]byte, error) {
	if raw == "" {
		return dst, nil
	}
	var pairs []string
	for part := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(part, "=")
		var b []byte
		for i, text := range []string{name, value} {
			plain, err := url.PathUnescape(text) // '+' is itself: AWS's signers write a space as %20
			if err != nil {
				return nil, incomplete("The query cannot be decoded.")
			}
			for j := 0; j < len(plain); j++ {
				b = appendEscaped(b, plain[j], 0)
			}
			if i == 0 {
				b = append(b, '=')
			}
		}
		pairs = append(pairs, string(b))
	}
	slices.SortFunc(pairs, func(x, y string) int {
		xName, xValue, _ := strings.Cut(x, "=")
		yName, yValue, _ := strings.Cut(y, "=")
		if c := strings.Compare(xName, yName); c != 0 {
			return c
		}
		return strings.Compare(xValue, yValue)
	})
	return append(dst, strings.Join(pairs, "&")...), nil
}

// appendEscaped appends one byte as the rules of SigV4 write it: letters, digits, "-._~" and the byte plain stay.
func appendEscaped(dst []byte, c, plain byte) []byte {
	const digits = "0123456789ABCDEF"
	if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' ||
		c == plain && plain != 0 {
		return append(dst, c)
	}
	return append(dst, '%', digits[c>>4], digits[c&15])
}
