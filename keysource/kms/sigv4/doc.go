// Package sigv4 verifies AWS Signature Version 4 on requests that a server received. It signs nothing.
//
// Start with [New] and [Verifier.Verify]. The request's body is read by the caller, who bounds its size, and is given
// beside the request.
//
// What it guarantees: a verified request has the method, path, query, signed headers and body that the holder of the
// access key signed, not longer ago than MaxSkew; the host, the date, x-amz-target, a session token and every other
// x-amz- header are among what was signed. Signatures are compared in constant time, and an access key that is unknown
// costs the same work as one that is known.
//
// What it does not: it keeps no memory of requests, so that who can read one can send it again while its date is fresh,
// as with AWS. Signatures in the query (presigned URLs), of parts of a body (chunks) and with asymmetric keys (V4A) are
// refused.
//
// The rules are those of "Signing AWS API requests" in the AWS General Reference.
package sigv4
