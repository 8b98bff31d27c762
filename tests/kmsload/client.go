package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// accessKey is one, as kmsfs prints it.
type accessKey struct {
	ID     string `json:"access_key_id"`
	Secret string `json:"secret_access_key"`
}

// signer signs requests, with as little work as there can be: a load must not measure its own client. It is safe for
// concurrent use.
type signer struct {
	id, host, date string
	key            []byte
}

// newSigner derives the signing key of today.
func newSigner(url string, k accessKey) *signer {
	s := &signer{id: k.ID, host: hostOf(url), date: time.Now().UTC().Format("20060102")}
	s.key = []byte("AWS4" + k.Secret)
	for _, part := range []string{s.date, "local", "kms", "aws4_request"} {
		s.key = mac(s.key, part)
	}
	return s
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = io.WriteString(h, text)
	return h.Sum(nil)
}

// hostOf is the host of a request to url.
func hostOf(url string) string {
	if host, ok := strings.CutPrefix(url, "http://"); ok {
		return host
	}
	return "kms"
}

// conn is a connection that is kept.
type conn struct {
	url string
	c   net.Conn
	r   *bufio.Reader
}

func newConn(url string) *conn { return &conn{url: url} }

// open connects where that was not done yet.
func (c *conn) open() (err error) {
	if c.c != nil {
		return nil
	}
	network, address := "tcp", hostOf(c.url)
	if path, ok := strings.CutPrefix(c.url, "unix:"); ok {
		network, address = "unix", path
	}
	if c.c, err = net.Dial(network, address); err == nil {
		c.r = bufio.NewReader(c.c)
	}
	return err
}

func (c *conn) close() {
	if c.c != nil {
		_ = c.c.Close()
	}
}

// call makes one call and returns its answer.
func (s *signer) call(_ context.Context, c *conn, op, body string) ([]byte, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Format("20060102T150405Z")
	hash := sha256.Sum256([]byte(body))
	const signed = "content-type;host;x-amz-date;x-amz-target"
	canonical := "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:" + s.host + "\nx-amz-date:" + now + "\nx-amz-target:TrentService." + op +
		"\n\n" + signed + "\n" + hex.EncodeToString(hash[:])
	sum := sha256.Sum256([]byte(canonical))
	scope := s.date + "/local/kms/aws4_request"
	signature := hex.EncodeToString(mac(s.key, "AWS4-HMAC-SHA256\n"+now+"\n"+scope+"\n"+hex.EncodeToString(sum[:])))
	request := "POST / HTTP/1.1\r\nHost: " + s.host + "\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: " + strconv.Itoa(len(body)) +
		"\r\nX-Amz-Date: " + now + "\r\nX-Amz-Target: TrentService." + op + "\r\nAuthorization: AWS4-HMAC-SHA256 Credential=" + s.id + "/" + scope +
		", SignedHeaders=" + signed + ", Signature=" + signature + "\r\n\r\n" + body
	if _, err := io.WriteString(c.c, request); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return text, err
}
