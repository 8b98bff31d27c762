// Package local is the embedded key store: CMKs as AWS KMS has them, kept in one sealed file.
//
// Start with [Create] and [Open]. A [Store] is a keysource.Keysource, and has the administrative calls of AWS KMS
// (CreateKey, CreateAlias, RotateKeyOnDemand, ...) as methods besides.
//
// What it guarantees:
//
//   - No key material is ever lost: every change writes the whole store aside, makes it durable, reads it back, and
//     renames it into place. After a crash at any moment the file is the old or the new one. New material is used
//     only once it is durable. A damaged store is refused, never replaced.
//   - Changes by several processes do not lose one another: each is made under a file lock, on what the file then holds.
//   - A change by one process is seen by the others within Config.CheckInterval.
//   - Old key material decrypts for ever.
//
// What it does not: it cannot hide CMKs from who may read this process's memory, and it cannot tell an older version of
// its own file, put back while no process has it open, from the newest.
//
// Lock order: Store.admin, the file lock, Store.mu. The file format and the format of wrapped keys are in
// keysource/PROTOCOL.md.
package local
