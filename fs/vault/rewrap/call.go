package rewrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"kmsfs/envelope"
	"kmsfs/keysource"
)

// callTimeout ends a call that hangs. A call that is under way when the run ends has as long to end, so that its work is
// not lost.
const callTimeout = 10 * time.Second

// wrap makes the wrappings that p says. open says whether a plaintext key is the right one.
func (r *run) wrap(ctx context.Context, p *plan, kc keysource.Context, open func(key []byte) error) (ws []envelope.Wrapping, reqID string, err error) {
	ws = slices.Clone(p.keep)
	for _, at := range slices.Sorted(maps.Keys(p.steps)) {
		s := p.steps[at]
		var errs []error
		for _, from := range sources(p.ws, s.from) {
			ws[at], reqID, err = r.reEncrypt(ctx, p.ws[from], s.to, kc)
			if err == nil && r.o.Verify {
				err = r.verify(ctx, ws[at], kc, open)
			}
			if err == nil || ctx.Err() != nil {
				break
			}
			errs = append(errs, err)
			if keysource.Retryable(err) || errors.Is(err, errNonsense) {
				break // it is not that this wrapping does not open
			}
		}
		if err != nil {
			return nil, reqID, errors.Join(append(errs, ctx.Err())...)
		}
	}
	return ws, reqID, nil
}

// sources are the wrappings that a new one can be made from, the named one first: any of them opens the key.
func sources(ws []envelope.Wrapping, first int) []int {
	order := []int{first}
	for i, w := range ws {
		if i != first && w.Kind == envelope.KindKeysource {
			order = append(order, i)
		}
	}
	return order
}

// errNonsense is an answer of the keysource that cannot be right.
var errNonsense = errors.New("the keysource answered nonsense")

// reEncrypt has one wrapping made from another.
func (r *run) reEncrypt(ctx context.Context, w envelope.Wrapping, to cmk, kc keysource.Context) (envelope.Wrapping, string, error) {
	var a keysource.ReEncryptResult
	err := r.patiently(ctx, func(ctx context.Context) (err error) {
		r.counts.calls.Add(1)
		a, err = r.ks.ReEncrypt(ctx, keysource.ReEncryptInput{
			CiphertextBlob: w.Blob, SourceEncryptionContext: kc, SourceKeyID: keysource.KeyRef(w.KeyARN),
			DestinationKeyID: keysource.KeyRef(to.arn), DestinationEncryptionContext: kc,
		})
		return err
	})
	if err != nil {
		return envelope.Wrapping{}, a.RequestID, err
	}
	n := envelope.Wrapping{ContextVersion: envelope.ContextVersion, KeyARN: a.KeyID, KeyMaterialID: a.KeyMaterialID, Blob: a.CiphertextBlob}
	_, was := keysource.BranchOf(w.Blob)
	_, is := keysource.BranchOf(n.Blob)
	why := ""
	switch {
	case n.KeyARN != to.arn:
		why = fmt.Sprintf("a wrapping by %s, not by %s", n.KeyARN, to.arn)
	case a.SourceKeyID != "" && a.SourceKeyID != w.KeyARN:
		why = "that the old wrapping is by " + a.SourceKeyID
	case len(n.Blob) == 0 || len(n.Blob) > envelope.BlobMax:
		why = fmt.Sprintf("a wrapped key of %d bytes", len(n.Blob))
	case bytes.Equal(n.Blob, w.Blob):
		why = "the old wrapping as the new one"
	case len(bytes.Trim(n.Blob, "\x00")) == 0:
		why = "a wrapped key of zeros"
	case was != is:
		why = "another kind of wrapped key"
	case n.KeyMaterialID != "" && (!keysource.IsKeyMaterialID(n.KeyMaterialID) || len(bytes.Trim([]byte(n.KeyMaterialID), "0")) == 0):
		why = "a key material id that is none"
	}
	if why != "" {
		return envelope.Wrapping{}, a.RequestID, fmt.Errorf("%w: %s", errNonsense, why)
	}
	return n, a.RequestID, nil
}

// verify decrypts a new wrapping.
func (r *run) verify(ctx context.Context, w envelope.Wrapping, kc keysource.Context, open func(key []byte) error) error {
	err := r.patiently(ctx, func(ctx context.Context) error {
		r.counts.calls.Add(1)
		dk, err := r.ks.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: w.Blob, EncryptionContext: kc, KeyID: keysource.KeyRef(w.KeyARN)})
		if err != nil {
			return err
		}
		defer dk.Plaintext.Wipe()
		if err := open(dk.Plaintext.Bytes()); err != nil {
			return fmt.Errorf("%w: a wrapping of another key: %w", errNonsense, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify the new wrapping: %w", err)
	}
	return nil
}

// patiently makes a call, at the pace that the keysource bears, until it succeeds, fails for good, or nothing has succeeded
// for as long as Options.Patience. When ctx ends, a call under way goes on, and no other is begun.
func (r *run) patiently(ctx context.Context, call func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		if err := r.pace.wait(ctx); err != nil {
			return err
		}
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		err := call(one)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			err = &keysource.Error{Code: keysource.CodeDependencyTimeout, Kind: keysource.ErrUnavailable, Message: "no answer in time", Err: err}
		}
		switch {
		case err == nil:
			r.pace.succeeded()
			return nil
		case !keysource.Retryable(err): // an answer, too
			r.pace.answered()
			return err
		case errors.Is(err, keysource.ErrThrottled):
			r.counts.throttled.Add(1)
			r.pace.throttled()
		}
		var why *keysource.Error
		asked := time.Duration(0)
		if errors.As(err, &why) {
			asked = why.RetryAfter
		}
		if r.pace.failed() {
			return err
		}
		if r.pace.pause(ctx, attempt, asked) != nil {
			return err
		}
	}
}
