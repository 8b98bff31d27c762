// Package awskmstest answers the AWS KMS protocol from any Keysource, for tests: slowly, wrongly or not at all where they
// want it so. It checks no signatures.
package awskmstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// Server is an http.Handler. Its fields must not change while it serves.
type Server struct {
	// Keys answers the calls.
	Keys keysource.Keysource
	// Latency is how long each answer takes more.
	Latency time.Duration
	// Intercept, where not nil, is called first; it answers itself and returns true, or leaves it to Keys.
	Intercept func(op string, w http.ResponseWriter, r *http.Request) bool

	calls [4]atomic.Int64
}

// operations are what the server answers, in the order of its counters.
var operations = []string{"GenerateDataKey", "Decrypt", "ReEncrypt", "DescribeKey"}

// Calls is how many calls of op there were.
func (s *Server) Calls(op string) int64 {
	for i, name := range operations {
		if name == op {
			return s.calls[i].Load()
		}
	}
	return 0
}

// request has the members of all requests.
type request struct {
	KeyID                        keysource.KeyRef  `json:"KeyId"`
	SourceKeyID                  keysource.KeyRef  `json:"SourceKeyId"`
	DestinationKeyID             keysource.KeyRef  `json:"DestinationKeyId"`
	CiphertextBlob               []byte            `json:"CiphertextBlob"`
	Plaintext                    []byte            `json:"Plaintext"`
	EncryptionContext            keysource.Context `json:"EncryptionContext"`
	SourceEncryptionContext      keysource.Context `json:"SourceEncryptionContext"`
	DestinationEncryptionContext keysource.Context `json:"DestinationEncryptionContext"`
	NumberOfBytes                int               `json:"NumberOfBytes"`
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	var n int64
	for i, name := range operations {
		if name == op {
			n = s.calls[i].Add(1)
		}
	}
	if s.Latency > 0 {
		time.Sleep(s.Latency)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", fmt.Sprintf("%s-%d", op, n))
	if s.Intercept != nil && s.Intercept(op, w, r) {
		return
	}
	var in request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		Fail(w, http.StatusBadRequest, "SerializationException", err.Error())
		return
	}
	out, err := s.do(r, op, in)
	if err != nil {
		failWith(w, err)
		return
	}
	b, err := json.Marshal(out)
	if err != nil {
		failWith(w, err)
		return
	}
	_, _ = w.Write(b)
}

// do makes the call.
func (s *Server) do(r *http.Request, op string, in request) (map[string]any, error) {
	ctx := r.Context()
	switch op {
	case "GenerateDataKey":
		k, err := s.Keys.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: in.KeyID,
			EncryptionContext: in.EncryptionContext, NumberOfBytes: in.NumberOfBytes})
		return map[string]any{"Plaintext": k.Plaintext.Bytes(), "CiphertextBlob": k.CiphertextBlob, "KeyId": k.KeyID,
			"KeyMaterialId": k.KeyMaterialID}, err
	case "Decrypt":
		k, err := s.Keys.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: in.CiphertextBlob,
			EncryptionContext: in.EncryptionContext, KeyID: in.KeyID})
		return map[string]any{"Plaintext": k.Plaintext.Bytes(), "KeyId": k.KeyID, "KeyMaterialId": k.KeyMaterialID,
			"EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, err
	case "ReEncrypt":
		k, err := s.Keys.ReEncrypt(ctx, keysource.ReEncryptInput{CiphertextBlob: in.CiphertextBlob,
			SourceEncryptionContext: in.SourceEncryptionContext, SourceKeyID: in.SourceKeyID,
			DestinationKeyID: in.DestinationKeyID, DestinationEncryptionContext: in.DestinationEncryptionContext})
		return map[string]any{"CiphertextBlob": k.CiphertextBlob, "SourceKeyId": k.SourceKeyID, "KeyId": k.KeyID,
			"SourceKeyMaterialId": k.SourceKeyMaterialID, "DestinationKeyMaterialId": k.KeyMaterialID}, err
	case "Encrypt":
		keys, ok := s.Keys.(*local.Store)
		if !ok {
			return nil, keysource.NewError(op, "", "UnknownOperationException", "these keys have no Encrypt")
		}
		e, err := keys.Encrypt(ctx, in.KeyID, in.Plaintext, in.EncryptionContext)
		return map[string]any{"CiphertextBlob": e.CiphertextBlob, "KeyId": e.KeyID, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, err
	case "DescribeKey":
		md, err := s.Keys.DescribeKey(ctx, in.KeyID)
		return map[string]any{"KeyMetadata": map[string]any{"Arn": md.ARN, "KeyId": md.KeyID, "AWSAccountId": md.AccountID,
			"Description": md.Description, "CreationDate": float64(md.CreationDate.UnixMilli()) / 1000, "Enabled": md.Enabled,
			"KeyState": md.KeyState, "Origin": md.Origin, "KeyManager": md.KeyManager,
			"CurrentKeyMaterialId": md.CurrentKeyMaterialID}}, err
	}
	return nil, keysource.NewError(op, "", "UnknownOperationException", "unknown operation")
}

// Fail answers with an exception.
func Fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Amzn-Errortype", code)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
}

// failWith answers with the exception that err is.
func failWith(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*keysource.Error](err)
	if !ok || e.Code == "" {
		Fail(w, http.StatusInternalServerError, keysource.CodeInternal, err.Error())
		return
	}
	status := http.StatusBadRequest
	if errors.Is(err, keysource.ErrUnavailable) {
		status = http.StatusInternalServerError
	}
	Fail(w, status, e.Code, e.Message)
}
