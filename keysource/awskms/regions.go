package awskms

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsfs/keysource"
)

// regionsMost bounds the regions of one client.
const regionsMost = 16

// regions has the clients for CMKs in other regions than the client's own, each made when it is first needed. A CMK is in
// another region where it is named by an ARN that says so.
type regions struct {
	home      string
	endpoint  string            // of the home region where it is not AWS's own: other regions need one of endpoints
	endpoints map[string]string // by region
	make      func(region, endpoint string) *kms.Client

	mu   sync.Mutex
	apis map[string]*kms.Client
}

// api returns the client for the region of a CMK.
func (c *Client) apiOf(ref keysource.KeyRef) (*kms.Client, error) {
	p, err := ref.Parse()
	if err != nil || p.Region == "" || p.Region == c.regions.home {
		return c.api, nil
	}
	r := &c.regions
	endpoint := r.endpoints[p.Region]
	switch {
	case !isRegion(p.Region): // it becomes part of a host's name
		return nil, invalid(fmt.Sprintf("%q is not a region", p.Region))
	case endpoint == "" && r.endpoint != "":
		return nil, keysource.WithHint(keysource.NewError("", string(ref), keysource.CodeNotFound, "the CMK is in region "+p.Region+", and the endpoint serves "+r.home),
			"without endpoint= the CMKs of all regions of AWS are reached")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	api := r.apis[p.Region]
	if api == nil {
		if len(r.apis) >= regionsMost {
			return nil, keysource.NewError("", string(ref), keysource.CodeLimitExceeded, fmt.Sprintf("CMKs of more than %d regions", regionsMost))
		}
		api = r.make(p.Region, endpoint)
		if r.apis == nil {
			r.apis = map[string]*kms.Client{}
		}
		r.apis[p.Region] = api
	}
	return api, nil
}

// isRegion tells what can be the name of a region, and nothing else in the name of a host.
func isRegion(s string) bool {
	return len(s) <= 64 && s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

// otherRegion tells whether a wrapped key is to be moved between regions, which no KMS does.
func (c *Client) otherRegion(in keysource.ReEncryptInput) bool {
	from, err := in.SourceKeyID.Parse()
	to, err2 := in.DestinationKeyID.Parse()
	if err != nil || err2 != nil {
		return false
	}
	at := func(p keysource.ParsedRef) string {
		if p.Region == "" {
			return c.regions.home
		}
		return p.Region
	}
	return at(from) != at(to)
}

// carry moves a wrapped key to a CMK of another region: it is decrypted in its own, and encrypted in the other. The plaintext
// comes here and is wiped.
func (c *Client) carry(ctx context.Context, in keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	old, err := c.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: in.CiphertextBlob, EncryptionContext: in.SourceEncryptionContext,
		KeyID: in.SourceKeyID})
	if err != nil {
		return keysource.ReEncryptResult{}, err
	}
	defer old.Plaintext.Wipe()
	api, err := c.apiOf(in.DestinationKeyID)
	if err != nil {
		return keysource.ReEncryptResult{}, err
	}
	plain := old.Plaintext.Bytes()
	if len(plain) > keysource.MaxPlaintextSize {
		return keysource.ReEncryptResult{}, invalid(fmt.Sprintf("Encrypt takes at most %d bytes", keysource.MaxPlaintextSize))
	}
	out, err := call(ctx, c, "Encrypt", in.DestinationKeyID, in.DestinationEncryptionContext.Validate(),
		func(ctx context.Context) (*kms.EncryptOutput, error) {
			return api.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(string(in.DestinationKeyID)), Plaintext: plain,
				EncryptionContext: in.DestinationEncryptionContext})
		})
	if err != nil {
		return keysource.ReEncryptResult{}, err
	}
	a := answer{"Encrypt", in.DestinationKeyID, out.ResultMetadata}
	if err := first(a.blob(out.CiphertextBlob, plain), a.differs(out.CiphertextBlob, in.CiphertextBlob), a.arn(out.KeyId, in.DestinationKeyID)); err != nil {
		return keysource.ReEncryptResult{}, err
	}
	return keysource.ReEncryptResult{CiphertextBlob: out.CiphertextBlob, SourceKeyID: old.KeyID, SourceKeyMaterialID: old.KeyMaterialID,
		KeyID: *out.KeyId, RequestID: a.requestID()}, nil // Encrypt does not tell the key material
}
