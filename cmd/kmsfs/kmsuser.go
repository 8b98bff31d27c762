package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// principalWords are what the help says of users and of roles.
type principalWords struct {
	kind        identity.Kind
	short, long string
}

func userWords() principalWords {
	return principalWords{identity.User, "Say who may call the KMS server",
		`Make and remove the users who may call the KMS server, their policies and their access keys. They are kept in the key
store, sealed as the CMKs are; a running server sees a change within a second.`}
}

func roleWords() principalWords {
	return principalWords{identity.Role, "Say which tasks may call the KMS server",
		`Make and remove roles: principals like users, for a task that several hosts or programs do, with access keys of their
own. There is no AssumeRole.`}
}

// directoryFlags open the users of a key store.
type directoryFlags struct{ keyFlags }

// with opens the users for the time of f.
func (d *directoryFlags) with(ctx context.Context, a *app, f func(*identity.Directory) error) error {
	return d.keyFlags.with(ctx, a, absenceFails, func(s *local.Store) error {
		users, err := identity.Open(s, identity.Config{})
		if err != nil {
			return err
		}
		return f(users)
	})
}

// kmsPrincipalCommand is kmsfs kms user or kmsfs kms role, and all below it.
func (a *app) kmsPrincipalCommand(w principalWords) *cobra.Command {
	var d directoryFlags
	cmd := group(&cobra.Command{Use: string(w.kind), Short: w.short, Long: w.long})
	d.addStore(cmd.PersistentFlags())
	keys := group(&cobra.Command{
		Use: "key", Short: "Give and take access keys",
		Long: fmt.Sprintf("Give and take the access keys of a %s; it has at most %d, one in use and its successor.", w.kind, identity.MaxAccessKeys),
	})
	keys.AddCommand(a.accessKeyCreateCommand(&d, w), a.accessKeyStatusCommand(&d, w, identity.Disabled),
		a.accessKeyStatusCommand(&d, w, identity.Enabled), a.accessKeyDeleteCommand(&d, w))
	cmd.AddCommand(a.principalCreateCommand(&d, w), a.principalListCommand(&d, w), a.principalDeleteCommand(&d, w),
		a.principalAttachCommand(&d, w), a.principalDetachCommand(&d, w), keys)
	return cmd
}

// principalCreateCommand is kmsfs kms user create.
func (a *app) principalCreateCommand(d *directoryFlags, w principalWords) *cobra.Command {
	var policies policyFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a " + string(w.kind), Args: args("NAME"),
		Long: fmt.Sprintf("Make a %s without access keys and print its ARN, for key policies. The ready-made policies are %s; a policy file has "+
			"an identity policy in AWS's JSON.", w.kind, readyMade()),
		Example: fmt.Sprintf("  kmsfs kms %s create backup --policy writer\n  kmsfs kms %s create restore --policy-file restore.json", w.kind, w.kind),
		RunE: func(cmd *cobra.Command, args []string) error {
			attached, err := policies.read()
			if err != nil {
				return err
			}
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				p, err := users.Create(cmd.Context(), w.kind, args[0], attached)
				if err != nil {
					return d.again(err, w)
				}
				_, err = fmt.Fprintln(a.stdout, p.ARN(users.Account()))
				return err
			})
		},
	}
	policies.add(cmd.Flags())
	return cmd
}

// principalDeleteCommand is kmsfs kms user delete.
func (a *app) principalDeleteCommand(d *directoryFlags, w principalWords) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove a " + string(w.kind) + " with its access keys", Args: args("NAME"),
		Long: "Remove a " + string(w.kind) + " with its access keys. Key policies that name it stay as they are, and mean a new one of that name too.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				return d.again(users.Delete(cmd.Context(), w.kind, args[0]), w)
			})
		},
	}
}

// principalAttachCommand is kmsfs kms user attach.
func (a *app) principalAttachCommand(d *directoryFlags, w principalWords) *cobra.Command {
	var policies policyFlags
	cmd := &cobra.Command{
		Use: "attach NAME", Short: "Give a " + string(w.kind) + " policies", Args: args("NAME"),
		Long: "Attach policies to a " + string(w.kind) + " beside those that it has.", Example: fmt.Sprintf("  kmsfs kms %s attach backup --policy reader", w.kind),
		RunE: func(cmd *cobra.Command, args []string) error {
			more, err := policies.read()
			if err != nil {
				return err
			}
			if len(more) == 0 {
				return hintf(faultf(errUsage, "there is no --policy and no --policy-file"), "%s", cmd.UseLine()+" --policy reader")
			}
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				return d.again(users.SetPolicies(cmd.Context(), w.kind, args[0], func(have []identity.Policy) ([]identity.Policy, error) {
					return append(have, more...), nil
				}), w)
			})
		},
	}
	policies.add(cmd.Flags())
	return cmd
}

// principalDetachCommand is kmsfs kms user detach.
func (a *app) principalDetachCommand(d *directoryFlags, w principalWords) *cobra.Command {
	return &cobra.Command{
		Use: "detach NAME POLICY", Short: "Take a policy from a " + string(w.kind), Args: args("NAME", "POLICY"),
		Long: "Take a policy from a " + string(w.kind) + ", by its name.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.with(cmd.Context(), a, func(users *identity.Directory) error {
				return d.again(users.SetPolicies(cmd.Context(), w.kind, args[0], func(have []identity.Policy) ([]identity.Policy, error) {
					left := slices.DeleteFunc(slices.Clone(have), func(p identity.Policy) bool { return p.Name == args[1] })
					if len(left) == len(have) {
						return nil, keysource.NewError("", "", keysource.CodeNotFound, fmt.Sprintf("the %s %s has no policy %s", w.kind, args[0], args[1]))
					}
					return left, nil
				}), w)
			})
		},
	}
}

// again adds to an error where to look.
func (d *directoryFlags) again(err error, w principalWords) error {
	if errors.Is(err, keysource.ErrNotFound) || errors.Is(err, keysource.ErrAlreadyExists) || errors.Is(err, keysource.ErrLimit) {
		return hintf(err, "kmsfs kms %s list%s", w.kind, d.keyFlags.again())
	}
	return err
}

// policyFlags name policies.
type policyFlags struct{ ready, files []string }

// add defines the flags.
func (p *policyFlags) add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringSliceVar(&p.ready, "policy", nil, "`NAME` of a ready-made policy, several times if need be: "+readyMade())
	f.StringArrayVar(&p.files, "policy-file", nil, "`FILE` with an identity policy, which is named after it")
}

// readyMade lists the ready-made policies.
func readyMade() string {
	var names []string
	for _, r := range policy.Roles() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// read returns the policies that the flags name.
func (p *policyFlags) read() ([]identity.Policy, error) {
	var out []identity.Policy
	for _, name := range p.ready {
		if !policy.Role(name).Valid() {
			return nil, hintf(faultf(errUsage, "there is no ready-made policy %q", name), "--policy %s", policy.Reader)
		}
		out = append(out, identity.Policy{Name: name})
	}
	for _, path := range p.files {
		text, err := readLimited(path, policy.MaxSize)
		if err != nil {
			return nil, err
		}
		if _, err := policy.Parse(text, policy.IdentityPolicy); err != nil {
			return nil, hintf(fmt.Errorf("%s: %w", path, err), `an identity policy is {"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}]}`)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		if policy.Role(name).Valid() {
			return nil, hintf(faultf(errUsage, "%s has the name of a ready-made policy", path), "give the file another name")
		}
		out = append(out, identity.Policy{Name: name, Document: text})
	}
	return out, nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		return "", hintf(faultf(errUsage, "%s has more than %d bytes", path, limit), "name the file of a policy")
	}
	return string(text), err
}
