package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// keyImportCommand is kmsfs key import.
func (a *app) keyImportCommand(k *keyFlags) *cobra.Command {
	in := keysource.ImportKeyMaterialInput{}
	from := ""
	replace, again := false, false
	cmd := &cobra.Command{
		Use:   "import KEY",
		Short: "Give a CMK of origin EXTERNAL its key material",
		Long: `Give a CMK of origin EXTERNAL its key material, exactly 32 bytes from a file or standard input, and print the key
material id. The first material makes the CMK usable; further material becomes current with kmsfs key rotate. Keep a copy
of the material: the key store is the only other one.`,
		Example: "  kmsfs key import --from material.bin alias/imported",
		Args:    args("KEY"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case from == "":
				return hintf(faultf(errUsage, "--from is missing"), "--from FILE, or --from - for standard input")
			case replace && again:
				return faultf(errUsage, "--new and --existing contradict each other")
			case replace:
				in.ImportType = keysource.ImportNewKeyMaterial
			case again:
				in.ImportType = keysource.ImportExistingKeyMaterial
			}
			in.KeyID, in.Material = keysource.KeyRef(args[0]), io.Reader(a.stdin)
			if from != "-" {
				f, err := os.Open(from)
				if err != nil {
					return err
				}
				defer f.Close()
				in.Material = f
			}
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				id, err := s.ImportKeyMaterial(cmd.Context(), in)
				if err == nil {
					_, err = fmt.Fprintln(a.stdout, id)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&from, "from", "", "`FILE` with the 32 bytes, or - for standard input")
	f.BoolVar(&replace, "new", false, "it is new material, for the next rotation")
	f.BoolVar(&again, "existing", false, "it is material that the CMK already had")
	f.StringVar(&in.Description, "description", "", "`TEXT` that describes the material")
	return cmd
}

// keyScheduleDeletionCommand is kmsfs key schedule-deletion.
func (a *app) keyScheduleDeletionCommand(k *keyFlags) *cobra.Command {
	days, force := 30, false
	cmd := &cobra.Command{
		Use:   "schedule-deletion KEY",
		Short: "Delete a CMK after a waiting time",
		Long: `Make a CMK unusable now and delete it after 7 to 30 days, and print the date. What it wrapped can then never be opened
again: every file whose data key it wrapped is lost. Until then kmsfs key cancel-deletion takes it back.

It is refused while a vault that was made or mounted with this key store needs the CMK, or cannot be looked at. Backups and
vaults of other machines are not known here: kmsfs verify --key-unused looks at them.`,
		Args: args("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if days < 7 || days > 30 {
				return hintf(faultf(errUsage, "--days is 7 to 30, not %d", days), "--days 30")
			}
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				if !force {
					if err := a.checkUnneeded(cmd.Context(), k, s, args[0]); err != nil {
						return err
					}
				}
				md, err := s.ScheduleKeyDeletion(cmd.Context(), keysource.KeyRef(args[0]), days)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stderr, "kmsfs: hint: to keep it: kmsfs key cancel-deletion%s %s\n", k.again(), md.KeyID)
				_, err = fmt.Fprintln(a.stdout, stamp(md.DeletionDate))
				return err
			})
		},
	}
	cmd.Flags().IntVar(&days, "days", 30, "waiting time, 7 to 30 `DAYS`")
	cmd.Flags().BoolVar(&force, "force", false, "also where known vaults need it")
	return cmd
}

// keyCancelDeletionCommand is kmsfs key cancel-deletion.
func (a *app) keyCancelDeletionCommand(k *keyFlags) *cobra.Command {
	return &cobra.Command{
		Use: "cancel-deletion KEY", Short: "Keep a CMK that was to be deleted",
		Long: "Keep a CMK that was to be deleted. It stays disabled until kmsfs key enable.", Args: args("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				md, err := s.CancelKeyDeletion(cmd.Context(), keysource.KeyRef(args[0]))
				if err == nil {
					fmt.Fprintf(a.stderr, "kmsfs: hint: to use it: kmsfs key enable%s %s\n", k.again(), md.KeyID)
				}
				return err
			})
		},
	}
}

// keyPassphraseCommand is kmsfs key passphrase.
func (a *app) keyPassphraseCommand(k *keyFlags) *cobra.Command {
	newFrom, newFile, toFile := "", "", false
	cmd := &cobra.Command{
		Use:   "passphrase",
		Short: "Seal the key store under a new passphrase, or a master key file",
		Long: `Seal the key store under a new passphrase, or with --key-file under a master key file. Mounts that use it go on. The
old passphrase or key file no longer opens the key store, but still opens old copies of it: destroy those.`,
		Example: `  kmsfs key passphrase
  kmsfs key passphrase --key-file`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if toFile && newFrom != "" {
				return faultf(errUsage, "--key-file and --new-passphrase-from contradict each other")
			}
			master := local.Master{KeyFile: newFile}
			if !toFile {
				src, err := a.parsePassphrase(newFrom)
				if err != nil {
					return err
				}
				master.Passphrase = src
			} else if newFile == "" {
				master.KeyFile = k.masterKeyFile
			}
			return k.with(cmd.Context(), a, absenceFails, func(s *local.Store) error {
				if err := s.ChangeMasterKey(cmd.Context(), master); err != nil {
					return err
				}
				return a.oldKeyFile(k, toFile)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&newFrom, "new-passphrase-from", "", "`SOURCE` of the new passphrase: prompt, fd:N or command:PROGRAM ARG...")
	f.BoolVar(&toFile, "key-file", false, "use a master key file in place of a passphrase; it is made where it is missing")
	f.StringVar(&newFile, "new-master-key-file", "", "with --key-file: `FILE` to use (default: master.key in the key store)")
	return cmd
}

// oldKeyFile says what to do with a master key file that is no longer needed.
func (a *app) oldKeyFile(k *keyFlags, toFile bool) error {
	path, dir := k.masterKeyFile, k.dir
	var err error
	if dir == "" {
		if dir, err = a.defaultStore(); err != nil {
			return err
		}
	}
	if path == "" {
		path = filepath.Join(dir, local.KeyFileName)
	}
	if _, err := os.Lstat(path); !toFile && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(a.stderr, "kmsfs: hint: %s opens only old copies of the key store now: shred -u %[1]s\n", quote(path))
	}
	return nil
}
