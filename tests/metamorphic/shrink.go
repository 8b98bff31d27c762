package metamorphic

import (
	"errors"
	"slices"
	"time"
)

// Shrink looks for a shorter list than d's that still makes the trees differ, by leaving out ever smaller parts
// (delta debugging), until nothing more can be left out or the time is over. It returns the shortest and its difference.
func (a *Arena) Shrink(d *Divergence, limit time.Duration) *Divergence {
	best := d
	end := time.Now().Add(limit)
	for part := (len(best.Ops) + 1) / 2; part > 0; {
		smaller := false
		for at := 0; at < len(best.Ops) && time.Now().Before(end); {
			try := slices.Delete(slices.Clone(best.Ops), at, min(at+part, len(best.Ops)))
			var next *Divergence
			if errors.As(a.Run(try), &next) {
				best, smaller = next, true
			} else {
				at += part
			}
		}
		switch {
		case time.Now().After(end):
			return best
		case part > 1:
			part /= 2
		case !smaller:
			return best
		}
	}
	return best
}
