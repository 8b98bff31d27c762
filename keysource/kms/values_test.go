package kms

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// printed prints and logs values in every way.
func printed(values ...any) []string {
	var all []string
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			all = append(all, fmt.Sprintf(verb, v))
		}
		var b strings.Builder
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		all = append(all, b.String())
	}
	return all
}

func TestTime(t *testing.T) {
	for _, row := range []struct {
		t    time.Time
		want string
	}{
		{time.Unix(1700000000, 0), "1700000000"},
		{time.Unix(1700000000, 123456789), "1700000000.123"},
		{time.Unix(1700000000, 5e6), "1700000000.005"},
	} {
		b, err := json.Marshal(struct{ T *Time }{newTime(row.t)})
		if err != nil || string(b) != `{"T":`+row.want+`}` {
			t.Errorf("got %s, %v", b, err)
		}
		var back Time
		if err := json.Unmarshal([]byte(row.want), &back); err != nil || back.UnixMilli() != row.t.UnixMilli() {
			t.Errorf("%s reads as %v, %v", row.want, back, err)
		}
	}
	var in struct{ T *Time }
	for text, ok := range map[string]bool{`1e9`: true, `null`: true, `"x"`: false, `-1`: false, `1e300`: false, `{}`: false,
		`"2020-01-01T00:00:00Z"`: false} {
		if err := json.Unmarshal([]byte(`{"T":`+text+`}`), &in); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	if newTime(time.Time{}) != nil {
		t.Error("no time is a time")
	}
}

// writeFile writes a file of a test.
func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
