package keysource

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestPlaintextKeyNeverShows(t *testing.T) {
	secret := bytes.Repeat([]byte{0xab}, DataKeySize)
	k := NewPlaintextKey(secret)
	type exported struct{ K PlaintextKey }
	type hidden struct{ k PlaintextKey }
	var out strings.Builder
	for _, v := range []any{k, &k, exported{k}, hidden{k}, &hidden{k}, []hidden{{k}}, map[string]PlaintextKey{"a": k},
		DataKey{Plaintext: k}, DecryptResult{Plaintext: k}, &DecryptResult{Plaintext: k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%c", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Errorf("json: %v", err)
		}
		out.Write(text)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	got := strings.ToLower(out.String())
	for _, leak := range []string{"abab", "171 171", "171,171", "\\xab", string(secret[:4]), "q6ur"} {
		if strings.Contains(got, leak) {
			t.Errorf("output holds the key as %q", leak)
		}
	}
	if !strings.Contains(got, redacted) {
		t.Error("nothing was redacted")
	}
}

func TestPlaintextKey(t *testing.T) {
	for _, n := range []int{0, 1, DataKeySize, DataKeySize + 1, MaxPlaintextSize} {
		b := bytes.Repeat([]byte{7}, n)
		k := NewPlaintextKey(b)
		c := k.Clone()
		clear(b)
		if k.Len() != n || !k.Equal(c) {
			t.Errorf("%d bytes: not equal to its clone", n)
		}
		k.Wipe()
		if !bytes.Equal(k.Bytes(), make([]byte, n)) {
			t.Errorf("%d bytes: not wiped", n)
		}
		if n > 0 && k.Equal(c) {
			t.Errorf("%d bytes: the clone was wiped too", n)
		}
	}
	var none PlaintextKey
	none.Wipe()
	if none.Len() != 0 || none.Bytes() != nil || none.Clone() != none {
		t.Error("the zero value is not empty")
	}
}

func TestContextCanonical(t *testing.T) {
	for _, test := range []struct {
		name string
		ec   Context
		want string
	}{
		{"nil", nil, "00000000"},
		{"empty", Context{}, "00000000"},
		{"one", Context{"a": "bc"}, "00000001" + "0000000161" + "000000026263"},
		{"sorted", Context{"b": "", "a": "x", "aa": "y"},
			"00000003" + "0000000161" + "0000000178" + "000000026161" + "0000000179" + "0000000162" + "00000000"},
	} {
		got := test.ec.Canonical()
		if hex.EncodeToString(got) != test.want {
			t.Errorf("%s: got %x, want %s", test.name, got, test.want)
		}
		if len(got) != test.ec.CanonicalSize() {
			t.Errorf("%s: CanonicalSize is %d, want %d", test.name, test.ec.CanonicalSize(), len(got))
		}
	}
	big := Context{}
	for i := range 100 {
		big[fmt.Sprint(i)] = "v"
	}
	if !bytes.Equal(big.Canonical(), big.Clone().Canonical()) {
		t.Error("canonical form depends on the order of the map")
	}
}

// FuzzContext checks that different contexts have different canonical forms.
func FuzzContext(f *testing.F) {
	f.Add("a", "b", "c", "d", "ab", "", "c", "d")
	f.Fuzz(func(t *testing.T, a1, a2, a3, a4, b1, b2, b3, b4 string) {
		a, b := Context{a1: a2, a3: a4}, Context{b1: b2, b3: b4}
		if a.Equal(b) != bytes.Equal(a.Canonical(), b.Canonical()) {
			t.Errorf("%q and %q: equality and canonical form differ", a, b)
		}
	})
}

func TestKeyRefParse(t *testing.T) {
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	for _, test := range []struct {
		ref  KeyRef
		want ParsedRef
	}{
		{id, ParsedRef{KeyID: id}},
		{"mrk-" + "1234", ParsedRef{KeyID: "mrk-1234"}},
		{"alias/a/b_c-D:9", ParsedRef{Alias: "alias/a/b_c-D:9"}},
		{"arn:aws:kms:eu-west-1:111122223333:key/" + id,
			ParsedRef{Partition: "aws", Region: "eu-west-1", Account: "111122223333", KeyID: id}},
		{"arn:aws-cn:kms:r:1:alias/aws/ebs", ParsedRef{Partition: "aws-cn", Region: "r", Account: "1", Alias: "alias/aws/ebs"}},
	} {
		got, err := test.ref.Parse()
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.ref, got, err, test.want)
		}
	}
	for _, ref := range []KeyRef{"", "alias/", "alias/a b", "a/b", "key/" + id, "arn:", "arn:aws:kms:r:1:key/",
		"arn:aws:kms:r:1:grant/x", "arn:aws:s3:r:1:key/x", "arn:aws:kms::1:key/x", "arn:aws:kms:r::key/x",
		"arn:aws:kms:r:1:alias/", KeyRef(strings.Repeat("a", 3000)), "a\x00", "é"} {
		if _, err := ref.Parse(); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%q: got %v, want ErrInvalidArgument", ref, err)
		}
	}
	const arn = "arn:aws:kms:r:1:key/" + id
	if !KeyRef(arn).Matches(arn) || !KeyRef(id).Matches(arn) || KeyRef("alias/a").Matches(arn) || KeyRef("x").Matches(arn) {
		t.Error("Matches")
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("above: %w", &Error{Op: "Decrypt", KeyID: "k", Code: CodeDisabled, Kind: ErrDisabled,
		Message: "k is disabled.", Err: cause})
	if want := "above: Decrypt: k is disabled. (DisabledException): cause"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, ErrDisabled) || !errors.Is(err, cause) || errors.Is(err, ErrDenied) {
		t.Error("errors.Is")
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeDisabled {
		t.Error("errors.As")
	}
	for code, want := range map[string]bool{CodeThrottling: true, CodeKeyUnavailable: true, CodeInternal: true,
		CodeDependencyTimeout: true, "SomethingNew": true, CodeLimitExceeded: false, CodeDisabled: false,
		CodeInvalidCiphertext: false, CodeAccessDenied: false, CodeNotFound: false} {
		if got := Retryable(NewError("", "", code, "")); got != want {
			t.Errorf("Retryable of %s is %v, want %v", code, got, want)
		}
	}
	if Retryable(context.Canceled) || Retryable(nil) || Retryable(ErrClosed) {
		t.Error("Retryable of other errors")
	}
	for _, e := range []*Error{{}, {Op: "X"}, {Kind: ErrDenied}, {KeyID: "k"}} {
		if e.Error() == "" {
			t.Errorf("%+v has no text", *e)
		}
	}
}

func TestHint(t *testing.T) {
	err := fmt.Errorf("outer: %w", WithHint(ErrDenied, "do this"))
	if Hint(err) != "do this" || !errors.Is(err, ErrDenied) || err.Error() != "outer: access denied" {
		t.Errorf("got hint %q, text %q", Hint(err), err)
	}
	if Hint(nil) != "" || Hint(ErrDenied) != "" || WithHint(nil, "x") != nil {
		t.Error("hint of an error without one")
	}
}
