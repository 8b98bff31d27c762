package awskms

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsfs/keysource"
)

// maxAnswer is the most that is read of an answer, in bytes. A KMS answers with a few kilobytes.
const maxAnswer = 1 << 20

// Times of a connection. Config.Timeout bounds the whole call besides.
const (
	dialTimeout = 5 * time.Second
	tlsTimeout  = 5 * time.Second
	idleTimeout = 90 * time.Second
)

// idleConns is how many connections are kept for the next burst of calls.
const idleConns = 256

// transport is an HTTP client that reads no more of an answer than one can have.
type transport struct{ inner kms.HTTPClient }

// newTransport makes the HTTP client for endpoint. inner is that of the AWS configuration, whose certificates
// (AWS_CA_BUNDLE) stay.
func newTransport(inner kms.HTTPClient, endpoint string) *transport {
	b, ok := inner.(*awshttp.BuildableClient)
	if !ok {
		b = awshttp.NewBuildableClient()
	}
	b = b.WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = idleConns, idleConns
		t.IdleConnTimeout = idleTimeout
		t.TLSHandshakeTimeout = tlsTimeout
		t.MaxResponseHeaderBytes = maxAnswer
		if socket, ok := strings.CutPrefix(endpoint, keysource.EndpointUnix); ok {
			t.Proxy = nil
			t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", socket)
			}
		}
	})
	return &transport{b.Freeze()}
}

// Do implements kms.HTTPClient.
func (t *transport) Do(r *http.Request) (*http.Response, error) {
	resp, err := t.inner.Do(r)
	if resp != nil && resp.Body != nil {
		resp.Body = &limitedBody{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// limitedBody is the beginning of a body.
type limitedBody struct {
	io.Reader
	io.Closer
}

// closeIdle returns what closes the connections that no call uses.
func closeIdle(c kms.HTTPClient) func() {
	if t, ok := c.(*transport); ok {
		if i, ok := t.inner.(interface{ CloseIdleConnections() }); ok {
			return i.CloseIdleConnections
		}
	}
	return func() {}
}

// baseURL is the URL that the SDK gets for an endpoint. What a unix: endpoint is called does not matter: the socket says
// who answers.
func baseURL(endpoint string) string {
	if strings.HasPrefix(endpoint, keysource.EndpointUnix) {
		return "http://localhost"
	}
	return endpoint
}
