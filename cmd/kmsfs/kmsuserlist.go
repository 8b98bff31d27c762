package main

import (
	"strings"

	"github.com/spf13/cobra"

	"kmsfs/keysource/kms/identity"
)

// principalInfo is a user or role in the output of kms user list.
type principalInfo struct {
	Name       string          `json:"name"`
	ARN        string          `json:"arn"`
	ID         string          `json:"id"`
	Created    string          `json:"created"`
	Policies   []string        `json:"policies"`
	AccessKeys []accessKeyInfo `json:"access_keys"`
}

// accessKeyInfo is an access key without its secret.
type accessKeyInfo struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Created string `json:"created"`
}

// principalListCommand is kmsfs kms user list.
func (a *app) principalListCommand(d *directoryFlags, w principalWords) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the " + string(w.kind) + "s", Args: args(),
		Long: "List the " + string(w.kind) + "s by name, with their policies and access keys, and never a secret.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				all, err := users.List()
				if err != nil {
					return err
				}
				list := []principalInfo{}
				var rows [][]string
				for _, p := range all {
					if p.Kind != w.kind {
						continue
					}
					i := infoOf(&p, users.Account())
					list = append(list, i)
					var keys []string
					for _, k := range i.AccessKeys {
						keys = append(keys, k.ID+" "+k.Status)
					}
					rows = append(rows, []string{i.Name, strings.Join(i.Policies, ","), strings.Join(keys, ", "), i.Created, i.ARN})
				}
				if out.json {
					return writeJSON(a.stdout, list)
				}
				return writeTable(a.stdout, []string{"NAME", "POLICIES", "ACCESS KEYS", "CREATED", "ARN"}, rows)
			})
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// infoOf is what may be shown of p.
func infoOf(p *identity.Principal, account string) principalInfo {
	i := principalInfo{Name: p.Name, ARN: p.ARN(account), ID: p.ID, Created: stamp(p.Created), Policies: []string{},
		AccessKeys: []accessKeyInfo{}}
	for _, policy := range p.Policies {
		i.Policies = append(i.Policies, policy.Name)
	}
	for _, k := range p.AccessKeys {
		i.AccessKeys = append(i.AccessKeys, accessKeyInfo{k.ID, k.Status(), stamp(k.Created)})
	}
	return i
}
