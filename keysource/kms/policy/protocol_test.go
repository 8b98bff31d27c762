package policy

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestProtocolDocument compares the operators and condition keys in PROTOCOL.md with the code.
func TestProtocolDocument(t *testing.T) {
	b, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	_, text, _ = strings.Cut(text, "\n## Policies\n")
	text, _, _ = strings.Cut(text, "\n## ")
	list := func(title string) []string {
		t.Helper()
		m := regexp.MustCompile(`(?s)- ` + title + `: (.*?)[;.]`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%s is missing", title)
		}
		return strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	}
	operatorsThere := list("Operators")
	slices.Sort(operatorsThere)
	if want := slices.Sorted(maps.Keys(operators)); !slices.Equal(operatorsThere, want) {
		t.Errorf("operators: got %v, want %v", operatorsThere, want)
	}
	var many []string
	keys := list("Condition keys")
	for i, k := range keys {
		keys[i] = strings.ToLower(strings.TrimSuffix(k, "NAME"))
	}
	slices.Sort(keys)
	for k, kind := range conditionKeys {
		if kind == manyValues {
			many = append(many, k)
		}
	}
	slices.Sort(many)
	if want := slices.Sorted(maps.Keys(conditionKeys)); !slices.Equal(keys, want) {
		t.Errorf("condition keys: got %v, want %v", keys, want)
	}
	several := list("Keys of several values")
	for i, k := range several {
		several[i] = strings.ToLower(k)
	}
	slices.Sort(several)
	if !slices.Equal(several, many) {
		t.Errorf("keys of several values: got %v, want %v", several, many)
	}
}
