package keysource

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"
)

// Schemes of key source URLs.
const (
	// SchemeLocal is the embedded key store: local:PATH.
	SchemeLocal = "local"
	// SchemeAWSKMS is AWS KMS or a server of its protocol: awskms:///KEY?region=...&endpoint=...
	SchemeAWSKMS = "awskms"
)

// maxURLSize bounds a key source URL, in bytes.
const maxURLSize = 4096

// URL says where CMKs are kept. It never holds a secret: no passphrase, no access key. Two URLs that mean the same
// are equal with ==.
type URL struct {
	// Scheme is SchemeLocal or SchemeAWSKMS.
	Scheme string
	// Path, of a local URL, is the directory of the key store, cleaned; a relative one is for the caller to resolve.
	Path string
	// Key, of an awskms URL, is the CMK that new files use.
	Key KeyRef
	// Region is the AWS region; empty for what the environment says.
	Region string
	// Endpoint is the http or https URL of the KMS, or unix: and the absolute path of its socket; empty for that of AWS in
	// Region.
	Endpoint string
	// Profile is the name of a profile in the AWS configuration files; empty for what the environment says.
	Profile string
	// FIPS and DualStack choose AWS's endpoints with validated cryptography and with IPv6. They exclude Endpoint.
	FIPS, DualStack bool
	// Branch, where not zero, has data keys wrapped under branch keys (see Branch).
	Branch BranchLimits
}

// EndpointUnix begins an endpoint that is a socket of this machine.
const EndpointUnix = "unix:"

// ParseURL reads a key source URL. What it does not know it refuses, as ErrInvalidArgument: an option with a typing
// error must not be ignored, and a secret must not be in a URL.
func ParseURL(s string) (URL, error) {
	tooLong := invalid(fmt.Sprintf("key source URL is longer than %d bytes", maxURLSize))
	if len(s) > maxURLSize {
		return URL{}, tooLong
	}
	u, err := parseURL(s)
	if err != nil {
		return URL{}, err
	}
	if len(u.String()) > maxURLSize { // what String writes must be readable, and it may need more escapes
		return URL{}, tooLong
	}
	return u, nil
}

// parseURL is ParseURL without its bounds.
func parseURL(s string) (URL, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return URL{}, WithHint(invalid("key source URL has no scheme"), "write local:PATH or awskms:///alias/NAME")
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	if strings.Contains(rest, "#") || strings.Contains(query, "#") {
		return URL{}, invalid("key source URL has a fragment: write # as %23")
	}
	switch scheme {
	case SchemeLocal:
		if hasQuery {
			return URL{}, WithHint(invalid("a local: URL has no options, and a passphrase never stands in a URL"),
				"the passphrase comes from the terminal, a file descriptor or a command; write ? in a path as %3F")
		}
		return parseLocal(rest)
	case SchemeAWSKMS:
		return parseAWSKMS(rest, query)
	}
	return URL{}, WithHint(invalid(fmt.Sprintf("unknown key source scheme %q", scheme)),
		"write local:PATH or awskms:///alias/NAME")
}

// parseLocal reads what follows "local:".
func parseLocal(rest string) (URL, error) {
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		if !strings.HasPrefix(after, "/") {
			return URL{}, WithHint(invalid("a local: URL has no host"), "write local:PATH")
		}
		rest = after
	}
	p, err := unescapePath(rest)
	if err != nil {
		return URL{}, err
	}
	return URL{Scheme: SchemeLocal, Path: path.Clean(p)}, nil
}

// parseAWSKMS reads what follows "awskms:".
func parseAWSKMS(rest, query string) (URL, error) {
	key, ok := strings.CutPrefix(rest, "///")
	if !ok {
		return URL{}, WithHint(invalid("an awskms: URL has three slashes and no host"),
			"write awskms:///alias/NAME?region=REGION&endpoint=URL")
	}
	key, err := unescapePath(key)
	if err != nil {
		return URL{}, err
	}
	u := URL{Scheme: SchemeAWSKMS, Key: KeyRef(key)}
	ref, err := u.Key.Parse()
	if err != nil {
		return URL{}, err
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return URL{}, invalid("key source URL has a malformed option")
	}
	for name, values := range options {
		if len(values) != 1 || values[0] == "" {
			return URL{}, invalid(fmt.Sprintf("option %q needs exactly one value", name))
		}
		switch name {
		case "region":
			u.Region = values[0]
		case "endpoint":
			u.Endpoint = values[0]
		case "profile":
			u.Profile = values[0]
		case "fips":
			u.FIPS, err = parseSwitch(name, values[0])
		case "dualstack":
			u.DualStack, err = parseSwitch(name, values[0])
		case "branch":
			u.Branch, err = ParseBranchLimits(values[0])
		default:
			return URL{}, WithHint(invalid(fmt.Sprintf("unknown option %q", name)),
				"an awskms: URL knows region, endpoint, profile, fips, dualstack and branch; credentials come from the AWS credential chain")
		}
		if err != nil {
			return URL{}, err
		}
	}
	return u, u.checkAWSKMS(ref)
}

// checkAWSKMS validates the options of an awskms URL whose key is ref.
func (u URL) checkAWSKMS(ref ParsedRef) error {
	if u.Region != "" && (len(u.Region) > 64 || !only(u.Region, "-")) {
		return invalid(fmt.Sprintf("%q is not a region", u.Region))
	}
	if u.Region != "" && ref.Region != "" && u.Region != ref.Region {
		return invalid(fmt.Sprintf("region %q is not that of the key, %q", u.Region, ref.Region))
	}
	if !utf8.ValidString(u.Profile) || strings.ContainsFunc(u.Profile, isControl) {
		return invalid("profile has a control character or is not UTF-8")
	}
	if u.Endpoint == "" {
		return nil
	}
	if u.FIPS || u.DualStack {
		return invalid("fips and dualstack choose an endpoint of AWS, and there is an endpoint already")
	}
	return CheckEndpoint(u.Endpoint)
}

// parseSwitch reads the value of an option that is on or off.
func parseSwitch(name, value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, invalid(fmt.Sprintf("option %s is true or false", name))
}

// CheckEndpoint refuses an endpoint of a KMS that would carry data keys in clear over a network, that holds a secret, or
// that is none: all but https, http on this machine, and unix: with an absolute path.
func CheckEndpoint(endpoint string) error {
	if socket, ok := strings.CutPrefix(endpoint, EndpointUnix); ok {
		if !path.IsAbs(socket) || len(socket) > maxSocketPath || strings.ContainsFunc(socket, isControl) {
			return WithHint(invalid("the path of a unix: endpoint is absolute and has 1 to 107 bytes"), "endpoint=unix:/run/kms.socket")
		}
		return nil
	}
	e, err := url.Parse(endpoint)
	switch {
	case err != nil, e.Host == "", e.Hostname() == "", e.Opaque != "":
		return invalid("endpoint is not a URL with a host")
	case e.User != nil:
		return invalid("endpoint holds a user name: credentials never stand in a URL")
	case e.RawQuery != "", e.ForceQuery, e.Fragment != "", strings.Contains(endpoint, "#"):
		return invalid("endpoint has a query or a fragment")
	case e.Scheme == "https":
		return nil
	case e.Scheme == "http" && isLoopback(e.Hostname()):
		return nil
	case e.Scheme == "http":
		return WithHint(invalid("a plain http endpoint is only for this machine: data keys would cross the network in clear"),
			"use https")
	}
	return invalid("endpoint is neither https nor http nor unix:")
}

// maxSocketPath is the longest path of a socket on Linux, in bytes.
const maxSocketPath = 107

// isLoopback tells whether host is this machine.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// unescapePath decodes %XX in a path and refuses what cannot be one.
func unescapePath(s string) (string, error) {
	p, err := url.PathUnescape(s)
	if err != nil {
		return "", WithHint(invalid("key source URL has a malformed % escape"), "write % as %25")
	}
	if p == "" {
		return "", invalid("key source URL has no path")
	}
	if strings.ContainsRune(p, 0) {
		return "", invalid("key source URL has a NUL byte")
	}
	return p, nil
}

// isControl tells an ASCII control character.
func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// String returns the URL in the one form that ParseURL reads back as the same URL.
func (u URL) String() string {
	if u.Scheme == SchemeLocal {
		return SchemeLocal + ":" + escapePath(u.Path)
	}
	options := url.Values{}
	on := map[bool]string{true: "true"}
	for _, o := range []struct{ name, value string }{
		{"branch", u.Branch.String()}, {"dualstack", on[u.DualStack]}, {"endpoint", u.Endpoint}, {"fips", on[u.FIPS]},
		{"profile", u.Profile}, {"region", u.Region},
	} {
		if o.value != "" {
			options.Set(o.name, o.value)
		}
	}
	s := u.Scheme + ":///" + escapePath(string(u.Key))
	if len(options) > 0 {
		s += "?" + options.Encode()
	}
	return s
}

// escapePath writes the bytes that ParseURL or a terminal would take amiss as %XX.
func escapePath(p string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	valid := utf8.ValidString(p)
	for i := range len(p) {
		c := p[i]
		if c <= ' ' || c == 0x7f || strings.IndexByte("%?#", c) >= 0 || (c >= 0x80 && !valid) {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
