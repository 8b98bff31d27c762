package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/archive"
)

// exportFlags are the flags of export and import.
type exportFlags struct {
	storeFlags
	file string
}

// exportCommand is kmsfs export.
func (a *app) exportCommand() *cobra.Command {
	var e exportFlags
	cmd := &cobra.Command{
		Use:     "export VAULT [PATH]",
		Aliases: []string{"tar"},
		Short:   "Write a vault in plaintext as a tar archive, without a mount",
		Long: `Write what is at and below PATH in a vault, in plaintext, as a tar archive to standard output or a file, without a mount. It is a PAX
archive: extended attributes, hard links, times of nanoseconds and holes are in it, as GNU tar and bsdtar know them (tar --xattrs
--xattrs-include='*' for attributes). Files of any size pass through in pieces. What cannot be read is told of and left out, and the exit
code is then not 0.`,
		Example: `  kmsfs export ~/vault > plain.tar
  kmsfs export ~/vault projects | zstd | age -r age1... > projects.tar.zst.age
  kmsfs tar ~/vault | ssh host tar -xpf - -C /restore`,
		Args: args("VAULT", "[PATH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ""
			if len(args) > 1 {
				path = args[1]
			}
			return a.export(cmd.Context(), &e, args[0], path)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&e.file, "output", "", "write to `FILE`, which is there only when it is whole, instead of standard output")
	e.addOverrides(f)
	return cmd
}

// export does it.
func (a *app) export(ctx context.Context, e *exportFlags, vaultDir, path string) error {
	if _, ok := terminal(a.stdout); ok && e.file == "" {
		return hintf(faultf(errUsage, "an archive is not for a terminal"), "kmsfs export %s > plain.tar", quote(vaultDir))
	}
	m := a.newMeter()
	defer m.end()
	return a.withPlain(ctx, &e.storeFlags, vaultDir, vault.ReadOnly, func(o *openedVault, root backing.Dir) error {
		write := func(w io.Writer) error {
			b := bufio.NewWriterSize(w, 256<<10)
			err := m.outcome(archive.Export(ctx, root, inVault(o, path), b, archive.Options{Progress: m.add, Trouble: m.trouble}))
			if e := b.Flush(); e != nil {
				err = e
			}
			return notFound(err, o.plan.Vault, path)
		}
		if e.file == "" {
			return write(a.stdout)
		}
		var partly error // what is there of an archive that lacks some files is right
		err := writeFileAside(e.file, func(w io.Writer) error {
			if partly = write(w); errors.Is(partly, archive.ErrIncomplete) {
				return nil
			}
			return partly
		})
		if err == nil {
			err = partly
		}
		return err
	})
}

// importCommand is kmsfs import.
func (a *app) importCommand() *cobra.Command {
	var e exportFlags
	cmd := &cobra.Command{
		Use:   "import VAULT [PATH]",
		Short: "Take a tar archive in plaintext into a vault, without a mount",
		Long: `Take what is in a tar archive in plaintext, from standard input or a file, into a vault, below PATH, which is a directory in it.
The vault must not be mounted. A file that is there is replaced as a whole; directories stay, with what else is in them. Names that
lead out of PATH, or through a symbolic link, are refused. Owners are those of the archive, by number, where root imports. Interrupted,
it may be done again. What could not be made is told of, and the exit code is then not 0.`,
		Example: `  kmsfs import ~/vault < plain.tar
  tar --xattrs --sparse -C /srv/data -cf - . | kmsfs import ~/vault data`,
		Args: args("VAULT", "[PATH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ""
			if len(args) > 1 {
				path = args[1]
			}
			return a.importTar(cmd.Context(), &e, args[0], path)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&e.file, "input", "", "read `FILE` instead of standard input")
	e.addOverrides(f)
	return cmd
}

// importTar does it.
func (a *app) importTar(ctx context.Context, e *exportFlags, vaultDir, path string) error {
	in := a.stdin
	if e.file != "" {
		f, err := os.Open(e.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	} else if _, ok := terminal(a.stdin); ok {
		return hintf(faultf(errUsage, "there is no archive on standard input"), "kmsfs import %s < plain.tar", quote(vaultDir))
	}
	m := a.newMeter()
	defer m.end()
	return a.withPlain(ctx, &e.storeFlags, vaultDir, vault.ReadWrite, func(o *openedVault, root backing.Dir) error {
		err := archive.Import(ctx, root, inVault(o, path), bufio.NewReaderSize(in, 256<<10), archive.Options{Progress: m.add, Trouble: m.trouble})
		if errors.Is(err, archive.ErrArchive) {
			return hintf(err, "get the archive anew; tar -tf says whether it is one, and what is compressed or encrypted is to be unpacked before")
		}
		if err = notFound(err, o.plan.Vault, path); err == nil {
			err = o.Flush()
		}
		if err == nil {
			return nil
		}
		return fmt.Errorf("import: %w", err)
	})
}
