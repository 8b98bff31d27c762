// Package server is the AWS KMS protocol over HTTP: awsJson 1.1 with requests signed by Signature Version 4, answered by a
// kms.Service.
//
// Start with [New], then [Server.Serve] on listeners from [Listen]. GET /healthz and GET /metrics (Prometheus) answer
// without a signature and tell nothing about keys.
//
// What it guarantees: no operation begins before its caller is authenticated and its line in the audit log has room, and
// none is answered before that line is written. A request's size, time and number of connections are bounded. A panic
// ends one call with KMSInternalException and not the server. Buffers that held a plaintext are overwritten, but for those
// of net/http, crypto/tls and encoding/json, which cannot be.
//
// What it does not: it does not limit rates, and a request that is not authenticated is counted and logged, but not in the
// audit log, which strangers could otherwise fill.
package server
