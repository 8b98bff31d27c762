package server

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// countedBody is a body of a request that counts what is read of it.
type countedBody struct {
	io.Reader
	n *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.n.Add(int64(n))
	return n, err
}

func (countedBody) Close() error { return nil }

// TestStrangersBody: of a request that its header shows to be nobody's the body is not read.
func TestStrangersBody(t *testing.T) {
	b := newTestbed(t, nil, "user")
	b.url = "http://kms.test/"
	for name, c := range map[string]struct {
		change func(h http.Header)
		code   string
		read   bool
	}{
		"signed":     {func(http.Header) {}, "", true},
		"not signed": {func(h http.Header) { h.Del("Authorization") }, "MissingAuthenticationToken", false},
		"incomplete": {func(h http.Header) { h.Set("Authorization", "AWS4-HMAC-SHA256 x") }, "IncompleteSignature", false},
		"no date":    {func(h http.Header) { h.Del("X-Amz-Date") }, "IncompleteSignature", false},
		"old":        {func(h http.Header) { h.Set("X-Amz-Date", "20200101T000000Z") }, "InvalidSignatureException", false},
		"unknown key": {func(h http.Header) {
			h.Set("Authorization", strings.Replace(h.Get("Authorization"), b.key.ID, "AKIAX", 1))
		}, "UnrecognizedClientException", false},
		"other region": {func(h http.Header) {
			h.Set("Authorization", strings.Replace(h.Get("Authorization"), "/local/", "/mars/", 1))
		}, "InvalidSignatureException", false},
		"bad signature": {func(h http.Header) {
			h.Set("Authorization", h.Get("Authorization")[:len(h.Get("Authorization"))-4]+"0000")
		}, "InvalidSignatureException", true},
	} {
		body := `{"KeyId":"alias/aws/kmsfs"}`
		r := b.request("DescribeKey", body)
		c.change(r.Header)
		var read atomic.Int64
		r.Body = countedBody{strings.NewReader(body), &read}
		got := b.serveDirectly(r)
		if got.code() != c.code || read.Load() > 0 != c.read {
			t.Errorf("%s: %d %s, %d bytes read", name, got.status, got.text, read.Load())
		}
	}
	if !strings.Contains(b.log.String(), "not authenticated") {
		t.Error("a refused request is not logged")
	}
}

// TestBodyRoom: large bodies wait for room, and are told so when it takes too long; small ones do not.
func TestBodyRoom(t *testing.T) {
	b := newTestbed(t, func(c *Config) { c.Timeout = 100 * time.Millisecond }, "user")
	b.url = "http://kms.test/"
	small := `{"KeyId":"alias/aws/kmsfs"}`
	large := small + strings.Repeat(" ", 2*smallBody)
	unsaid := func() *http.Request {
		r := b.request("DescribeKey", small)
		r.ContentLength = -1
		return r
	}
	slots := cap(b.s.bodies.slots)
	if slots*MaxBodySize != maxBodyMemory {
		t.Errorf("%d slots", slots)
	}
	for range slots {
		b.s.bodies.slots <- struct{}{}
	}
	if r := b.serveDirectly(b.request("DescribeKey", large)); r.code() != "ThrottlingException" {
		t.Errorf("large: %d %s", r.status, r.text)
	}
	if r := b.serveDirectly(unsaid()); r.code() != "ThrottlingException" {
		t.Errorf("of unknown length: %d %s", r.status, r.text)
	}
	if r := b.serveDirectly(b.request("DescribeKey", small)); r.status != 200 {
		t.Errorf("small: %d %s", r.status, r.text)
	}
	<-b.s.bodies.slots
	for range 2 { // each gives its room back
		if r := b.serveDirectly(b.request("DescribeKey", large)); r.status != 200 {
			t.Errorf("large, with room: %d %s", r.status, r.text)
		}
	}
}
