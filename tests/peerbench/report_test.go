package main

import (
	"testing"
	"time"
)

// TestMarkdown holds the medians, the ratios and what stands where nothing could be measured.
func TestMarkdown(t *testing.T) {
	r := newResults(config{only: []string{"untar", "git"}}, []*target{{name: "plain"}, {name: "kmsfs"}})
	for _, ms := range []time.Duration{300, 100, 200} {
		r.add("untar", "plain", ms*time.Millisecond)
		r.add("untar", "kmsfs", 2*ms*time.Millisecond)
	}
	r.add("git", "plain", time.Second)
	r.add("git", "plain", 2*time.Second)
	const want = `| operation | plain | kmsfs |
|---|---|---|
| untar | 0.200 s | 0.400 s, 2.00 |
| git | 1.500 s | failed |
`
	if got := r.markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
