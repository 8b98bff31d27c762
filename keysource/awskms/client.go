package awskms

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"kmsfs/keysource"
)

// Client is a Keysource that asks a KMS. It is safe for concurrent use and starts no goroutines of its own.
type Client struct {
	api     *kms.Client // of the home region
	regions regions
	timeout time.Duration
	idle    func() // closes idle connections
	closed  atomic.Bool
}

// call makes one call within the timeout and turns its error into one of keysource. A mistake in the request is found
// before, and costs none.
func call[T any](ctx context.Context, c *Client, op string, key keysource.KeyRef, mistake error, do func(context.Context) (T, error)) (T, error) {
	var none T
	switch {
	case c.closed.Load():
		return none, keysource.ErrClosed
	case ctx.Err() != nil:
		return none, ctx.Err()
	case mistake != nil:
		return none, mistake
	}
	inner, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, err := do(inner)
	if err != nil {
		return none, convert(ctx, op, string(key), err)
	}
	return out, nil
}

// GenerateDataKey implements keysource.Keysource.
func (c *Client) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	n := in.NumberOfBytes
	if n == 0 {
		n = keysource.DataKeySize
	}
	api, wrong := c.apiOf(in.KeyID)
	out, err := call(ctx, c, "GenerateDataKey", in.KeyID, first(checkRef(in.KeyID), wrong, in.EncryptionContext.Validate(), checkSize(n)),
		func(ctx context.Context) (*kms.GenerateDataKeyOutput, error) {
			return api.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String(string(in.KeyID)),
				EncryptionContext: in.EncryptionContext, NumberOfBytes: aws.Int32(int32(n))})
		})
	if err != nil {
		return keysource.DataKey{}, err
	}
	defer clear(out.Plaintext)
	a := answer{"GenerateDataKey", in.KeyID, out.ResultMetadata}
	err = first(a.plaintext(out.Plaintext, n, n), a.blob(out.CiphertextBlob, out.Plaintext), a.arn(out.KeyId, in.KeyID),
		a.material(out.KeyMaterialId))
	if err != nil {
		return keysource.DataKey{}, err
	}
	return keysource.DataKey{Plaintext: keysource.NewPlaintextKey(out.Plaintext), CiphertextBlob: out.CiphertextBlob,
		KeyID: *out.KeyId, KeyMaterialID: aws.ToString(out.KeyMaterialId)}, nil
}

// Decrypt implements keysource.Keysource.
func (c *Client) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	api, wrong := c.apiOf(in.KeyID)
	out, err := call(ctx, c, "Decrypt", in.KeyID,
		first(checkOptionalRef(in.KeyID), wrong, in.EncryptionContext.Validate(), checkBlob(in.CiphertextBlob)),
		func(ctx context.Context) (*kms.DecryptOutput, error) {
			return api.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: in.CiphertextBlob,
				EncryptionContext: in.EncryptionContext, KeyId: optional(in.KeyID)})
		})
	if err != nil {
		return keysource.DecryptResult{}, err
	}
	defer clear(out.Plaintext)
	a := answer{"Decrypt", in.KeyID, out.ResultMetadata}
	err = first(a.plaintext(out.Plaintext, 1, keysource.MaxPlaintextSize), a.arn(out.KeyId, in.KeyID), a.material(out.KeyMaterialId))
	if err != nil {
		return keysource.DecryptResult{}, err
	}
	return keysource.DecryptResult{Plaintext: keysource.NewPlaintextKey(out.Plaintext), KeyID: *out.KeyId,
		KeyMaterialID: aws.ToString(out.KeyMaterialId)}, nil
}

// ReEncrypt implements keysource.Keysource. Between CMKs of two regions it is Decrypt and Encrypt.
func (c *Client) ReEncrypt(ctx context.Context, in keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	if c.otherRegion(in) {
		return c.carry(ctx, in)
	}
	api, wrong := c.apiOf(in.DestinationKeyID)
	out, err := call(ctx, c, "ReEncrypt", in.DestinationKeyID, first(checkOptionalRef(in.SourceKeyID), checkRef(in.DestinationKeyID), wrong,
		in.SourceEncryptionContext.Validate(), in.DestinationEncryptionContext.Validate(), checkBlob(in.CiphertextBlob)),
		func(ctx context.Context) (*kms.ReEncryptOutput, error) {
			return api.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: in.CiphertextBlob,
				SourceEncryptionContext: in.SourceEncryptionContext, SourceKeyId: optional(in.SourceKeyID),
				DestinationKeyId:             aws.String(string(in.DestinationKeyID)),
				DestinationEncryptionContext: in.DestinationEncryptionContext})
		})
	if err != nil {
		return keysource.ReEncryptResult{}, err
	}
	a := answer{"ReEncrypt", in.DestinationKeyID, out.ResultMetadata}
	err = first(a.blob(out.CiphertextBlob, nil), a.differs(out.CiphertextBlob, in.CiphertextBlob), a.arn(out.KeyId, in.DestinationKeyID),
		a.arn(out.SourceKeyId, in.SourceKeyID), a.material(out.SourceKeyMaterialId), a.material(out.DestinationKeyMaterialId))
	if err != nil {
		return keysource.ReEncryptResult{}, err
	}
	return keysource.ReEncryptResult{CiphertextBlob: out.CiphertextBlob,
		SourceKeyID: *out.SourceKeyId, SourceKeyMaterialID: aws.ToString(out.SourceKeyMaterialId),
		KeyID: *out.KeyId, KeyMaterialID: aws.ToString(out.DestinationKeyMaterialId), RequestID: a.requestID()}, nil
}

// DescribeKey implements keysource.Keysource.
func (c *Client) DescribeKey(ctx context.Context, key keysource.KeyRef) (keysource.KeyMetadata, error) {
	api, wrong := c.apiOf(key)
	out, err := call(ctx, c, "DescribeKey", key, first(checkRef(key), wrong), func(ctx context.Context) (*kms.DescribeKeyOutput, error) {
		return api.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(string(key))})
	})
	if err != nil {
		return keysource.KeyMetadata{}, err
	}
	a := answer{"DescribeKey", key, out.ResultMetadata}
	if out.KeyMetadata == nil {
		return keysource.KeyMetadata{}, a.nonsense("no KeyMetadata")
	}
	md := out.KeyMetadata
	if err := first(a.arn(md.Arn, key), a.material(md.CurrentKeyMaterialId)); err != nil {
		return keysource.KeyMetadata{}, err
	}
	return keysource.KeyMetadata{
		ARN: *md.Arn, KeyID: aws.ToString(md.KeyId), AccountID: aws.ToString(md.AWSAccountId),
		Description: aws.ToString(md.Description), CreationDate: aws.ToTime(md.CreationDate),
		KeyState: keysource.KeyState(md.KeyState), Enabled: md.Enabled,
		Origin: keysource.KeyOrigin(md.Origin), KeyManager: keysource.KeyManager(md.KeyManager),
		CurrentKeyMaterialID: aws.ToString(md.CurrentKeyMaterialId), DeletionDate: aws.ToTime(md.DeletionDate),
	}, nil
}

// Close implements keysource.Keysource. Calls under way end by themselves.
func (c *Client) Close() error {
	if !c.closed.Swap(true) {
		c.idle()
	}
	return nil
}

// optional is a reference that may be missing.
func optional(ref keysource.KeyRef) *string {
	if ref == "" {
		return nil
	}
	return aws.String(string(ref))
}

// first is the first error that there is.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
