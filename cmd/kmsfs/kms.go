package main

import (
	"github.com/spf13/cobra"
)

// kmsCommand is kmsfs kms and all below it.
func (a *app) kmsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "kms",
		Short: "Serve a key store to AWS clients",
		Long: `Serve a local key store behind the protocol of AWS KMS, so that the CMKs stay inside a process of their own, and say
who may use it. Every AWS client works against it: give it the endpoint, the region of the key store (local), and an
access key that kmsfs kms user key create made.`,
		Example: `  kmsfs kms user create alice --policy user
  kmsfs kms user key create alice >> ~/.aws/credentials
  kmsfs kms serve --listen 127.0.0.1:4599
  aws --endpoint-url http://127.0.0.1:4599 --region local kms list-aliases`,
	})
	cmd.AddCommand(a.kmsServeCommand(), a.kmsUnitCommand(), a.kmsPrincipalCommand(userWords()),
		a.kmsPrincipalCommand(roleWords()), a.kmsAuditCommand())
	return cmd
}
