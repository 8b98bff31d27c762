package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"kmsfs/keysource"
)

// MaxSkew is how far the date of a request may be from the server's clock.
const MaxSkew = 15 * time.Minute

// dateForm is X-Amz-Date; its first eight characters are the date of the scope.
const dateForm = "20060102T150405Z"

// Credential is what an access key id stands for.
type Credential struct {
	// Secret is the secret access key. It never changes for one access key id.
	Secret string
	// SessionToken is the token that must come with each request; empty where none may.
	SessionToken string
}

// Config says what a Verifier accepts.
type Config struct {
	// Region and Service are the only ones that a request may be signed for.
	Region, Service string
	// Credentials answers what is known of an access key id; false where there is no such key or it is not active.
	// Safe for concurrent use.
	Credentials func(accessKeyID string) (Credential, bool)
	// Clock is the time; nil is keysource.SystemClock.
	Clock keysource.Clock
	// Decoy is a random secret, used for access keys that are not known so that these take as long.
	Decoy string
}

// Verifier verifies requests. It is safe for concurrent use.
type Verifier struct {
	cfg     Config
	keys    signingKeys
	buffers sync.Pool // of *[]byte
}

// New makes a Verifier.
func New(cfg Config) *Verifier {
	if cfg.Clock == nil {
		cfg.Clock = keysource.SystemClock{}
	}
	return &Verifier{cfg: cfg}
}

// CheckHeader refuses r where its header alone shows that Verify would: without a signature, for another scope, of another
// time, by an access key that is not known. It reads no body. Any error is an *Error.
func (v *Verifier) CheckHeader(r *http.Request) error {
	a, _, err := v.header(r)
	if err != nil {
		return err
	}
	if _, known := v.cfg.Credentials(a.accessKeyID); !known {
		return errUnrecognized()
	}
	return nil
}

// header reads the header of r: its authorization and its date.
func (v *Verifier) header(r *http.Request) (a *authorization, date string, err error) {
	a, err = parseAuthorization(r.Header)
	if err != nil {
		return nil, "", err
	}
	if err := checkSigned(r.Header, a); err != nil {
		return nil, "", err
	}
	date = r.Header.Get("X-Amz-Date")
	return a, date, v.checkScope(a, date)
}

// Verify returns the id of the access key that signed r, whose body is body. Any error is an *Error.
func (v *Verifier) Verify(r *http.Request, body []byte) (accessKeyID string, err error) {
	a, date, err := v.header(r)
	if err != nil {
		return "", err
	}
	if err := checkPayload(r.Header, body); err != nil {
		return "", err
	}
	credential, known := v.cfg.Credentials(a.accessKeyID)
	k := scopeKey{a.accessKeyID, a.date}
	if !known {
		// The decoy is cached as a known one is, under an id that no client can send.
		credential, k = Credential{Secret: v.cfg.Decoy}, scopeKey{"/", a.date}
	}
	key := v.keys.get(k, credential.Secret, v.cfg.Region, v.cfg.Service)
	want, err := v.signature(r, a, date, body, key[:])
	if err != nil {
		return "", err
	}
	signed := hmac.Equal(want[:], a.signature[:])
	token := hmac.Equal([]byte(r.Header.Get("X-Amz-Security-Token")), []byte(credential.SessionToken))
	switch {
	case !known || signed && !token:
		return "", errUnrecognized()
	case !signed:
		return "", errMismatch()
	}
	return a.accessKeyID, nil
}

// signature is what the signature of r must be.
func (v *Verifier) signature(r *http.Request, a *authorization, date string, body, key []byte) ([32]byte, error) {
	buffer, ok := v.buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
	}
	defer v.buffers.Put(buffer)
	canonical, err := appendCanonical((*buffer)[:0], r, a, body)
	if err != nil {
		return [32]byte{}, err
	}
	sum := sha256.Sum256(canonical)
	text := append(canonical[:0], algorithm...)
	text = append(text, '\n')
	text = append(text, date...)
	text = append(text, '\n')
	text = append(text, a.scope()...)
	text = append(text, '\n')
	text = hex.AppendEncode(text, sum[:])
	*buffer = text
	h := hmac.New(sha256.New, key)
	_, _ = h.Write(text)
	h.Sum(sum[:0])
	return sum, nil
}

// checkSigned holds that what decides the meaning of the request is signed, and is there once.
func checkSigned(h http.Header, a *authorization) error {
	for _, name := range []string{"host", "x-amz-date"} {
		if !a.signs(name) {
			return incomplete("'%s' must be a signed header.", name)
		}
	}
	for name, values := range h {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "x-amz-") {
			continue
		}
		if len(values) != 1 || !a.signs(lower) {
			return incomplete("'%.64s' must be a signed header and be sent once.", lower)
		}
	}
	return nil
}

// checkScope holds the date, the region and the service against the verifier's.
func (v *Verifier) checkScope(a *authorization, date string) error {
	at, err := time.Parse(dateForm, date)
	if err != nil {
		return incomplete("Date must be in ISO-8601 'basic format'. See http://en.wikipedia.org/wiki/ISO_8601")
	}
	now := v.cfg.Clock.Now().UTC()
	switch {
	case a.date != date[:8]:
		return invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
	case a.region != v.cfg.Region:
		return invalid("Credential should be scoped to a valid region: '%s'.", v.cfg.Region)
	case a.service != v.cfg.Service:
		return invalid("Credential should be scoped to correct service: '%s'.", v.cfg.Service)
	case at.Before(now.Add(-MaxSkew)):
		return invalid("Signature expired: %s is now earlier than %s (%s - 15 min.)", date,
			now.Add(-MaxSkew).Format(dateForm), now.Format(dateForm))
	case at.After(now.Add(MaxSkew)):
		return invalid("Signature not yet current: %s is still later than %s (%s + 15 min.)", date,
			now.Add(MaxSkew).Format(dateForm), now.Format(dateForm))
	}
	return nil
}

// checkPayload holds a hash that the client sent apart from the signature against the body.
func checkPayload(h http.Header, body []byte) error {
	claimed := h.Get("X-Amz-Content-Sha256")
	if claimed == "" {
		return nil
	}
	if sum := sha256.Sum256(body); claimed != hex.EncodeToString(sum[:]) {
		return invalid("The provided 'x-amz-content-sha256' header does not match what was computed.")
	}
	return nil
}
