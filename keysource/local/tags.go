package local

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"kmsfs/keysource"
)

// Limits of AWS KMS.
const (
	// MaxTags is how many tags a CMK has at most.
	MaxTags     = 50
	maxTagKey   = 128 // characters
	maxTagValue = 256
	tagReserved = "aws:"
)

// TagResource sets tags of a customer managed CMK, beside the ones that it has.
func (s *Store) TagResource(ctx context.Context, key keysource.KeyRef, tags []keysource.Tag) error {
	const op = "TagResource"
	if err := checkTags(op, tags); err != nil {
		return err
	}
	return s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		if k.state == keysource.KeyStatePendingDeletion {
			return errState(op, k.arn, k.state)
		}
		before := slices.Clone(k.tags)
		k.tags = mergeTags(k.tags, tags)
		if len(k.tags) > MaxTags {
			return fail(op, k.arn, keysource.CodeLimitExceeded, "%s would have more than %d tags.", k.arn, MaxTags)
		}
		if slices.Equal(before, k.tags) {
			return errNoChange
		}
		return nil
	})
}

// UntagResource removes tags of a customer managed CMK; keys that it does not have are ignored.
func (s *Store) UntagResource(ctx context.Context, key keysource.KeyRef, keys []string) error {
	const op = "UntagResource"
	return s.updateKey(ctx, op, key, func(_ *snapshot, k *cmk) error {
		if k.state == keysource.KeyStatePendingDeletion {
			return errState(op, k.arn, k.state)
		}
		before := len(k.tags)
		k.tags = slices.DeleteFunc(k.tags, func(t keysource.Tag) bool { return slices.Contains(keys, t.Key) })
		if len(k.tags) == before {
			return errNoChange
		}
		return nil
	})
}

// mergeTags adds tags to old, and returns all by key.
func mergeTags(old, tags []keysource.Tag) []keysource.Tag {
	all := slices.DeleteFunc(slices.Clone(old), func(t keysource.Tag) bool {
		return slices.ContainsFunc(tags, func(n keysource.Tag) bool { return n.Key == t.Key })
	})
	all = append(all, tags...)
	slices.SortFunc(all, func(a, b keysource.Tag) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// checkTags refuses what AWS refuses: bad lengths, reserved names, a name twice.
func checkTags(op string, tags []keysource.Tag) error {
	seen := map[string]bool{}
	for _, t := range tags {
		n := utf8.RuneCountInString(t.Key)
		switch {
		case n < 1 || n > maxTagKey || utf8.RuneCountInString(t.Value) > maxTagValue,
			!utf8.ValidString(t.Key) || !utf8.ValidString(t.Value):
			return fail(op, "", keysource.CodeTag, "A tag key has 1 to %d characters, a tag value at most %d.", maxTagKey, maxTagValue)
		case strings.HasPrefix(strings.ToLower(t.Key), tagReserved):
			return fail(op, "", keysource.CodeTag, "aws: prefixed tag key names are not allowed for external use.")
		case seen[t.Key]:
			return fail(op, "", keysource.CodeTag, "Duplicate tag keys: %q.", t.Key)
		}
		seen[t.Key] = true
	}
	return nil
}
