package keysourcetest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"kmsfs/keysource"
)

func testReEncrypt(t *testing.T, target Target) {
	k := generate(t, target, exampleContext())
	other := keysource.Context{"kmsfs:format": "2"}
	for _, test := range []struct {
		name string
		to   keysource.KeyRef
		ec   keysource.Context
	}{
		{"other key", target.KeyB, exampleContext()},
		{"other context", target.KeyA, other},
		{"other key and context", target.KeyB, other},
		{"same again", target.KeyA, exampleContext()},
		{"no context", target.KeyB, nil},
	} {
		r, err := target.Keysource.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob,
			SourceEncryptionContext: exampleContext(), SourceKeyID: target.KeyA, DestinationKeyID: test.to,
			DestinationEncryptionContext: test.ec})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if r.SourceKeyID != k.KeyID || r.SourceKeyMaterialID != k.KeyMaterialID || r.KeyID != string(test.to) {
			t.Errorf("%s: got %s %s to %s", test.name, r.SourceKeyID, r.SourceKeyMaterialID, r.KeyID)
		}
		if bytes.Equal(r.CiphertextBlob, k.CiphertextBlob) {
			t.Errorf("%s: the blob is the same", test.name)
		}
		got := wantOpens(t, target, r.CiphertextBlob, test.ec, k.Plaintext)
		if got.KeyID != r.KeyID || got.KeyMaterialID != r.KeyMaterialID {
			t.Errorf("%s: Decrypt says %s %s, ReEncrypt said %s %s", test.name, got.KeyID, got.KeyMaterialID, r.KeyID,
				r.KeyMaterialID)
		}
		wantOpens(t, target, k.CiphertextBlob, exampleContext(), k.Plaintext)
	}
}

func testDisabled(t *testing.T, target Target) {
	if target.Disable == nil || target.Enable == nil {
		t.Skip("needs Target.Disable and Target.Enable")
	}
	ctx, ks := t.Context(), target.Keysource
	k, err := ks.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: target.KeyB})
	if err != nil {
		t.Fatal(err)
	}
	source := generate(t, target, nil)
	if err := target.Disable(ctx); err != nil {
		t.Fatal(err)
	}
	target.Settle()
	_, err = ks.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: target.KeyB})
	wantKind(t, "GenerateDataKey", err, keysource.ErrDisabled)
	_, err = ks.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob})
	wantKind(t, "Decrypt", err, keysource.ErrDisabled)
	_, err = ks.ReEncrypt(ctx, keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob, DestinationKeyID: target.KeyA})
	wantKind(t, "ReEncrypt from", err, keysource.ErrDisabled)
	_, err = ks.ReEncrypt(ctx, keysource.ReEncryptInput{CiphertextBlob: source.CiphertextBlob, DestinationKeyID: target.KeyB})
	wantKind(t, "ReEncrypt to", err, keysource.ErrDisabled)
	if md, err := ks.DescribeKey(ctx, target.KeyB); err != nil || md.KeyState != keysource.KeyStateDisabled || md.Enabled {
		t.Errorf("DescribeKey: %s, enabled %v, %v", md.KeyState, md.Enabled, err)
	}
	if keysource.Retryable(err) {
		t.Error("disabled is retryable")
	}
	wantOpens(t, target, source.CiphertextBlob, nil, source.Plaintext)
	if err := target.Enable(ctx); err != nil {
		t.Fatal(err)
	}
	target.Settle()
	wantOpens(t, target, k.CiphertextBlob, nil, k.Plaintext)
}

func testRotate(t *testing.T, target Target) {
	if target.Rotate == nil {
		t.Skip("needs Target.Rotate")
	}
	var keys []keysource.DataKey
	for range 3 {
		k := generate(t, target, exampleContext())
		for _, old := range keys {
			if old.KeyMaterialID == k.KeyMaterialID {
				t.Error("rotation did not change the key material")
			}
			if old.KeyID != k.KeyID {
				t.Error("rotation changed the key ARN")
			}
		}
		keys = append(keys, k)
		if err := target.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		target.Settle()
	}
	now := generate(t, target, nil).KeyMaterialID
	for _, k := range keys {
		if r := wantOpens(t, target, k.CiphertextBlob, exampleContext(), k.Plaintext); r.KeyMaterialID != k.KeyMaterialID {
			t.Errorf("Decrypt says key material %s, want %s", r.KeyMaterialID, k.KeyMaterialID)
		}
		r, err := target.Keysource.ReEncrypt(t.Context(), keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob,
			SourceEncryptionContext: exampleContext(), DestinationKeyID: target.KeyA,
			DestinationEncryptionContext: exampleContext()})
		if err != nil {
			t.Fatal(err)
		}
		if r.SourceKeyMaterialID != k.KeyMaterialID || r.KeyMaterialID != now {
			t.Errorf("ReEncrypt from %s to %s, want from %s to %s", r.SourceKeyMaterialID, r.KeyMaterialID,
				k.KeyMaterialID, now)
		}
	}
}

func testOwnership(t *testing.T, target Target) {
	ec := exampleContext()
	k := generate(t, target, ec)
	want, blob := k.Plaintext.Clone(), bytes.Clone(k.CiphertextBlob)
	k.Plaintext.Wipe()
	clear(k.CiphertextBlob)
	for range 3 {
		in := bytes.Clone(blob)
		r := wantOpens(t, target, in, ec, want)
		r.Plaintext.Wipe()
		if !bytes.Equal(in, blob) || !ec.Equal(exampleContext()) {
			t.Fatal("Decrypt changed its input")
		}
		clear(in)
	}
	wantOpens(t, target, blob, ec, want)
}

func testContextEnds(t *testing.T, target Target) {
	k := generate(t, target, nil)
	target.Settle()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := target.Keysource.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: target.KeyA})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("GenerateDataKey: got %v, want context.Canceled", err)
	}
	_, err = target.Keysource.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Decrypt: got %v, want context.Canceled", err)
	}
	wantOpens(t, target, k.CiphertextBlob, nil, k.Plaintext)
}

func testConcurrent(t *testing.T, target Target) {
	const workers, rounds = 8, 25
	shared := generate(t, target, nil)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				k, err := target.Keysource.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: target.KeyA})
				if err != nil {
					t.Error(err)
					return
				}
				for _, want := range []keysource.DataKey{k, shared} {
					r, err := target.Keysource.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: want.CiphertextBlob})
					if err != nil || !r.Plaintext.Equal(want.Plaintext) {
						t.Errorf("Decrypt: %v", err)
					}
					r.Plaintext.Wipe()
				}
			}
		})
	}
	for i := range rounds {
		if target.Rotate != nil && i < 5 {
			if err := target.Rotate(t.Context()); err != nil {
				t.Error(err)
			}
		}
		target.Settle()
	}
	wg.Wait()
}

func testClose(t *testing.T, target Target) {
	k := generate(t, target, nil)
	for range 2 {
		if err := target.Keysource.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := target.Keysource.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: target.KeyA})
	if !errors.Is(err, keysource.ErrClosed) {
		t.Errorf("GenerateDataKey: got %v, want ErrClosed", err)
	}
	_, err = target.Keysource.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob})
	if !errors.Is(err, keysource.ErrClosed) {
		t.Errorf("Decrypt: got %v, want ErrClosed", err)
	}
	_, err = target.Keysource.DescribeKey(t.Context(), target.KeyA)
	if !errors.Is(err, keysource.ErrClosed) {
		t.Errorf("DescribeKey: got %v, want ErrClosed", err)
	}
}
