// Package identity keeps who may call a KMS server: users and roles, the policies attached to them, and their access
// keys.
//
// Start with [Open]. A [Directory] is both the administrator's, who makes and removes users, and the server's, which
// looks up access keys with [Directory.Lookup]; one process may do the one while another does the other.
//
// Secret access keys are kept in clear inside the file, since Signature Version 4 needs them; the file is a document of
// the key store, sealed under its store key, so that it is as safe as the CMKs, moves with them, and is written as
// durably. A change is seen by a running server within Config.CheckInterval.
//
// A role here is a principal with access keys of its own, for programs; there is no AssumeRole.
//
// What it guarantees: a name is never given twice at one time, an access key id and its secret never change, and a
// crash leaves the old or the new users. What it does not: who can read this process's memory can read the secrets.
package identity
