package awskms

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/keysource/local"
)

// TestRegions: a data key gets a wrapping by a CMK of another region, which opens it when the home region is gone.
func TestRegions(t *testing.T) {
	stores := map[string]*local.Store{}
	servers := map[string]*httptest.Server{}
	arns := map[string]keysource.KeyRef{}
	endpoints := map[string]string{}
	for _, region := range []string{"home-1", "far-1"} {
		s, err := local.Create(t.Context(), local.Config{Dir: t.TempDir(), Region: region})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		md, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(&awskmstest.Server{Keys: s})
		t.Cleanup(server.Close)
		stores[region], servers[region], arns[region], endpoints[region] = s, server, keysource.KeyRef(md.ARN), server.URL
	}
	c := open(t, Config{Region: "home-1", Endpoint: endpoints["home-1"], Endpoints: endpoints})
	ec := keysource.Context{"kmsfs:file": "1"}
	k, err := c.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: arns["home-1"], EncryptionContext: ec})
	if err != nil {
		t.Fatal(err)
	}
	in := keysource.ReEncryptInput{CiphertextBlob: k.CiphertextBlob, SourceEncryptionContext: ec, SourceKeyID: arns["home-1"],
		DestinationKeyID: arns["far-1"], DestinationEncryptionContext: ec}
	far, err := c.ReEncrypt(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if far.KeyID != string(arns["far-1"]) || far.SourceKeyID != string(arns["home-1"]) {
		t.Errorf("%+v", far)
	}
	servers["home-1"].Close()
	got, err := c.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: far.CiphertextBlob, EncryptionContext: ec, KeyID: arns["far-1"]})
	if err != nil || !bytes.Equal(got.Plaintext.Bytes(), k.Plaintext.Bytes()) {
		t.Errorf("with the home region gone: %v", err)
	}
	if md, err := c.DescribeKey(t.Context(), arns["far-1"]); err != nil || md.ARN != string(arns["far-1"]) {
		t.Errorf("describe: %+v, %v", md, err)
	}
	if _, err := c.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: far.CiphertextBlob, EncryptionContext: keysource.Context{"kmsfs:file": "2"},
		KeyID: arns["far-1"]}); !errors.Is(err, keysource.ErrInvalidCiphertext) {
		t.Errorf("another context: %v", err)
	}
	for _, region := range []string{"nowhere-1", "evil.example/", "-x", "A"} {
		ref := keysource.KeyRef("arn:aws:kms:" + region + ":000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab")
		if _, err := c.DescribeKey(t.Context(), ref); !errors.Is(err, keysource.ErrNotFound) && !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("region %s: %v", region, err)
		}
	}
	aws := open(t, Config{Region: "home-1"})
	api, err := aws.apiOf(arns["far-1"])
	if err != nil || api == aws.api || api.Options().Region != "far-1" || api.Options().BaseEndpoint != nil {
		t.Errorf("a client of AWS itself: %v", err)
	}
	if again, _ := aws.apiOf(arns["far-1"]); again != api {
		t.Error("each call makes a client")
	}
	if own, err := aws.apiOf("alias/a"); own != aws.api || err != nil {
		t.Errorf("an alias: %v", err)
	}
}
