package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// keyInfo is a CMK in the output of key list and key describe.
type keyInfo struct {
	KeyID                string         `json:"key_id"`
	ARN                  string         `json:"arn"`
	Aliases              []string       `json:"aliases"`
	State                string         `json:"state"`
	Origin               string         `json:"origin"`
	Manager              string         `json:"manager"`
	Description          string         `json:"description"`
	Created              string         `json:"created"`
	DeletionDate         string         `json:"deletion_date,omitempty"`
	CurrentKeyMaterialID string         `json:"current_key_material_id,omitempty"`
	KeyMaterial          []materialInfo `json:"key_material,omitempty"`
}

// materialInfo is one key material of a CMK.
type materialInfo struct {
	ID          string `json:"id"`
	State       string `json:"state"`
	Origin      string `json:"origin"`
	Rotation    string `json:"rotation,omitempty"`
	Since       string `json:"since"`
	Description string `json:"description,omitempty"`
}

// keyListCommand is kmsfs key list.
func (a *app) keyListCommand(k *keyFlags) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the CMKs", Long: "List the CMKs, the oldest first.", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				entries, err := s.ListKeys(cmd.Context())
				if err != nil {
					return err
				}
				list := make([]keyInfo, 0, len(entries))
				var rows [][]string
				for _, e := range entries {
					i, err := describe(cmd.Context(), s, keysource.KeyRef(e.KeyID))
					if err != nil {
						return err
					}
					i.KeyMaterial = nil
					list = append(list, i)
					rows = append(rows, []string{i.KeyID, strings.Join(i.Aliases, ","), i.State, i.Origin, i.Created, i.Description})
				}
				if out.json {
					return writeJSON(a.stdout, list)
				}
				return writeTable(a.stdout, []string{"KEY ID", "ALIASES", "STATE", "ORIGIN", "CREATED", "DESCRIPTION"}, rows)
			})
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// keyDescribeCommand is kmsfs key describe.
func (a *app) keyDescribeCommand(k *keyFlags) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "describe KEY", Short: "Show a CMK with its aliases and key material",
		Long: "Show all that is known of a CMK but its secret: state, aliases, key material.", Args: args("KEY"),
		Example: "  kmsfs key describe alias/aws/kmsfs",
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				i, err := describe(cmd.Context(), s, keysource.KeyRef(args[0]))
				if err != nil {
					return err
				}
				if out.json {
					return writeJSON(a.stdout, i)
				}
				fields := []string{"key id", i.KeyID, "arn", i.ARN, "aliases", strings.Join(i.Aliases, " "), "state", i.State,
					"deletion date", i.DeletionDate, "origin", i.Origin, "manager", i.Manager, "description", i.Description,
					"created", i.Created}
				for _, m := range i.KeyMaterial {
					fields = append(fields, "key material", strings.Join(strings.Fields(m.ID+" "+m.State+" "+m.Rotation+" "+m.Since+" "+m.Description), " "))
				}
				return writeFields(a.stdout, fields...)
			})
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// describe gathers all that the store tells of a CMK.
func describe(ctx context.Context, s *local.Store, key keysource.KeyRef) (keyInfo, error) {
	md, err := s.DescribeKey(ctx, key)
	if err != nil {
		return keyInfo{}, err
	}
	id := keysource.KeyRef(md.KeyID)
	i := keyInfo{KeyID: md.KeyID, ARN: md.ARN, Aliases: []string{}, State: string(md.KeyState), Origin: string(md.Origin),
		Manager: string(md.KeyManager), Description: md.Description, Created: stamp(md.CreationDate),
		DeletionDate: stamp(md.DeletionDate), CurrentKeyMaterialID: md.CurrentKeyMaterialID}
	aliases, err := s.ListAliases(ctx, id)
	if err != nil {
		return keyInfo{}, err
	}
	for _, al := range aliases {
		i.Aliases = append(i.Aliases, al.AliasName)
	}
	materials, err := s.ListKeyRotations(ctx, id)
	if err != nil {
		return keyInfo{}, err
	}
	for _, m := range materials {
		i.KeyMaterial = append(i.KeyMaterial, materialInfo{ID: m.KeyMaterialID, State: string(m.State), Origin: string(m.Origin),
			Rotation: string(m.RotationType), Since: stamp(m.RotationDate), Description: m.KeyMaterialDescription})
	}
	return i, nil
}
