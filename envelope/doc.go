// Package envelope is the vault format: everything that kmsfs writes to the
// backing directory, as bytes in and bytes out. FORMAT.md beside it is the
// specification; the section names in the comments are its sections.
//
// Start with [NewVolumeKeys] for names, symlinks, extended attributes,
// directory ids and the config, with [NewFileKey] for the contents of a file,
// and with [ParseRecord] for the sidecar.
//
// It guarantees that what it opens was sealed under the key given, for the
// place given: anything else is refused with [ErrCorrupt], [ErrUnsupported],
// [ErrWrongKey] or [ErrErased], never with a panic. It panics only where the
// caller breaks a documented rule on the arguments (a buffer too short, a chunk
// number of another group).
//
// It does not find an older version of the same file or directory put back
// (a rollback): that needs memory outside of the vault. It draws no random
// numbers: nonces, salts and ids come from the caller, who must draw them from
// crypto/rand or have them derived as section "Reverse" says. It never asks where a data key came from, and does no I/O.
//
// There are no locks to order. [FileKey], [GroupKey], [VolumeKeys] and
// [Geometry] are safe for concurrent use, a [Scratch] and an [IndexBlock] are
// not.
package envelope
