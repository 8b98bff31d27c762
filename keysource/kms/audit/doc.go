// Package audit is the log of all calls of a KMS server: lines of JSON in the shape of AWS CloudTrail, each bound to the
// one before by a hash.
//
// Start with [Open]. A call first takes room for its line with [Log.Reserve], before it does anything, and then writes the
// line with [Reservation.Append], before it is answered. [Verify] checks a log.
//
// What it guarantees:
//
//   - No answered call is missing: Append returns once the line is in the file, and durable at most Config.SyncEvery
//     later (before Append returns, where that is negative). The disk space is taken ahead, so that a full disk refuses a
//     call before it changes anything.
//   - A line that is changed, removed or put in is found by Verify, unless all lines after it are made anew too: who wants
//     to be sure of that keeps a line's hash elsewhere.
//   - A line that a crash cut short is cut off when the log is opened again, and a line that says so is written.
//
// What it does not: it encrypts nothing. A line has names, encryption contexts and policies, and never a key, a plaintext
// or a ciphertext.
//
// The format is in keysource/PROTOCOL.md, "Audit log".
package audit
