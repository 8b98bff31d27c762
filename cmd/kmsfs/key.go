package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// keyCommand is kmsfs key and all below it.
func (a *app) keyCommand() *cobra.Command {
	var flags keyFlags
	cmd := group(&cobra.Command{
		Use:   "key",
		Short: "Administer the CMKs of a local key store",
		Long: `Administer the CMKs of a local key store, in the terms of AWS KMS. KEY is a key id, a key ARN, an alias (alias/NAME) or
an alias ARN.

Without --key-store the key store is /var/lib/kmsfs for root, else $XDG_DATA_HOME/kmsfs or ~/.local/share/kmsfs. A mount
sees a change within a second; a data key that it has in use stays usable for up to 5 minutes.`,
	})
	flags.addStore(cmd.PersistentFlags())
	cmd.AddCommand(a.keyCreateCommand(&flags), a.keyListCommand(&flags), a.keyDescribeCommand(&flags),
		a.keyAliasCommand(&flags), a.keyStateCommand(&flags, "enable"), a.keyStateCommand(&flags, "disable"),
		a.keyRotateCommand(&flags), a.keyImportCommand(&flags), a.keyScheduleDeletionCommand(&flags),
		a.keyCancelDeletionCommand(&flags), a.keyPassphraseCommand(&flags))
	return cmd
}

// keyFlags are the flags of all key verbs.
type keyFlags struct {
	secretFlags
	dir   string
	event func(local.Event) // not a flag: is told what happens by itself; nil: nobody is
}

// addStore defines the flags.
func (k *keyFlags) addStore(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&k.dir, "key-store", "", "`DIR` of the key store")
	k.secretFlags.add(f)
}

// storeDir is the directory of the key store.
func (k *keyFlags) storeDir(a *app) (string, error) {
	if k.dir != "" {
		return k.dir, nil
	}
	return a.defaultStore()
}

// with opens the key store for the time of f.
func (k *keyFlags) with(ctx context.Context, a *app, absent absence, f func(s *local.Store) error) error {
	secret, sealNew, err := k.source(a)
	if err != nil {
		return err
	}
	dir, err := k.storeDir(a)
	if err != nil {
		return err
	}
	s, err := localStore{dir: dir, absent: absent, keyFile: k.masterKeyFile, secret: secret, sealNew: sealNew, event: k.event,
		created: func(dir string) { fmt.Fprintf(a.stderr, "kmsfs: made key store %s\n", dir) }}.open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	err = f(s)
	if err != nil && keysource.Hint(err) == "" && (errors.Is(err, keysource.ErrNotFound) || errors.Is(err, keysource.ErrAlreadyExists)) {
		err = hintf(err, "kmsfs key list%s", k.again())
	}
	return err
}

// again is the flag that a further command on the same key store needs.
func (k *keyFlags) again() string {
	if k.dir == "" {
		return ""
	}
	return " --key-store " + quote(k.dir)
}

// keyCreateCommand is kmsfs key create.
func (a *app) keyCreateCommand(k *keyFlags) *cobra.Command {
	var in keysource.CreateKeyInput
	var alias string
	var external bool
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a CMK, and the key store where there is none",
		Long: `Make a CMK and print its key id. A key store is made where there is none, sealed under a passphrase where
--passphrase-from is given, else under a master key file inside it.`,
		Example: `  kmsfs key create --alias alias/finance --description "ledgers"
  kmsfs key create --external --alias alias/imported`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if external {
				in.Origin = keysource.OriginExternal
			}
			if err := checkAlias(alias); alias != "" && err != nil {
				return err
			}
			return k.with(cmd.Context(), a, absenceCreates, func(s *local.Store) error {
				md, err := s.CreateKey(cmd.Context(), in)
				if err != nil {
					return err
				}
				if alias != "" {
					if err := s.CreateAlias(cmd.Context(), alias, keysource.KeyRef(md.KeyID)); err != nil {
						return hintf(fmt.Errorf("made %s, without an alias: %w", md.KeyID, err),
							"kmsfs key alias create%s alias/NAME %s", k.again(), md.KeyID)
					}
				}
				if out.json {
					d, err := describe(cmd.Context(), s, keysource.KeyRef(md.KeyID))
					if err != nil {
						return err
					}
					return writeJSON(a.stdout, d)
				}
				_, err = fmt.Fprintln(a.stdout, md.KeyID)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&alias, "alias", "", "`NAME` of a first alias: alias/NAME")
	f.StringVar(&in.Description, "description", "", "`TEXT` that describes the CMK")
	f.BoolVar(&external, "external", false, "make it without key material; kmsfs key import brings it")
	out.add(f)
	return cmd
}

// keyStateCommand is kmsfs key enable and kmsfs key disable.
func (a *app) keyStateCommand(k *keyFlags, verb string) *cobra.Command {
	short, long := "Let a disabled CMK be used again", ""
	change := (*local.Store).EnableKey
	if verb == "disable" {
		short, long = "Keep a CMK from being used until it is enabled", "\n\nFiles whose data keys it wrapped cannot be opened meanwhile."
		change = (*local.Store).DisableKey
	}
	return &cobra.Command{
		Use: verb + " KEY", Short: short, Long: short + "." + long, Args: args("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				return change(s, cmd.Context(), keysource.KeyRef(args[0]))
			})
		},
	}
}

// keyRotateCommand is kmsfs key rotate.
func (a *app) keyRotateCommand(k *keyFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate KEY",
		Short: "Give a CMK new key material",
		Long: `Give a CMK new key material, which wraps data keys from now on, and print its key material id. What the old material
wrapped can still be opened. Of a CMK of origin EXTERNAL, the material imported last becomes current.`,
		Args: args("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				md, err := s.RotateKeyOnDemand(cmd.Context(), keysource.KeyRef(args[0]))
				if err == nil {
					_, err = fmt.Fprintln(a.stdout, md.CurrentKeyMaterialID)
				}
				return err
			})
		},
	}
}

// checkAlias refuses a name that cannot be an alias before anything is made.
func checkAlias(name string) error {
	switch {
	case !keysource.ValidAliasName(name):
		return hintf(faultf(errUsage, "%q is not an alias", name), "write alias/NAME: letters, digits, / _ - :")
	case strings.HasPrefix(name, keysource.ReservedAliasPrefix):
		return hintf(faultf(errUsage, "%s is reserved", name), "write alias/NAME, not beginning with aws/")
	}
	return nil
}
