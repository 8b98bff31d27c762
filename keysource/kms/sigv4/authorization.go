package sigv4

import (
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
)

// algorithm begins an Authorization header.
const algorithm = "AWS4-HMAC-SHA256"

// Limits of what a client may send.
const (
	maxAuthorization = 4096
	maxSignedHeaders = 64
)

// authorization is an Authorization header taken apart.
type authorization struct {
	accessKeyID           string
	date, region, service string   // of the credential scope
	signedHeaders         string   // as it stands in the header
	names                 []string // the signed headers: sorted, lower case, each once
	signature             [32]byte
}

// scope is the credential scope.
func (a *authorization) scope() string {
	return a.date + "/" + a.region + "/" + a.service + "/aws4_request"
}

// parseAuthorization takes the Authorization header of r apart.
func parseAuthorization(h http.Header) (*authorization, error) {
	values := h["Authorization"]
	if len(values) == 0 {
		return nil, &Error{CodeMissingToken, "Missing Authentication Token"}
	}
	text := values[0]
	if len(values) > 1 || len(text) > maxAuthorization {
		return nil, incomplete("The Authorization header is there more than once, or is too long.")
	}
	rest, ok := strings.CutPrefix(text, algorithm)
	if !ok || rest == "" || rest[0] != ' ' {
		return nil, incomplete("The Authorization header does not begin with '%s'.", algorithm)
	}
	a := &authorization{}
	var credential, signature string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var field *string
		switch name {
		case "Credential":
			field = &credential
		case "SignedHeaders":
			field = &a.signedHeaders
		case "Signature":
			field = &signature
		default:
			return nil, incomplete("The Authorization header has an unknown part.")
		}
		if *field != "" || value == "" {
			return nil, incomplete("Authorization header requires '%s' parameter, once.", name)
		}
		*field = value
	}
	for _, p := range []struct{ name, value string }{
		{"Credential", credential}, {"SignedHeaders", a.signedHeaders}, {"Signature", signature},
	} {
		if p.value == "" {
			return nil, incomplete("Authorization header requires '%s' parameter.", p.name)
		}
	}
	if n, err := hex.Decode(a.signature[:], []byte(signature[:min(len(signature), 64)])); err != nil || n != 32 || len(signature) != 64 {
		return nil, incomplete("The Signature is not 64 hexadecimal digits.")
	}
	if err := a.parseCredential(credential); err != nil {
		return nil, err
	}
	return a, a.parseNames()
}

// parseCredential reads ACCESSKEY/DATE/REGION/SERVICE/aws4_request.
func (a *authorization) parseCredential(credential string) error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || parts[4] != "aws4_request" || slices.Contains(parts, "") {
		return incomplete("The Credential is not ACCESSKEY/DATE/REGION/SERVICE/aws4_request.")
	}
	a.accessKeyID, a.date, a.region, a.service = parts[0], parts[1], parts[2], parts[3]
	return nil
}

// parseNames reads the list of signed headers.
func (a *authorization) parseNames() error {
	a.names = strings.Split(a.signedHeaders, ";")
	if len(a.names) > maxSignedHeaders {
		return incomplete("More than %d headers are signed.", maxSignedHeaders)
	}
	for i, name := range a.names {
		if name == "" || strings.ToLower(name) != name || i > 0 && a.names[i-1] >= name {
			return incomplete("SignedHeaders are not lower-case names, sorted, each once.")
		}
	}
	return nil
}

// signs tells whether a header is among the signed ones.
func (a *authorization) signs(name string) bool {
	_, ok := slices.BinarySearch(a.names, name)
	return ok
}
