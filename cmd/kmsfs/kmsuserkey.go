package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kmsfs/keysource/kms/identity"
)

// accessKeyCreateCommand is kmsfs kms user key create.
func (a *app) accessKeyCreateCommand(d *directoryFlags, w principalWords) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Give a " + string(w.kind) + " an access key", Args: args("NAME"),
		Long: `Make an access key and print it with its secret, as a profile of ~/.aws/credentials. This is the only time that the
secret is shown.`,
		Example: fmt.Sprintf("  kmsfs kms %s key create backup >> ~/.aws/credentials", w.kind),
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				k, err := users.CreateAccessKey(cmd.Context(), w.kind, args[0])
				if err != nil {
					return d.again(err, w)
				}
				if out.json {
					return writeJSON(a.stdout, struct {
						ID     string          `json:"access_key_id"`
						Secret identity.Secret `json:"secret_access_key"`
					}{k.ID, k.Secret})
				}
				_, err = fmt.Fprintf(a.stdout, "[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", args[0], k.ID, string(k.Secret))
				return err
			})
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// accessKeyStatusCommand is kmsfs kms user key disable and kmsfs kms user key enable.
func (a *app) accessKeyStatusCommand(d *directoryFlags, w principalWords, status identity.Status) *cobra.Command {
	verb, short := "enable", "Let a disabled access key sign again"
	if status == identity.Disabled {
		verb, short = "disable", "Keep an access key from signing until it is enabled"
	}
	return &cobra.Command{
		Use: verb + " NAME ACCESS-KEY-ID", Short: short, Long: short + ". A running server sees it within a second.",
		Args: args("NAME", "ACCESS-KEY-ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				return d.again(users.SetAccessKey(cmd.Context(), w.kind, args[0], args[1], status), w)
			})
		},
	}
}

// accessKeyDeleteCommand is kmsfs kms user key delete.
func (a *app) accessKeyDeleteCommand(d *directoryFlags, w principalWords) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME ACCESS-KEY-ID", Short: "Remove an access key for good", Args: args("NAME", "ACCESS-KEY-ID"),
		Long: "Remove an access key for good. A running server sees it within a second.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				return d.again(users.DeleteAccessKey(cmd.Context(), w.kind, args[0], args[1]), w)
			})
		},
	}
}
