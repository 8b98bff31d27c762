// Package keysource says what kmsfs needs from whoever keeps its CMKs.
//
// A [Keysource] makes data keys, opens wrapped keys, moves wrapped keys from one CMK, key material or encryption
// context to another, and describes a CMK. The terms, the rules and the errors are those of AWS KMS. Start with
// [ParseURL] and [Openers], or with the implementation itself: keysource/local is the embedded key store, keysource/awskms
// speaks to AWS KMS and servers of its protocol. [NewRetry] and [NewCache] decorate any Keysource, [NewBranch] a Cache.
//
// What every implementation guarantees, and keysourcetest.Run checks:
//
//   - every answer carries the resolved key ARN and the key material id, so that a wrapped key can be recorded with
//     what wrapped it and never only with an alias that may move;
//   - a wrapped key opens only under the exact encryption context it was made with;
//   - errors are of a kind (ErrDisabled, ErrUnavailable, ...), found with errors.Is, and hold no key bytes;
//   - slices and keys that are returned belong to the caller, slices that are passed in are neither kept nor changed;
//   - all methods may be called from many goroutines at once.
//
// The package knows no path, inode or chunk. PROTOCOL.md holds the formats and the glossary.
package keysource
