package main

import (
	"context"

	"github.com/spf13/cobra"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// aliasInfo is an alias in the output of key alias list.
type aliasInfo struct {
	Alias   string `json:"alias"`
	ARN     string `json:"arn"`
	KeyID   string `json:"key_id"`
	Created string `json:"created"`
	Updated string `json:"updated"`
}

// keyAliasCommand is kmsfs key alias and all below it.
func (a *app) keyAliasCommand(k *keyFlags) *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "alias", Short: "Name CMKs", Long: "Name CMKs. An alias is alias/ and a name; alias/aws/ is reserved.",
	})
	cmd.AddCommand(
		a.keyAliasChange(k, "create ALIAS KEY", "Name a CMK", (*local.Store).CreateAlias),
		a.keyAliasChange(k, "update ALIAS KEY", "Move an alias to another CMK: new files use that, old ones stay as they are",
			(*local.Store).UpdateAlias),
		&cobra.Command{
			Use: "delete ALIAS", Short: "Remove an alias", Long: "Remove an alias. The CMK and what it wrapped stay as they are.",
			Args: args("ALIAS"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
					return s.DeleteAlias(cmd.Context(), args[0])
				})
			},
		},
		a.keyAliasListCommand(k))
	return cmd
}

// keyAliasChange is kmsfs key alias create and kmsfs key alias update.
func (a *app) keyAliasChange(k *keyFlags, use, short string,
	change func(*local.Store, context.Context, string, keysource.KeyRef) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: short + ".", Args: args("ALIAS", "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAlias(args[0]); err != nil {
				return err
			}
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				return change(s, cmd.Context(), args[0], keysource.KeyRef(args[1]))
			})
		},
	}
}

// keyAliasListCommand is kmsfs key alias list.
func (a *app) keyAliasListCommand(k *keyFlags) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "list [KEY]", Aliases: []string{"ls"}, Short: "List all aliases, or those of one CMK",
		Long: "List all aliases, or those of one CMK, by name.", Args: args("[KEY]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var key keysource.KeyRef
			if len(args) == 1 {
				key = keysource.KeyRef(args[0])
			}
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				entries, err := s.ListAliases(cmd.Context(), key)
				if err != nil {
					return err
				}
				list := make([]aliasInfo, 0, len(entries))
				var rows [][]string
				for _, e := range entries {
					i := aliasInfo{e.AliasName, e.AliasARN, e.TargetKeyID, stamp(e.CreationDate), stamp(e.LastUpdatedDate)}
					list = append(list, i)
					rows = append(rows, []string{i.Alias, i.KeyID, i.Created, i.Updated})
				}
				if out.json {
					return writeJSON(a.stdout, list)
				}
				return writeTable(a.stdout, []string{"ALIAS", "KEY ID", "CREATED", "UPDATED"}, rows)
			})
		},
	}
	out.add(cmd.Flags())
	return cmd
}
