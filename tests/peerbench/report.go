package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// results are all measurements: seconds by operation and target.
type results struct {
	Operations []string                        `json:"operations"`
	Targets    []string                        `json:"targets"`
	SizeMiB    int                             `json:"size_mib"`
	Seconds    map[string]map[string][]float64 `json:"seconds"`
}

func newResults(c config, ts []*target) *results {
	r := &results{SizeMiB: c.size, Seconds: map[string]map[string][]float64{}}
	for _, t := range ts {
		r.Targets = append(r.Targets, t.name)
	}
	for _, op := range names(operations()) {
		if slices.Contains(c.only, op) {
			r.Operations = append(r.Operations, op)
			r.Seconds[op] = map[string][]float64{}
		}
	}
	return r
}

func (r *results) add(op, target string, took time.Duration) {
	r.Seconds[op][target] = append(r.Seconds[op][target], took.Seconds())
}

// markdown is a table of the medians, and of their ratios to the first target: more than 1 is slower.
func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| operation | %s |\n|---|%s\n", strings.Join(r.Targets, " | "), strings.Repeat("---|", len(r.Targets)))
	for _, op := range r.Operations {
		fmt.Fprintf(&b, "| %s |", op)
		base := median(r.Seconds[op][r.Targets[0]])
		for i, t := range r.Targets {
			switch m := median(r.Seconds[op][t]); {
			case m == 0:
				b.WriteString(" failed |")
			case i == 0 || base == 0:
				fmt.Fprintf(&b, " %.3f s |", m)
			default:
				fmt.Fprintf(&b, " %.3f s, %.2f |", m, m/base)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// median is 0 where nothing was measured.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (r *results) writeJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
