package sigv4

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// testNow is the server's clock.
var testNow = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// fixedClock is a clock that stands.
type fixedClock struct{}

func (fixedClock) Now() time.Time                                   { return testNow }
func (fixedClock) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

const (
	testID     = "AKIAIOSFODNN7EXAMPLE"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	tokenID    = "ASIAIOSFODNN7EXAMPLE"
)

func newTestVerifier() *Verifier {
	return New(Config{Region: "eu-west-1", Service: "kms", Clock: fixedClock{}, Decoy: "decoy",
		Credentials: func(id string) (Credential, bool) {
			switch id {
			case testID:
				return Credential{Secret: testSecret}, true
			case tokenID:
				return Credential{Secret: testSecret, SessionToken: "token"}, true
			}
			return Credential{}, false
		}})
}

// signing says how the AWS SDK signs a test's request.
type signing struct {
	id, secret, token, region, service string
	at                                 time.Time
	url                                string
	header                             http.Header
}

// signed is a request as a server gets it: signed by the SDK, written to a wire and read from it.
func signed(t testing.TB, s signing, body string) *http.Request {
	t.Helper()
	if s.url == "" {
		s.url = "http://127.0.0.1:8200/"
	}
	r, err := http.NewRequest(http.MethodPost, s.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", "TrentService.Decrypt")
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	for name, values := range s.header {
		r.Header[name] = values
	}
	sum := sha256.Sum256([]byte(body))
	err = v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: or(s.id, testID), SecretAccessKey: or(s.secret, testSecret),
		SessionToken: s.token}, r, hex.EncodeToString(sum[:]), or(s.service, "kms"), or(s.region, "eu-west-1"), orTime(s.at))
	if err != nil {
		t.Fatal(err)
	}
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func orTime(at time.Time) time.Time {
	if at.IsZero() {
		return testNow
	}
	return at
}

// TestVerify holds the verifier against the signer of the AWS SDK, and against requests that were changed after they were
// signed.
func TestVerify(t *testing.T) {
	const body = `{"CiphertextBlob":"AAAA"}`
	for name, c := range map[string]struct {
		signing
		change func(r *http.Request)
		body   string
		want   string // a code; empty: verified
	}{
		"signed":             {},
		"no body":            {body: "-"},
		"spaces in a header": {signing: signing{header: http.Header{"X-Amz-User-Agent": {"  aws   sdk  js "}}}},
		"query":              {signing: signing{url: "http://h/?b=2&a=x%20y&a=%2F&c&=&b=1~-_.*"}},
		"path":               {signing: signing{url: "http://h/a%20b/c%2Fd"}},
		"14 minutes ago":     {signing: signing{at: testNow.Add(-14 * time.Minute)}},
		"in 14 minutes":      {signing: signing{at: testNow.Add(14 * time.Minute)}},
		"token":              {signing: signing{id: tokenID, token: "token"}},

		"16 minutes ago": {signing: signing{at: testNow.Add(-16 * time.Minute)}, want: CodeInvalid},
		"in 16 minutes":  {signing: signing{at: testNow.Add(16 * time.Minute)}, want: CodeInvalid},
		"other secret":   {signing: signing{secret: "other"}, want: CodeInvalid},
		"other region":   {signing: signing{region: "us-east-1"}, want: CodeInvalid},
		"other service":  {signing: signing{service: "s3"}, want: CodeInvalid},
		"unknown key":    {signing: signing{id: "AKIANOBODY"}, want: CodeUnrecognized},
		"decoy":          {signing: signing{id: "AKIANOBODY", secret: "decoy"}, want: CodeUnrecognized},
		"no token":       {signing: signing{id: tokenID}, want: CodeUnrecognized},
		"other token":    {signing: signing{id: tokenID, token: "tokens"}, want: CodeUnrecognized},
		"needless token": {signing: signing{token: "token"}, want: CodeUnrecognized},
		"not signed":     {change: func(r *http.Request) { r.Header.Del("Authorization") }, want: CodeMissingToken},
		"body":           {change: func(*http.Request) {}, body: "{}", want: CodeInvalid},
		"method":         {change: func(r *http.Request) { r.Method = "PUT" }, want: CodeInvalid},
		"path changed":   {change: func(r *http.Request) { r.URL.Path = "/x" }, want: CodeInvalid},
		"query changed":  {change: func(r *http.Request) { r.URL.RawQuery = "x" }, want: CodeInvalid},
		"bad query":      {change: func(r *http.Request) { r.URL.RawQuery = "%zz" }, want: CodeIncomplete},
		"host":           {change: func(r *http.Request) { r.Host = "127.0.0.1:8201" }, want: CodeInvalid},
		"target":         {change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.Encrypt") }, want: CodeInvalid},
		"target twice":   {change: func(r *http.Request) { r.Header.Add("X-Amz-Target", "TrentService.Decrypt") }, want: CodeIncomplete},
		"target gone":    {change: func(r *http.Request) { r.Header.Del("X-Amz-Target") }, want: CodeIncomplete},
		"header twice":   {change: func(r *http.Request) { r.Header.Add("Content-Type", "x") }, want: CodeIncomplete},
		"not signed header": {change: func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") },
			want: CodeIncomplete},
		"wrong hash":    {signing: signing{header: http.Header{"X-Amz-Content-Sha256": {"UNSIGNED-PAYLOAD"}}}, want: CodeInvalid},
		"date of today": {change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "20260304T050608Z") }, want: CodeInvalid},
		"other date":    {change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "20260303T235959Z") }, want: CodeInvalid},
		"no date":       {change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "today") }, want: CodeIncomplete},
	} {
		t.Run(name, func(t *testing.T) {
			sent := body
			if c.body == "-" {
				sent = ""
			}
			r := signed(t, c.signing, sent)
			if c.change != nil {
				c.change(r)
			}
			if c.body != "" && c.body != "-" {
				sent = c.body
			}
			check(t, r, sent, c.want)
		})
	}
}

// check verifies r and compares the code of the error.
func check(t *testing.T, r *http.Request, body, want string) {
	t.Helper()
	id, err := newTestVerifier().Verify(r, []byte(body))
	var e *Error
	switch {
	case want == "" && (err != nil || id == ""):
		t.Errorf("refused: %v", err)
	case want != "" && (!errors.As(err, &e) || e.Code != want || id != ""):
		t.Errorf("got %q, %v, want %s", id, err, want)
	case err != nil && strings.Contains(err.Error(), testSecret):
		t.Error("the error has the secret")
	}
}

// TestAuthorization is what an Authorization header may look like.
func TestAuthorization(t *testing.T) {
	const (
		credential = "Credential=" + testID + "/20260304/eu-west-1/kms/aws4_request"
		headers    = "SignedHeaders=content-length;content-type;host;x-amz-date;x-amz-target"
		signature  = "Signature=0000000000000000000000000000000000000000000000000000000000000000"
		good       = algorithm + " " + credential + ", " + headers + ", " + signature
	)
	for text, want := range map[string]string{
		good:                                CodeInvalid, // well-formed, and not the signature
		strings.ReplaceAll(good, ", ", ","): CodeInvalid,
		algorithm + " " + signature + "," + headers + " ,  " + credential: CodeInvalid,

		"": CodeIncomplete, algorithm: CodeIncomplete, "Bearer x": CodeIncomplete, algorithm + "X" + good[len(algorithm):]: CodeIncomplete,
		"AWS4-ECDSA-P256-SHA256" + good[len(algorithm):]: CodeIncomplete,
		good + ", " + signature:                          CodeIncomplete,
		good + ", X=y":                                   CodeIncomplete,
		good + ",":                                       CodeIncomplete,
		good + "0":                                       CodeIncomplete,
		good[:len(good)-1]:                               CodeIncomplete,
		good[:len(good)-1] + "g":                         CodeIncomplete,
		strings.Replace(good, "aws4_request", "aws4", 1):             CodeIncomplete,
		strings.Replace(good, testID, "", 1):                         CodeIncomplete,
		strings.Replace(good, testID, "a/b", 1):                      CodeIncomplete,
		strings.Replace(good, "host;", "", 1):                        CodeIncomplete,
		strings.Replace(good, "x-amz-date;", "", 1):                  CodeIncomplete,
		strings.Replace(good, ";x-amz-target", "", 1):                CodeIncomplete,
		strings.Replace(good, "host;", "host;host;", 1):              CodeIncomplete,
		strings.Replace(good, "host;", "Host;", 1):                   CodeIncomplete,
		strings.Replace(good, "host;", "host;;", 1):                  CodeIncomplete,
		strings.Replace(good, "host;", "host;user-agent;", 1):        CodeInvalid,
		strings.Replace(good, "host;", "host;accept;", 1):            CodeIncomplete, // not sorted
		strings.Replace(good, "host;", "host;nothing;", 1):           CodeIncomplete, // not sent
		strings.Replace(good, "host;", "host;"+manyHeaders()+";", 1): CodeIncomplete,
		good + strings.Repeat(" ", maxAuthorization):                 CodeIncomplete,
	} {
		r := signed(t, signing{}, "{}")
		r.Header.Set("Authorization", text)
		check(t, r, "{}", want)
	}
	r := signed(t, signing{}, "{}")
	r.Header.Add("Authorization", good)
	check(t, r, "{}", CodeIncomplete)
}

// manyHeaders is a list of more signed headers than are taken.
func manyHeaders() string {
	var b strings.Builder
	for i := range maxSignedHeaders {
		b.WriteString(";i" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
	}
	return b.String()[1:]
}

// TestKeysAreDerivedOnce shows that a signing key is kept, for unknown access keys too, and that the store is bounded.
func TestKeysAreDerivedOnce(t *testing.T) {
	v := newTestVerifier()
	for _, id := range []string{testID, testID, "AKIANOBODY", "AKIAOTHER"} {
		_, _ = v.Verify(signed(t, signing{id: id}, "{}"), []byte("{}"))
	}
	if len(v.keys.keys) != 2 {
		t.Errorf("%d keys are kept, want that of the one user and the decoy", len(v.keys.keys))
	}
	for i := range 2 * maxSigningKeys {
		v.keys.get(scopeKey{testID, time.Unix(int64(i)*86400, 0).Format("20060102")}, testSecret, "r", "kms")
	}
	if len(v.keys.keys) > maxSigningKeys {
		t.Errorf("%d keys are kept", len(v.keys.keys))
	}
}

// FuzzVerify: no request makes the verifier panic, and none is verified but the one that was signed.
func FuzzVerify(f *testing.F) {
	good := signed(f, signing{}, "{}")
	f.Add(good.Header.Get("Authorization"), "20260304T050607Z", "127.0.0.1:8200", "/", "", "TrentService.Decrypt", "{}")
	f.Add(good.Header.Get("Authorization"), "20260304T050607Z", "127.0.0.1:8200", "/", "", "TrentService.Encrypt", "{}")
	f.Add(algorithm+" Credential=a/b/c/d/aws4_request,SignedHeaders=host,Signature=00", "", "", "/%", "a=%2f&b", "", "")
	f.Fuzz(func(t *testing.T, authorization, date, host, path, query, target, body string) {
		r := signed(t, signing{}, "{}")
		r.Header.Set("Authorization", authorization)
		r.Header.Set("X-Amz-Date", date)
		r.Header.Set("X-Amz-Target", target)
		r.Host, r.URL.Path, r.URL.RawPath, r.URL.RawQuery = host, path, "", query
		_, err := newTestVerifier().Verify(r, []byte(body))
		same := date == "20260304T050607Z" && host == "127.0.0.1:8200" && (path == "/" || path == "") && query == "" &&
			target == "TrentService.Decrypt" && body == "{}"
		if err == nil && !same {
			t.Errorf("verified %q %q %q %q %q %q", date, host, path, query, target, body)
		}
	})
}

// FuzzCanonical: the canonical request is that of the AWS SDK for every path and query that it can send.
func FuzzCanonical(f *testing.F) {
	f.Add("a b/c", "x", "y z", "  two  spaces ")
	f.Add("%2F~", "", "", "")
	f.Fuzz(func(t *testing.T, path, name, value, header string) {
		for _, r := range header {
			if r < ' ' || r > '~' {
				t.Skip("not a header")
			}
		}
		r, err := http.NewRequest(http.MethodPost, "http://h/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Path = "/" + path
		q := r.URL.Query()
		q.Set(name, value)
		r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
		s := signing{url: r.URL.String(), header: http.Header{"X-Amz-Meta": {header}}}
		if strings.TrimSpace(header) == "" {
			s.header = nil
		}
		if _, err := newTestVerifier().Verify(signed(t, s, "{}"), []byte("{}")); err != nil {
			t.Errorf("%s, header %q: %v", s.url, header, err)
		}
	})
}

// BenchmarkVerify is the cost of one request.
func BenchmarkVerify(b *testing.B) {
	r := signed(b, signing{}, `{"CiphertextBlob":"AAAA"}`)
	v := newTestVerifier()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r, []byte(`{"CiphertextBlob":"AAAA"}`)); err != nil {
			b.Fatal(err)
		}
	}
}
