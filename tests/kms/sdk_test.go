package kms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// sdk is the AWS SDK for Go with an access key, and with nothing of the machine's own settings.
func sdk(endpoint string, k accessKey, transport http.RoundTripper) *kms.Client {
	o := kms.Options{Region: "local", BaseEndpoint: aws.String(endpoint), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.ID, k.Secret, "")}
	if transport != nil {
		o.HTTPClient = &http.Client{Transport: transport}
	}
	return kms.New(o)
}

// is tells whether err is a typed exception of the SDK.
func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// hasCode tells whether err is an exception for which the SDK has no type.
func hasCode(code string) func(error) bool {
	return func(err error) bool {
		var e smithy.APIError
		return errors.As(err, &e) && e.ErrorCode() == code
	}
}

// TestGoExceptions: every error arrives as the type that the SDK has for it, with its request id.
func TestGoExceptions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	admin := b.user("admin", "administrator", "user")
	nobody := b.user("nobody")
	b.grants("admin")
	b.start()
	c, stranger := sdk(b.urls[0], admin, nil), sdk(b.urls[0], nobody, nil)
	ctx := t.Context()
	create := func(in *kms.CreateKeyInput) *string {
		t.Helper()
		out, err := c.CreateKey(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return out.KeyMetadata.KeyId
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	id, other, disabled, dying := create(&kms.CreateKeyInput{}), create(&kms.CreateKeyInput{}), create(&kms.CreateKeyInput{}), create(&kms.CreateKeyInput{})
	external := create(&kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	must(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/go"), TargetKeyId: id}))
	box, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("x"), EncryptionContext: map[string]string{"a": "b"}})
	must(box, err)
	must(c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: disabled}))
	must(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: dying, PendingWindowInDays: aws.Int32(7)}))
	text := []byte("x")
	for name, c := range map[string]struct {
		err  func() (any, error)
		want func(error) bool
	}{
		"NotFound":          {func() (any, error) { return c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/none")}) }, is[*types.NotFoundException]},
		"Disabled":          {func() (any, error) { return c.Encrypt(ctx, &kms.EncryptInput{KeyId: disabled, Plaintext: text}) }, is[*types.DisabledException]},
		"InvalidState":      {func() (any, error) { return c.Encrypt(ctx, &kms.EncryptInput{KeyId: dying, Plaintext: text}) }, is[*types.KMSInvalidStateException]},
		"pending import":    {func() (any, error) { return c.Encrypt(ctx, &kms.EncryptInput{KeyId: external, Plaintext: text}) }, is[*types.KMSInvalidStateException]},
		"InvalidCiphertext": {func() (any, error) { return c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: box.CiphertextBlob}) }, is[*types.InvalidCiphertextException]},
		"no ciphertext":     {func() (any, error) { return c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: text}) }, is[*types.InvalidCiphertextException]},
		"IncorrectKey": {func() (any, error) {
			return c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: box.CiphertextBlob, KeyId: other, EncryptionContext: map[string]string{"a": "b"}})
		}, is[*types.IncorrectKeyException]},
		"AlreadyExists": {func() (any, error) {
			return c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/go"), TargetKeyId: other})
		}, is[*types.AlreadyExistsException]},
		"InvalidAliasName": {func() (any, error) {
			return c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("go"), TargetKeyId: other})
		}, func(err error) bool {
			return is[*types.InvalidAliasNameException](err) || hasCode("ValidationException")(err)
		}},
		"MalformedPolicy": {func() (any, error) {
			return c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, Policy: aws.String("{}")})
		}, is[*types.MalformedPolicyDocumentException]},
		"DryRun": {func() (any, error) {
			return c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256, DryRun: aws.Bool(true)})
		}, is[*types.DryRunOperationException]},
		"Unsupported": {func() (any, error) {
			return c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
		},
			is[*types.UnsupportedOperationException]},
		"InvalidMarker": {func() (any, error) { return c.ListKeys(ctx, &kms.ListKeysInput{Marker: aws.String("no marker")}) }, is[*types.InvalidMarkerException]},
		"InvalidArn": {func() (any, error) {
			return c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: id, GranteePrincipal: aws.String("arn:aws:iam::1:x/y"), Operations: []types.GrantOperation{types.GrantOperationDecrypt}})
		}, is[*types.InvalidArnException]},
		"AccessDenied": {func() (any, error) { return stranger.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: text}) }, hasCode("AccessDeniedException")},
		"Validation": {func() (any, error) {
			return c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: id, NumberOfBytes: aws.Int32(1025)})
		}, hasCode("ValidationException")},
		"unknown operation": {func() (any, error) {
			return c.Sign(ctx, &kms.SignInput{KeyId: id, Message: text, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
		}, hasCode("UnknownOperationException")},
		"signature": {func() (any, error) {
			return sdk(b.urls[0], accessKey{admin.ID, "other"}, nil).ListKeys(ctx, &kms.ListKeysInput{})
		}, hasCode("InvalidSignatureException")},
		"access key": {func() (any, error) {
			return sdk(b.urls[0], accessKey{"AKIANOBODY", "other"}, nil).ListKeys(ctx, &kms.ListKeysInput{})
		}, hasCode("UnrecognizedClientException")},
	} {
		_, err := c.err()
		var response *awshttp.ResponseError
		if err == nil || !c.want(err) || !errors.As(err, &response) || response.ServiceRequestID() == "" || response.HTTPStatusCode() != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.stop()
	b.verified()
}

// certificate makes a certificate for this machine and its key in dir, and returns it.
func certificate(t *testing.T, dir string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// trusting is a transport that trusts one certificate.
func trusting(cert *x509.Certificate) *http.Transport {
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
}

// TestTLS: over TLS on every address, with a certificate that is replaced while the server runs, and over a unix socket.
func TestTLS(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.user("alice", "user")
	first := certificate(t, b.dir, 1)
	socket := filepath.Join(b.dir, "s")
	b.flags = []string{"--listen", "0.0.0.0:0", "--listen", "unix:" + socket, "--tls-cert", filepath.Join(b.dir, "cert.pem"), "--tls-key", filepath.Join(b.dir, "key.pem")}
	b.start()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(b.urls[0], "https://"))
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "https://127.0.0.1:" + port
	describe := func(transport http.RoundTripper) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := sdk(endpoint, k, transport).DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/first")})
		return err
	}
	if err := describe(trusting(first)); err != nil {
		t.Fatalf("%v\n%s", err, b.log)
	}
	second := certificate(t, b.dir, 2)
	if err := b.server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new certificate", func() bool { return describe(trusting(second)) == nil })
	if err := describe(trusting(first)); err == nil {
		t.Error("the old certificate is still used")
	}
	if err := os.WriteFile(filepath.Join(b.dir, "cert.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line in the log", func() bool { return strings.Contains(b.log.String(), "cannot be read again") })
	overSocket := trusting(second)
	overSocket.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	if err := describe(overSocket); err != nil {
		t.Error(err)
	}
	b.stop()
	if trail := b.verified(); !strings.Contains(trail, `"tlsDetails":{"tlsVersion":"TLSv1.3"`) {
		t.Errorf("the audit log does not say how the call came: %s", trail)
	}
}
