package awskms

import (
	"bytes"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"

	"kmsfs/keysource"
)

// answer checks what a KMS answered. A server that lies, and what damages an answer on its way, are found here as far as
// they can be: what passes has at least the form of an answer to this question.
type answer struct {
	op  string
	key keysource.KeyRef
	md  middleware.Metadata
}

// nonsense is the error for an answer that cannot be one.
func (a answer) nonsense(what string) error {
	return &keysource.Error{Op: a.op, KeyID: string(a.key), Code: codeBadAnswer, Kind: keysource.ErrUnavailable,
		Message: "the KMS answered " + what, RequestID: a.requestID()}
}

// requestID is the KMS's id of the request.
func (a answer) requestID() string {
	id, _ := awsmiddleware.GetRequestIDMetadata(a.md)
	return printable(id)
}

// plaintext checks the size of a key, and that it is not all zeros.
func (a answer) plaintext(b []byte, least, most int) error {
	if len(b) < least || len(b) > most {
		return a.nonsense(fmt.Sprintf("a plaintext of %d bytes", len(b)))
	}
	if len(b) >= 16 && len(bytes.Trim(b, "\x00")) == 0 {
		return a.nonsense("a plaintext of zeros")
	}
	return nil
}

// blob checks the size of a wrapped key, and that the plaintext does not show in it.
func (a answer) blob(b, plaintext []byte) error {
	switch {
	case len(b) == 0 || len(b) > keysource.MaxCiphertextBlobSize:
		return a.nonsense(fmt.Sprintf("a wrapped key of %d bytes", len(b)))
	case len(plaintext) >= 16 && bytes.Contains(b, plaintext):
		return a.nonsense("a wrapped key that holds the key in clear")
	}
	return nil
}

// differs checks that a wrapped key was made anew.
func (a answer) differs(b, old []byte) error {
	if bytes.Equal(b, old) {
		return a.nonsense("the old wrapping as the new one")
	}
	return nil
}

// arn checks that got is a key ARN and, as far as the caller's reference tells, that of the CMK that was asked for.
func (a answer) arn(got *string, want keysource.KeyRef) error {
	arn := aws.ToString(got)
	ref, err := keysource.KeyRef(arn).Parse()
	if err != nil || ref.KeyID == "" || ref.Partition == "" {
		return a.nonsense("no key ARN")
	}
	asked, err := want.Parse()
	if want == "" || err != nil {
		return nil
	}
	same := asked.KeyID == "" || asked.KeyID == ref.KeyID
	if asked.Partition != "" { // the ARN of a key or of an alias
		same = same && asked.Partition == ref.Partition && asked.Region == ref.Region && asked.Account == ref.Account
	}
	if !same {
		return a.nonsense("with another CMK, " + arn)
	}
	return nil
}

// material checks the form of a key material id, which a KMS may leave out.
func (a answer) material(id *string) error {
	if s := aws.ToString(id); s != "" && !keysource.IsKeyMaterialID(s) {
		return a.nonsense("a key material id that is none")
	}
	return nil
}

// checkRef refuses a reference that cannot name a CMK, before a call is spent on it.
func checkRef(ref keysource.KeyRef) error {
	_, err := ref.Parse()
	return err
}

// checkOptionalRef is checkRef for a reference that may be missing.
func checkOptionalRef(ref keysource.KeyRef) error {
	if ref == "" {
		return nil
	}
	return checkRef(ref)
}

// checkSize refuses a size that no data key has.
func checkSize(n int) error {
	if n < 1 || n > keysource.MaxDataKeySize {
		return invalid(fmt.Sprintf("a data key has 1 to %d bytes, not %d", keysource.MaxDataKeySize, n))
	}
	return nil
}

// checkBlob refuses a size that no wrapped key has.
func checkBlob(b []byte) error {
	if len(b) < 1 || len(b) > keysource.MaxCiphertextBlobSize {
		return invalid(fmt.Sprintf("a wrapped key has 1 to %d bytes, not %d", keysource.MaxCiphertextBlobSize, len(b)))
	}
	return nil
}
