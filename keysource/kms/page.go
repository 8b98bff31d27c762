package kms

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"

	"kmsfs/keysource"
)

// maxMarker is the limit of AWS KMS on a marker in characters.
const maxMarker = 1024

// page is one part of a list.
type page[T any] struct {
	items     []T
	next      string
	truncated bool
}

// paged returns the part of a list that limit and marker ask for. The list is sorted here by key, which names an item
// for good: a marker holds the last key of a page, so that items that come and go meanwhile do not matter.
func paged[T any](r *request, list []T, key func(T) string, limit *int, most, usual int, marker string) (page[T], error) {
	n := usual
	if limit != nil {
		if *limit < 1 || *limit > 1000 {
			return page[T]{}, r.invalid("Limit", "have value between 1 and 1000")
		}
		n = min(*limit, most)
	}
	list = slices.SortedFunc(slices.Values(list), func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	if marker != "" {
		after, err := r.openMarker(marker)
		if err != nil {
			return page[T]{}, err
		}
		i, found := slices.BinarySearchFunc(list, after, func(t T, after string) int { return cmp.Compare(key(t), after) })
		if found {
			i++
		}
		list = list[i:]
	}
	p := page[T]{items: list}
	if len(list) > n {
		p.items, p.truncated = list[:n], true
		p.next = base64.RawURLEncoding.EncodeToString([]byte(r.op + "\x00" + key(list[n-1])))
	}
	if p.items == nil {
		p.items = []T{} // in JSON a list, not null
	}
	return p, nil
}

// openMarker returns the last key of the page before.
func (r *request) openMarker(marker string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(marker)
	after, ok := strings.CutPrefix(string(b), r.op+"\x00")
	if err != nil || !ok || len(marker) > maxMarker {
		return "", r.refuse("", keysource.CodeInvalidMarker, "The marker is not one that %s returned.", r.op)
	}
	return after, nil
}
