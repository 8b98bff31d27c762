// Package awskms is a keysource that speaks the AWS KMS protocol: to AWS KMS itself, or to any server of its protocol.
//
// [Open] makes one from a key source URL. Credentials, region and profile come from where every AWS client takes them
// (environment, configuration files, SSO, the instance), unless the URL names them.
//
// It guarantees that a call ends by [Config.Timeout], that nothing is sent in clear over a network, and that an answer
// which makes no sense (a data key of another length, a key ARN that is not the CMK that was asked for) is an
// ErrUnavailable and never used. It makes one attempt a call: keysource.Retry is for more. The one exception is a
// signature refused for the time on this machine's clock, which is made again at once with the server's time.
//
// It does not check that a server is honest: who answers with TLS or on the loopback is the KMS, and sees every data key.
// The HTTP client of the Go library keeps copies of an answer for a while; those that this package owns are wiped.
package awskms
