package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"kmsfs/keysource"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/local"
)

// testbed is a server with a CMK and a user, and how to call it.
type testbed struct {
	t      testing.TB
	s      *Server
	url    string
	client *http.Client
	key    identity.AccessKey
	users  *identity.Directory
	store  *local.Store
	trail  *audit.Log
	path   string // of the audit log
	log    *lockedBuffer
}

// lockedBuffer is a log that goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newTestbed makes a server whose user has the ready-made policies, without listening.
func newTestbed(t testing.TB, change func(*Config), policies ...string) *testbed {
	t.Helper()
	dir := t.TempDir()
	store, err := local.Create(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	users, err := identity.Open(store, identity.Config{CheckInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	var attached []identity.Policy
	for _, name := range policies {
		attached = append(attached, identity.Policy{Name: name})
	}
	if _, err := users.Create(t.Context(), identity.User, "alice", attached); err != nil {
		t.Fatal(err)
	}
	key, err := users.CreateAccessKey(t.Context(), identity.User, "alice")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.log")
	trail, err := audit.Open(audit.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	account, region := store.Account()
	cfg := Config{Service: kms.New(store, kms.Config{}), Users: users, Audit: trail, Account: account, Region: region,
		Logger: slog.New(slog.NewTextHandler(log, nil))}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = trail.Close()
		_ = store.Close()
	})
	return &testbed{t: t, s: s, client: http.DefaultClient, key: key, users: users, store: store, trail: trail, path: path, log: log}
}

// serve listens.
func (b *testbed) serve() *testbed {
	h := httptest.NewServer(b.s)
	b.t.Cleanup(h.Close)
	b.url = h.URL + "/"
	return b
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	text   string
}

// code is the exception of an answer.
func (r reply) code() string {
	var e struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if r.status == http.StatusOK || json.Unmarshal([]byte(r.text), &e) != nil || e.Message == "" || e.Type != r.header.Get("X-Amzn-ErrorType") {
		return ""
	}
	return e.Type
}

// request is a signed call.
func (b *testbed) request(op, body string) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("X-Amz-Target", "TrentService."+op)
	sum := sha256.Sum256([]byte(body))
	err = v4.NewSigner().SignHTTP(b.t.Context(), aws.Credentials{AccessKeyID: b.key.ID, SecretAccessKey: string(b.key.Secret)}, r,
		hex.EncodeToString(sum[:]), "kms", "local", time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// do sends a request.
func (b *testbed) do(r *http.Request) reply {
	b.t.Helper()
	w, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{w.StatusCode, w.Header, string(text)}
}

// serveDirectly hands a request to the server without a connection.
func (b *testbed) serveDirectly(r *http.Request) reply {
	w := httptest.NewRecorder()
	r.Host = r.URL.Host
	b.s.ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.String()}
}

// call is a signed call and its answer.
func (b *testbed) call(op, body string) reply { return b.do(b.request(op, body)) }

func TestCall(t *testing.T) {
	b := newTestbed(t, nil, "administrator", "user").serve()
	r := b.call("GenerateDataKey", `{"KeyId":"alias/aws/kmsfs","KeySpec":"AES_256","EncryptionContext":{"name":"value"},"Unknown":1}`)
	var key struct{ KeyID, Plaintext, CiphertextBlob string }
	if err := json.Unmarshal([]byte(r.text), &key); r.status != 200 || err != nil || len(key.Plaintext) != 44 {
		t.Fatalf("%d %s, %v", r.status, r.text, err)
	}
	for name, want := range map[string]string{"Content-Type": "application/x-amz-json-1.1", "Cache-Control": "no-cache, no-store, must-revalidate, private"} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	id := r.header.Get("x-amzn-RequestId")
	r = b.call("Decrypt", `{"CiphertextBlob":"`+key.CiphertextBlob+`","EncryptionContext":{"name":"value"}}`)
	if !strings.Contains(r.text, key.Plaintext) {
		t.Errorf("decrypted: %d %s", r.status, r.text)
	}
	if r = b.call("Decrypt", `{"CiphertextBlob":"`+key.CiphertextBlob+`"}`); r.status != 400 || r.code() != "InvalidCiphertextException" {
		t.Errorf("without its context: %d %s", r.status, r.text)
	}
	if r = b.call("TagResource", `{"KeyId":"alias/none","Tags":[]}`); r.status != 400 {
		t.Errorf("%d %s", r.status, r.text)
	}
	if r = b.call("CreateKey", ""); r.status != 200 {
		t.Fatalf("no body: %d %s", r.status, r.text)
	}
	var made struct {
		KeyMetadata struct {
			KeyID string `json:"KeyId"`
		}
	}
	if err := json.Unmarshal([]byte(r.text), &made); err != nil {
		t.Fatal(err)
	}
	if r = b.call("DisableKey", `{"KeyId":"`+made.KeyMetadata.KeyID+`"}`); r.status != 200 || r.text != "" {
		t.Errorf("a call without an answer: %d %q", r.status, r.text)
	}
	b.checkTrail(id, key.Plaintext, key.CiphertextBlob)
}

// checkTrail looks at the audit log of TestCall.
func (b *testbed) checkTrail(requestID, plaintext, ciphertext string) {
	b.t.Helper()
	text, err := os.ReadFile(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	if s, err := audit.Verify(bytes.NewReader(text), audit.Head{}, nil); err != nil || s.Lines != 6 {
		b.t.Errorf("%+v, %v", s, err)
	}
	if strings.Contains(string(text), plaintext) || strings.Contains(string(text), ciphertext) || strings.Contains(string(text), string(b.key.Secret)) {
		b.t.Error("the audit log has a secret")
	}
	first, _, _ := strings.Cut(string(text), "\n")
	for _, want := range []string{`"eventName":"GenerateDataKey"`, `"requestID":"` + requestID + `"`, `"encryptionContext":{"name":"value"}`,
		`"arn":"arn:aws:iam::000000000000:user/alice"`, `"type":"AWS::KMS::Key"`, `"keyMaterialId":"`, `"sourceIPAddress":"127.0.0.1"`, `"readOnly":true`} {
		if !strings.Contains(first, want) {
			b.t.Errorf("the first line has no %s: %s", want, first)
		}
	}
	if !strings.Contains(string(text), `"errorCode":"InvalidCiphertextException"`) {
		b.t.Error("a call that failed is not in the audit log")
	}
}

// TestRefusals: what is not a call of somebody who may make it.
func TestRefusals(t *testing.T) {
	b := newTestbed(t, nil, "reader").serve()
	edit := func(change func(r *http.Request)) reply {
		r := b.request("ListKeys", "{}")
		change(r)
		return b.do(r)
	}
	body := func(text string) reply { return b.call("Decrypt", text) }
	for name, c := range map[string]struct {
		reply
		status int
		code   string
	}{
		"not signed":   {edit(func(r *http.Request) { r.Header.Del("Authorization") }), 400, "MissingAuthenticationToken"},
		"changed":      {edit(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("[]")); r.ContentLength = 2 }), 400, "InvalidSignatureException"},
		"other target": {edit(func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.Decrypt") }), 400, "InvalidSignatureException"},
		"incomplete":   {edit(func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }), 400, "IncompleteSignature"},
		"not allowed":  {b.call("CreateKey", "{}"), 400, "AccessDeniedException"},
		"no operation": {b.call("Sign", "{}"), 400, "UnknownOperationException"},
		"prefix":       {b.call("x.Decrypt", "{}"), 400, "UnknownOperationException"},
		"not JSON":     {body("{"), 400, "SerializationException"},
		"two":          {body("{}{}"), 400, "SerializationException"},
		"array":        {body("[]"), 400, "SerializationException"},
		"not UTF-8":    {body("{\"KeyId\":\"\xff\"}"), 400, "SerializationException"},
		"not base64":   {body(`{"CiphertextBlob":"%%%"}`), 400, "SerializationException"},
		"number":       {body(`{"KeyId":1}`), 400, "SerializationException"},
		"deep":         {body(strings.Repeat(`{"a":`, 20000)), 400, "SerializationException"},
		"nothing":      {body(`{}`), 400, "ValidationException"},
		"large":        {body(`{"KeyId":"` + strings.Repeat("x", MaxBodySize) + `"}`), 413, "RequestEntityTooLargeException"},
		"chunked, large": {edit(func(r *http.Request) {
			r.Body = io.NopCloser(bytes.NewReader(make([]byte, MaxBodySize+2)))
			r.ContentLength = -1
		}), 413, "RequestEntityTooLargeException"},
		"GET":        {edit(func(r *http.Request) { r.Method = "GET"; r.Body = nil; r.ContentLength = 0 }), 405, ""},
		"other path": {edit(func(r *http.Request) { r.URL.Path = "/x" }), 404, ""},
	} {
		if c.reply.status != c.status || c.code != "" && c.reply.code() != c.code {
			t.Errorf("%s: %d %s, want %d %s", name, c.reply.status, c.text, c.status, c.code)
		}
	}
	if err := b.users.SetAccessKey(t.Context(), identity.User, "alice", b.key.ID, identity.Disabled); err != nil {
		t.Fatal(err)
	}
	if r := b.call("ListKeys", "{}"); r.code() != "UnrecognizedClientException" {
		t.Errorf("a disabled key: %d %s", r.status, r.text)
	}
	if strings.Contains(b.log.String(), string(b.key.Secret)) {
		t.Error("the log has the secret")
	}
}

// TestFaults: the store and the audit log fail below the server.
func TestFaults(t *testing.T) {
	b := newTestbed(t, nil, "administrator", "user").serve()
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	r := b.call("DescribeKey", `{"KeyId":"alias/aws/kmsfs"}`)
	if r.status != 500 || r.code() != "KMSInternalException" || !strings.Contains(r.text, "internal error") {
		t.Errorf("%d %s", r.status, r.text)
	}
	if !strings.Contains(b.log.String(), "closed") || !strings.Contains(b.log.String(), r.header.Get("x-amzn-RequestId")) {
		t.Errorf("the log does not say why: %s", b.log.String())
	}
	if err := b.trail.Close(); err != nil {
		t.Fatal(err)
	}
	if r := b.call("DescribeKey", "{}"); r.status != 500 || r.code() != "KMSInternalException" {
		t.Errorf("without an audit log: %d %s", r.status, r.text)
	}
	get := func(path string) reply {
		r, err := http.NewRequest(http.MethodGet, b.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b.do(r)
	}
	if r := get("healthz"); r.status != 503 {
		t.Errorf("health: %d %s", r.status, r.text)
	}
	if r := get("metrics"); !strings.Contains(r.text, `kmsfs_kms_calls_total{exception="KMSInternalException",operation="DescribeKey"} 2`) ||
		!strings.Contains(r.text, "kmsfs_kms_audit_writable 0") {
		t.Errorf("metrics: %s", r.text)
	}
}

// TestPanic: an operation that panics fails alone, is recorded, and says nothing of the value.
func TestPanic(t *testing.T) {
	b := newTestbed(t, func(c *Config) { c.Bug = func(any) []any { return []any{"stack", "where it was"} } }, "user").serve()
	b.s.operations["Panic"] = kms.Operation{Name: "Panic", NewInput: func() any { return &struct{}{} },
		Do: func(context.Context, *kms.Service, *kms.Call, any) (any, error) { panic("plaintext") }}
	if r := b.call("Panic", "{}"); r.code() != "KMSInternalException" {
		t.Errorf("%d %s", r.status, r.text)
	}
	if log := b.log.String(); strings.Contains(log, "plaintext") || strings.Contains(log, "0x") || !strings.Contains(log, "where it was") {
		t.Errorf("log: %s", b.log.String())
	}
	if r := b.call("DescribeKey", `{"KeyId":"alias/aws/kmsfs"}`); r.status != 200 {
		t.Errorf("the next call: %d %s", r.status, r.text)
	}
	if text, err := os.ReadFile(b.path); err != nil || !strings.Contains(string(text), `"eventName":"Panic"`) {
		t.Errorf("the audit log: %s, %v", text, err)
	}
}

// TestServe: connections are bounded, and a call that is under way ends before the server does.
func TestServe(t *testing.T) {
	b := newTestbed(t, func(c *Config) { c.MaxConnections = 2 }, "user")
	began, let := make(chan struct{}), make(chan struct{})
	b.s.operations["Wait"] = kms.Operation{Name: "Wait", NewInput: func() any { return &struct{}{} },
		Do: func(context.Context, *kms.Service, *kms.Call, any) (any, error) {
			close(began)
			<-let
			return &kms.NoOutput{}, nil
		}}
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(UnixPrefix+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.url = "http://unix/"
	b.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.s.Serve(ctx, l) }()
	answer := make(chan reply, 1)
	go func() { answer <- b.call("Wait", "{}") }()
	<-began
	idle, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	third, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(third, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := third.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Errorf("a third connection was served: %d bytes", n)
	}
	_ = idle.Close()
	if err := third.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Read(make([]byte, 1)); err != nil {
		t.Errorf("the third connection is not served after the second ended: %v", err)
	}
	_ = third.Close()
	stop()
	select {
	case err := <-ended:
		t.Fatalf("the server ended while a call was under way: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(let)
	if r := <-answer; r.status != 200 {
		t.Errorf("the call under way: %d %s", r.status, r.text)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	text, err := os.ReadFile(b.path)
	if err != nil || !strings.Contains(string(text), `"sourceIPAddress":"unix socket"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestListen(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "example.com:80", "127.0.0.1", "", "unix"} {
		if l, err := Listen(address, nil); err == nil {
			t.Errorf("%q: listens on %v without TLS", address, l.Addr())
		}
	}
	for _, address := range []string{"127.0.0.1:0", "localhost:0"} {
		l, err := Listen(address, nil)
		if err != nil {
			t.Errorf("%q: %v", address, err)
			continue
		}
		_ = l.Close()
	}
	path := UnixPrefix + filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, nil); err == nil {
		t.Error("a socket in use was replaced")
	}
	l.Listener.(*net.UnixListener).SetUnlinkOnClose(false) // as a crash
	_ = l.Close()
	if l, err = Listen(path, nil); err != nil {
		t.Fatalf("the socket of a server that crashed: %v", err)
	}
	_ = l.Close()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(UnixPrefix+file, nil); err == nil {
		t.Error("a file was replaced")
	}
}

// movedClock is a clock that a test moves.
type movedClock struct {
	mu    sync.Mutex
	now   time.Time
	moved chan struct{}
}

func newMovedClock() *movedClock {
	return &movedClock{now: time.Now(), moved: make(chan struct{})}
}

func (c *movedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Sleep waits for the next move.
func (c *movedClock) Sleep(ctx context.Context, _ time.Duration) error {
	select {
	case <-c.moved:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// move moves the clock and waits until somebody has slept so long.
func (c *movedClock) move(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
	c.moved <- struct{}{}
}

// TestEvents: what happens to a CMK without a call happens on its day, and is recorded.
func TestEvents(t *testing.T) {
	clock := newMovedClock()
	var b *testbed
	store, err := local.Create(t.Context(), local.Config{Dir: t.TempDir(), Clock: clock, Event: func(e local.Event) { b.s.Event(e) }})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b = newTestbed(t, func(c *Config) {
		c.Clock = clock
		c.Due = func(ctx context.Context) error {
			_, err := store.ListKeys(ctx)
			return err
		}
	})
	rotated, err := store.CreateKey(t.Context(), keysource.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	doomed, err := store.CreateKey(t.Context(), keysource.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.EnableKeyRotation(t.Context(), keysource.KeyRef(rotated.KeyID), 90); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ScheduleKeyDeletion(t.Context(), keysource.KeyRef(doomed.KeyID), 7); err != nil {
		t.Fatal(err)
	}
	l, err := Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.s.Serve(ctx, l) }()
	for _, d := range []time.Duration{time.Minute, 8 * 24 * time.Hour, 91 * 24 * time.Hour, time.Minute} {
		clock.move(d)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"eventName":"RotateKey"`, `"serviceEventDetails":{"keyId":"` + rotated.KeyID + `","rotationType":"AUTOMATIC"}`,
		`"additionalEventData":{"keyMaterialId":"`, `"eventName":"DeleteKey"`, `"serviceEventDetails":{"keyId":"` + doomed.KeyID + `"}`,
		`"eventType":"AwsServiceEvent"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the audit log has no %s: %s", want, text)
		}
	}
}

// FuzzBody: no body makes a call panic, end with a fault, or show a secret.
func FuzzBody(f *testing.F) {
	b := newTestbed(f, nil, "administrator", "user")
	for _, seed := range []string{`{"KeyId":"alias/aws/kmsfs"}`, `{"Limit":1,"Marker":"x"}`, `{"CiphertextBlob":"AAAA"}`, `{"KeyId":null}`,
		`{"Policy":"{}","Tags":[{"TagKey":"a"}]}`, `{"EncryptionContext":{"a":"b"},"KeyId":"alias/aws/kmsfs","NumberOfBytes":9}`, `{"ValidTo":1e400}`} {
		for i := range 3 {
			f.Add(uint8(i*12), []byte(seed))
		}
	}
	var names []string
	for name := range b.s.operations {
		names = append(names, name)
	}
	id, _ := b.users.Lookup(b.key.ID)
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		op := b.s.operations[names[int(which)%len(names)]]
		if op.Name == "CreateKey" || op.Name == "GetParametersForImport" {
			t.Skip("it would fill the store, or take long")
		}
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		c := &call{s: b.s, w: httptest.NewRecorder(), r: r, name: op.Name}
		c.call.Caller, c.call.EventID = id.Caller, audit.NewID()
		_, err := c.perform(t.Context(), op, body)
		if fault := failureOf(err); err != nil && fault.status >= 500 {
			t.Errorf("%s %q: %v", op.Name, body, err)
		}
	})
}

var _ Users = (*identity.Directory)(nil)

// TestFailureTable is the table from errors to answers.
func TestFailureTable(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{keysource.NewError("", "", keysource.CodeDisabled, "x"), 400, "DisabledException"},
		{keysource.NewError("", "", keysource.CodeThrottling, "x"), 400, "ThrottlingException"},
		{keysource.NewError("", "", keysource.CodeKeyUnavailable, "x"), 500, "KeyUnavailableException"},
		{keysource.NewError("", "", keysource.CodeDependencyTimeout, "x"), 500, "DependencyTimeoutException"},
		{keysource.NewError("", "", keysource.CodeInternal, "secret"), 500, "KMSInternalException"},
		{context.DeadlineExceeded, 500, "DependencyTimeoutException"},
		{local.ErrLocked, 500, "DependencyTimeoutException"},
		{local.ErrNotDurable, 500, "KMSInternalException"},
		{keysource.ErrClosed, 500, "KMSInternalException"},
		{io.ErrUnexpectedEOF, 500, "KMSInternalException"},
	} {
		if f := failureOf(c.err); f.status != c.status || f.code != c.code || f.message == "" || strings.Contains(f.message, "secret") {
			t.Errorf("%v: %+v", c.err, f)
		}
	}
}

// BenchmarkCall is a signed Decrypt without the network: what the server does for each.
func BenchmarkCall(bench *testing.B) {
	b := newTestbed(bench, nil, "user").serve()
	r := b.call("GenerateDataKey", `{"KeyId":"alias/aws/kmsfs","KeySpec":"AES_256"}`)
	var key struct{ CiphertextBlob string }
	if err := json.Unmarshal([]byte(r.text), &key); err != nil {
		bench.Fatal(err)
	}
	body := `{"CiphertextBlob":"` + key.CiphertextBlob + `"}`
	signed := b.request("Decrypt", body)
	signed.Host = strings.TrimSuffix(strings.TrimPrefix(b.url, "http://"), "/")
	bench.ReportAllocs()
	bench.ResetTimer()
	bench.SetParallelism(8)
	bench.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			again := signed.Clone(bench.Context())
			again.Body = io.NopCloser(strings.NewReader(body))
			w := httptest.NewRecorder()
			b.s.ServeHTTP(w, again)
			if w.Code != 200 {
				bench.Error(w.Body.String())
			}
		}
	})
}
