package manifest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// Change is how something is not as the manifest has it.
type Change string

// The changes.
const (
	Missing Change = "missing" // the manifest has it, and it is not there
	Extra   Change = "extra"   // it is there, and the manifest does not have it
	Changed Change = "changed" // it holds something else, and was written to since
	// Older: it holds something else, though its time says that it was not written to since the manifest was made: it was
	// put back, exchanged or damaged. The time is not authentic, and a restore may have set it to its own.
	Older  Change = "older"
	Unread Change = "unread" // it could not be read
)

// Difference is one.
type Difference struct {
	Change Change `json:"change"`
	Path   string `json:"stored"`
	What   string `json:"what"`
	Err    error  `json:"-"` // of Unread
}

// Compare holds the vault in top against the manifest, which the caller has verified. It reads as much of all files as the
// manifest is of.
func (m *Manifest) Compare(ctx context.Context, top backing.Dir, progress Progress) ([]Difference, error) {
	s := &scan{ctx: ctx, top: top, depth: m.Depth, progress: progress, against: m, times: map[string]time.Time{}}
	if m.Depth == Indexes {
		cfg, err := vault.ReadConfig(top)
		if err != nil {
			return nil, err
		}
		if err := s.measure(cfg); err != nil {
			return nil, err
		}
	}
	found, err := s.run()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
	var out []Difference
	unread := map[string]bool{}
	for _, u := range s.bad {
		out = append(out, Difference{Unread, u.path, u.err.Error(), u.err})
		unread[u.path] = true
	}
	was := m.Entries
	for len(was) > 0 || len(found) > 0 {
		switch order := first(was, found); {
		case order < 0:
			if !within(was[0].Path, unread) {
				out = append(out, Difference{Change: Missing, Path: was[0].Path, What: "it is not there"})
			}
			was = was[1:]
		case order > 0:
			out = append(out, Difference{Change: Extra, Path: found[0].Path, What: "the manifest does not have it"})
			found = found[1:]
		default:
			if d, ok := differ(&was[0], &found[0], s.times[found[0].Path], m.Created); ok {
				out = append(out, d)
			}
			was, found = was[1:], found[1:]
		}
	}
	slices.SortStableFunc(out, func(a, b Difference) int { return comparePaths(a.Path, b.Path) })
	return out, nil
}

// within says whether path is one of paths, or below one.
func within(path string, paths map[string]bool) bool {
	if len(paths) == 0 {
		return false
	}
	for i := range len(path) {
		if path[i] == '/' && paths[path[:i]] {
			return true
		}
	}
	return paths[path] || paths[""]
}

// first compares the first paths of two lists; the end of one comes last.
func first(a, b []Entry) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return comparePaths(a[0].Path, b[0].Path)
}

// differ says how what is there is not what was. Of directories only that they are there counts.
func differ(was, is *Entry, written, created time.Time) (Difference, bool) {
	switch {
	case was.Kind != is.Kind:
		return Difference{Change: Changed, Path: is.Path, What: "it is of another kind"}, true
	case was.Kind == Dir || was.Size == is.Size && was.Hash == is.Hash:
		return Difference{}, false
	}
	what := "it holds something else"
	if was.Size != is.Size {
		what = fmt.Sprintf("it has %d bytes and had %d", is.Size, was.Size)
	}
	if written.Before(created) {
		return Difference{Change: Older, Path: is.Path, What: what + ", and its time is before the manifest"}, true
	}
	return Difference{Change: Changed, Path: is.Path, What: what + ", and was written to since"}, true
}
