package awskms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
)

// faulty is a client in front of a server that answers as intercept says, once it is on.
type faulty struct {
	*Client
	store
	on     atomic.Bool
	server *httptest.Server
}

func newFaulty(t *testing.T, intercept func(op string, w http.ResponseWriter, r *http.Request)) *faulty {
	t.Helper()
	f := &faulty{store: newStore(t)}
	f.server = httptest.NewServer(&awskmstest.Server{Keys: f.store, Intercept: func(op string, w http.ResponseWriter, r *http.Request) bool {
		if !f.on.Load() || intercept == nil {
			return false
		}
		intercept(op, w, r)
		return true
	}})
	t.Cleanup(f.server.Close)
	f.Client = open(t, Config{Endpoint: f.server.URL, Timeout: 2 * time.Second})
	return f
}

// calls makes each call once and hands its error to check.
func (f *faulty) calls(t *testing.T, check func(op string, err error)) {
	t.Helper()
	f.on.Store(false)
	key := keysource.KeyRef(f.a.ARN)
	k, err := f.Client.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: key})
	if err != nil {
		t.Fatal(err)
	}
	f.on.Store(true)
	_, err = f.Client.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: key})
	check("GenerateDataKey", err)
	_, err = f.Client.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob, KeyID: key})
	check("Decrypt", err)
	_, err = f.Client.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob, DestinationKeyID: key})
	check("ReEncrypt", err)
	_, err = f.Client.DescribeKey(t.Context(), key)
	check("DescribeKey", err)
}

// TestExceptions maps every exception to its kind, with the request id, and leaves retries to others.
func TestExceptions(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{400, "AccessDeniedException", keysource.ErrDenied},
		{403, "AccessDenied", keysource.ErrDenied},
		{400, "UnrecognizedClientException", keysource.ErrDenied},
		{400, "InvalidSignatureException", keysource.ErrDenied},
		{400, "ExpiredTokenException", keysource.ErrDenied},
		{400, "DisabledException", keysource.ErrDisabled},
		{400, "KMSInvalidStateException", keysource.ErrInvalidState},
		{400, "NotFoundException", keysource.ErrNotFound},
		{400, "InvalidCiphertextException", keysource.ErrInvalidCiphertext},
		{400, "IncorrectKeyException", keysource.ErrIncorrectKey},
		{400, "InvalidKeyUsageException", keysource.ErrUnsupported},
		{400, "LimitExceededException", keysource.ErrLimit},
		{400, "ValidationException", keysource.ErrInvalidArgument},
		{400, "ThrottlingException", keysource.ErrThrottled},
		{429, "", keysource.ErrThrottled},
		{500, "KMSInternalException", keysource.ErrUnavailable},
		{500, "KeyUnavailableException", keysource.ErrUnavailable},
		{500, "DependencyTimeoutException", keysource.ErrUnavailable},
		{500, "", keysource.ErrUnavailable},
		{503, "", keysource.ErrUnavailable},
		{403, "", keysource.ErrDenied},
		{400, "SomethingNewException", keysource.ErrUnavailable},
		{302, "", keysource.ErrUnavailable},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			var answered atomic.Int64
			f := newFaulty(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
				answered.Add(1)
				w.Header().Set("X-Amz-Retry-After", "1500")
				awskmstest.Fail(w, c.status, c.code, "words\nof the KMS")
			})
			calls := int64(0)
			f.calls(t, func(op string, err error) {
				calls++
				e, ok := errors.AsType[*keysource.Error](err)
				if !ok || !errors.Is(err, c.want) || keysource.Retryable(err) != keysource.Retryable(c.want) {
					t.Fatalf("%s: got %v, want %v", op, err, c.want)
				}
				if !strings.HasPrefix(e.RequestID, op) || !strings.Contains(err.Error(), e.RequestID) || e.Op != op ||
					c.code != "" && e.Code != c.code || e.RetryAfter != 1500*time.Millisecond {
					t.Errorf("%s: %+v", op, e)
				}
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("%q has several lines", err)
				}
			})
			if answered.Load() != calls {
				t.Errorf("%d requests for %d calls", answered.Load(), calls)
			}
		})
	}
}

// TestBadAnswers: what cannot be the answer to the question is refused, with the request id, and is never used.
func TestBadAnswers(t *testing.T) {
	arn, other := "", ""
	blob := []byte("a wrapped key")
	ok := func(op string, change map[string]any) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			m := map[string]any{"KeyId": arn, "SourceKeyId": arn, "KeyMaterialId": strings.Repeat("a", 64)}
			switch op {
			case "GenerateDataKey":
				m["Plaintext"], m["CiphertextBlob"] = []byte("0123456789abcdef0123456789abcdef"), blob
			case "Decrypt":
				m["Plaintext"] = []byte("0123456789abcdef0123456789abcdef")
			case "ReEncrypt":
				m["CiphertextBlob"] = blob
			case "DescribeKey":
				m = map[string]any{"KeyMetadata": map[string]any{"Arn": arn, "KeyId": "x"}}
			}
			for name, value := range change {
				if value == nil {
					delete(m, name)
				} else {
					m[name] = value
				}
			}
			_ = json.NewEncoder(w).Encode(m)
		}
	}
	raw := func(s string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = io.WriteString(w, s) }
	}
	const secret = "AAAAQUFBQUFBQUFBQUFBQUFB"
	s := newStore(t)
	arn, other = s.a.ARN, s.b.ARN
	for _, c := range []struct {
		name, op string
		answer   func(http.ResponseWriter)
		fine     bool
	}{
		{"as it should be", "GenerateDataKey", ok("GenerateDataKey", nil), true},
		{"as it should be", "Decrypt", ok("Decrypt", nil), true},
		{"as it should be", "ReEncrypt", ok("ReEncrypt", nil), true},
		{"as it should be", "DescribeKey", ok("DescribeKey", nil), true},
		{"no key material id", "Decrypt", ok("Decrypt", map[string]any{"KeyMaterialId": nil}), true},
		{"nothing", "GenerateDataKey", raw(""), false},
		{"nothing", "DescribeKey", raw(""), false},
		{"empty object", "Decrypt", raw("{}"), false},
		{"not JSON", "Decrypt", raw("<html>" + secret), false},
		{"cut JSON", "Decrypt", raw(`{"Plaintext":"` + secret), false},
		{"not base64", "Decrypt", raw(`{"KeyId":"` + arn + `","Plaintext":"` + secret + `***"}`), false},
		{"wrong type", "Decrypt", raw(`{"KeyId":7,"Plaintext":"` + secret + `"}`), false},
		{"short key", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"Plaintext": []byte("short")}), false},
		{"long key", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"Plaintext": make([]byte, 33)}), false},
		{"zero key", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"Plaintext": make([]byte, 32)}), false},
		{"empty blob", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"CiphertextBlob": []byte{}}), false},
		{"long blob", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"CiphertextBlob": make([]byte, 6145)}), false},
		{"blob is the key", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"CiphertextBlob": []byte("0123456789abcdef0123456789abcdef")}), false},
		{"other CMK", "GenerateDataKey", ok("GenerateDataKey", map[string]any{"KeyId": other}), false},
		{"other CMK", "Decrypt", ok("Decrypt", map[string]any{"KeyId": other}), false},
		{"other source", "ReEncrypt", ok("ReEncrypt", map[string]any{"SourceKeyId": other}), false},
		{"other destination", "ReEncrypt", ok("ReEncrypt", map[string]any{"KeyId": other}), false},
		{"key id and no ARN", "Decrypt", ok("Decrypt", map[string]any{"KeyId": s.a.KeyID}), false},
		{"alias ARN", "Decrypt", ok("Decrypt", map[string]any{"KeyId": "arn:aws:kms:local:000000000000:alias/a"}), false},
		{"no key id", "Decrypt", ok("Decrypt", map[string]any{"KeyId": nil}), false},
		{"odd key material id", "Decrypt", ok("Decrypt", map[string]any{"KeyMaterialId": "x"}), false},
		{"other CMK", "DescribeKey", ok("DescribeKey", map[string]any{"KeyMetadata": map[string]any{"Arn": other}}), false},
		{"old wrapping", "ReEncrypt", ok("ReEncrypt", map[string]any{"CiphertextBlob": []byte("old")}), false},
		{"endless", "Decrypt", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 3<<20)) }, false},
	} {
		t.Run(c.op+" "+c.name, func(t *testing.T) {
			server := httptest.NewServer(&awskmstest.Server{Keys: s, Intercept: func(_ string, w http.ResponseWriter, _ *http.Request) bool {
				c.answer(w)
				return true
			}})
			defer server.Close()
			client := open(t, Config{Endpoint: server.URL})
			key := keysource.KeyRef(arn)
			var err error
			switch c.op {
			case "GenerateDataKey":
				_, err = client.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: key})
			case "Decrypt":
				_, err = client.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: []byte("old"), KeyID: key})
			case "ReEncrypt":
				_, err = client.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: []byte("old"), SourceKeyID: key, DestinationKeyID: key})
			case "DescribeKey":
				_, err = client.DescribeKey(t.Context(), key)
			}
			if c.fine {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			e, ok := errors.AsType[*keysource.Error](err)
			if !ok || !errors.Is(err, keysource.ErrUnavailable) || e.Code != codeBadAnswer || e.RequestID != c.op+"-1" {
				t.Errorf("got %v", err)
			}
			if strings.Contains(fmt.Sprint(err), secret[:12]) {
				t.Errorf("the error quotes the answer: %v", err)
			}
		})
	}
}

// TestProxy: whatever the network does, a call ends in time as an ErrUnavailable, and the next one after the network is
// well again succeeds.
func TestProxy(t *testing.T) {
	f := newFaulty(t, nil)
	p := awskmstest.NewProxy(t, f.server.Listener.Addr().String())
	f.Client = open(t, Config{Endpoint: "http://" + p.Addr, Timeout: time.Second})
	patient := keysource.NewRetry(f.Client, keysource.RetryConfig{}) // a connection that was kept may be closed
	for _, c := range []struct {
		name string
		mode awskmstest.Mode
		wait bool
	}{
		{"cut", awskmstest.Cut, false}, {"hang", awskmstest.Hang, true}, {"truncated", awskmstest.Truncate, false},
		{"garbage", awskmstest.Garbage, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Set(awskmstest.Pass)
			key := keysource.KeyRef(f.a.ARN)
			if _, err := patient.DescribeKey(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			p.Set(c.mode) // the connection that is kept, and new ones
			for range 3 {
				start := time.Now()
				_, err := f.Client.DescribeKey(t.Context(), key)
				took := time.Since(start)
				e, ok := errors.AsType[*keysource.Error](err)
				if !ok || !errors.Is(err, keysource.ErrUnavailable) || e.Code == "" {
					t.Errorf("got %v", err)
				}
				if c.wait != errors.Is(err, context.DeadlineExceeded) || took > 20*time.Second || c.wait && took < time.Second {
					t.Errorf("got %v after %v", err, took)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := f.Client.DescribeKey(ctx, key); c.wait && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the caller's deadline: %v", err)
			} else if c.wait && errors.Is(err, keysource.ErrUnavailable) {
				t.Errorf("the caller's own deadline is no failure of the KMS: %v", err)
			}
			p.Set(awskmstest.Pass)
			if _, err := patient.DescribeKey(t.Context(), key); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	f.server.Close()
	if _, err := f.Client.DescribeKey(t.Context(), keysource.KeyRef(f.a.ARN)); !errors.Is(err, keysource.ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestClockSkew: a server that refuses a signature for its time, and says in its Date what time it is, gets another one at
// once, with that time, and so do all calls that follow.
func TestClockSkew(t *testing.T) {
	s := newStore(t)
	const skew = 2 * time.Hour
	var refused, accepted atomic.Int64
	server := httptest.NewServer(&awskmstest.Server{Keys: s, Intercept: func(_ string, w http.ResponseWriter, r *http.Request) bool {
		now := time.Now().Add(skew)
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || now.Sub(signed).Abs() > 15*time.Minute {
			refused.Add(1)
			awskmstest.Fail(w, 400, "InvalidSignatureException", "Signature expired")
			return true
		}
		accepted.Add(1)
		return false
	}})
	defer server.Close()
	c := open(t, Config{Endpoint: server.URL})
	for range 3 {
		if _, err := c.DescribeKey(t.Context(), "alias/a"); err != nil {
			t.Fatal(err)
		}
	}
	if refused.Load() != 1 || accepted.Load() != 3 {
		t.Errorf("%d signatures were refused and %d accepted, want 1 and 3", refused.Load(), accepted.Load())
	}
}

// TestOpenRefuses: what would not work, or would not be safe, is refused before any call.
func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		env  map[string]string
		want error
	}{
		{"no region", Config{Key: "alias/a"}, nil, keysource.ErrInvalidArgument},
		{"clear text endpoint", Config{Region: "r", Endpoint: "http://10.0.0.1"}, nil, keysource.ErrInvalidArgument},
		{"clear text endpoint of the environment", Config{Region: "r"}, map[string]string{"AWS_ENDPOINT_URL_KMS": "http://10.0.0.1"},
			keysource.ErrInvalidArgument},
		{"no credentials", Config{Region: "r"}, map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, keysource.ErrDenied},
		{"no such profile", Config{Region: "r", Profile: "none"}, nil, keysource.ErrInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			credentials(t)
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			client, err := Open(t.Context(), c.cfg)
			if err == nil {
				client.Close()
			}
			if !errors.Is(err, c.want) || keysource.Hint(err) == "" {
				t.Errorf("got %v with hint %q, want %v with a hint", err, keysource.Hint(err), c.want)
			}
		})
	}
	credentials(t)
	c, err := Open(t.Context(), Config{Key: "arn:aws:kms:eu-central-1:111122223333:key/x"})
	if err != nil {
		t.Fatalf("the region of an ARN: %v", err)
	}
	if region := c.api.Options().Region; region != "eu-central-1" {
		t.Errorf("region %q", region)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
