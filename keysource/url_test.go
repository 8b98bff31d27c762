package keysource

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	const arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	for _, test := range []struct {
		in   string
		want URL
		out  string // empty: same as in
	}{
		{"local:/etc/kmsfs", URL{Scheme: "local", Path: "/etc/kmsfs"}, ""},
		{"local:keys", URL{Scheme: "local", Path: "keys"}, ""},
		{"local:../a/./b/", URL{Scheme: "local", Path: "../a/b"}, "local:../a/b"},
		{"local:///etc/kmsfs", URL{Scheme: "local", Path: "/etc/kmsfs"}, "local:/etc/kmsfs"},
		{"local:/a%20b%3Fc%25%23", URL{Scheme: "local", Path: "/a b?c%#"}, ""},
		{"local:/schlüssel", URL{Scheme: "local", Path: "/schlüssel"}, ""},
		{"local:/%ff", URL{Scheme: "local", Path: "/\xff"}, "local:/%FF"},
		{"awskms:///alias/a", URL{Scheme: "awskms", Key: "alias/a"}, ""},
		{"awskms:///" + arn, URL{Scheme: "awskms", Key: arn}, ""},
		{"awskms:///alias/a?region=eu-west-1&endpoint=http://127.0.0.1:8080",
			URL{Scheme: "awskms", Key: "alias/a", Region: "eu-west-1", Endpoint: "http://127.0.0.1:8080"},
			"awskms:///alias/a?endpoint=http%3A%2F%2F127.0.0.1%3A8080&region=eu-west-1"},
		{"awskms:///alias/a?profile=my+work", URL{Scheme: "awskms", Key: "alias/a", Profile: "my work"}, ""},
		{"awskms:///alias/a?endpoint=https%3A%2F%2Fkms.example.com",
			URL{Scheme: "awskms", Key: "alias/a", Endpoint: "https://kms.example.com"}, ""},
		{"awskms:///alias/a?endpoint=http%3A%2F%2F%5B%3A%3A1%5D%3A1",
			URL{Scheme: "awskms", Key: "alias/a", Endpoint: "http://[::1]:1"}, ""},
		{"awskms:///alias/a?fips=true&dualstack=true&region=r", URL{Scheme: "awskms", Key: "alias/a", Region: "r", FIPS: true, DualStack: true},
			"awskms:///alias/a?dualstack=true&fips=true&region=r"},
		{"awskms:///alias/a?fips=false", URL{Scheme: "awskms", Key: "alias/a"}, "awskms:///alias/a"},
		{"awskms:///alias/a?endpoint=unix:/run/kms.socket", URL{Scheme: "awskms", Key: "alias/a", Endpoint: "unix:/run/kms.socket"},
			"awskms:///alias/a?endpoint=unix%3A%2Frun%2Fkms.socket"},
		{"awskms:///alias/a?branch=1h,10000", URL{Scheme: "awskms", Key: "alias/a", Branch: DefaultBranchLimits()},
			"awskms:///alias/a?branch=1h0m0s%2C10000"},
		{"awskms:///alias/a?branch=default", URL{Scheme: "awskms", Key: "alias/a", Branch: DefaultBranchLimits()},
			"awskms:///alias/a?branch=1h0m0s%2C10000"},
	} {
		got, err := ParseURL(test.in)
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.in, got, err, test.want)
			continue
		}
		if test.out == "" {
			test.out = test.in
		}
		if got.String() != test.out {
			t.Errorf("%s: String is %s, want %s", test.in, got, test.out)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, in := range []string{
		"", ":", "local", "/etc/kmsfs", "file:/x", "LOCAL:/x", "local:", "local://", "local://host/x", "local:/x?",
		"local:/x?passphrase=secret", "local:/x#y", "local:/%zz", "local:/%00", "local:/a%", "local:" + strings.Repeat("x", 5000),
		"awskms:", "awskms:alias/a", "awskms:/alias/a", "awskms://host/alias/a", "awskms:///", "awskms:///alias/",
		"awskms:///alias/a%20b", "awskms:///alias/a?secret=x", "awskms:///alias/a?region=", "awskms:///alias/a?region=a&region=b",
		"awskms:///alias/a?region=eu west", "awskms:///alias/a?region=%", "awskms:///alias/a?endpoint=ftp://x",
		"awskms:///alias/a?endpoint=https://", "awskms:///alias/a?endpoint=x", "awskms:///alias/a?endpoint=http://10.0.0.1",
		"awskms:///alias/a?endpoint=https://user:pass@x", "awskms:///alias/a?endpoint=https://x?y",
		"awskms:///alias/a?endpoint=https://x%23y", "awskms:///alias/a?endpoint=https:x", "awskms:///alias/a?a;b",
		"awskms:///alias/a#x", "awskms:///arn:aws:kms:eu-west-1:1:key/x?region=us-east-1",
		"awskms:///alias/a?profile=%0a", "awskms:///alias/a?fips=yes", "awskms:///alias/a?fips=true&endpoint=https://x",
		"awskms:///alias/a?endpoint=unix:", "awskms:///alias/a?endpoint=unix:run", "awskms:///alias/a?endpoint=unix:/a%0a",
		"awskms:///alias/a?endpoint=unix:/" + strings.Repeat("x", 107), "awskms:///alias/a?branch=", "awskms:///alias/a?branch=1h",
		"awskms:///alias/a?branch=0s,1", "awskms:///alias/a?branch=1h,0", "awskms:///alias/a?branch=1500ms,1",
		"awskms:///alias/a?branch=1h,4294967297", "awskms:///alias/a?branch=721h,1",
	} {
		u, err := ParseURL(in)
		if !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%q: got %+v, %v, want ErrInvalidArgument", in, u, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") && strings.Contains(in, "passphrase") || strings.Contains(err.Error(), "pass@")) {
			t.Errorf("%q: the error repeats the secret: %v", in, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"local:/a", "local:///a%3f", "local:a//b", "awskms:///alias/a?region=r&endpoint=https://x/y",
		"awskms:///alias/a?profile=p%20q", "local:%2f%2fx", "local:/\xff",
		"local:" + strings.Repeat("\xb9", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			return
		}
		again, err := ParseURL(u.String())
		if err != nil || again != u {
			t.Errorf("%.200q is %.200q, which is %.200q, %v", s, u, again, err)
		}
	})
}

func TestOpeners(t *testing.T) {
	var o Openers
	_, err := o.Open(t.Context(), URL{Scheme: SchemeAWSKMS, Key: "alias/a"})
	if !errors.Is(err, ErrUnsupported) || Hint(err) == "" {
		t.Errorf("got %v with hint %q, want ErrUnsupported with a hint", err, Hint(err))
	}
	want := new(fake)
	o = Openers{SchemeLocal: func(context.Context, URL) (Keysource, error) { return want, nil }}
	if got, err := o.Open(t.Context(), URL{Scheme: SchemeLocal, Path: "x"}); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
}
