package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/keyfile"
	"kmsfs/fs/vault/survey"
)

// keysCommand is kmsfs keys and all below it.
func (a *app) keysCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "keys",
		Short: "Keep the wrapped keys of a vault apart, and put them back",
		Long: `The wrapped keys of a vault, .kmsfs/vault.json and .kmsfs/keys, as one portable file: the key file. It holds no key in
plaintext, and opens nothing without the CMK. A vault whose .kmsfs was lost, or is older than its data, is put right from it.

A key file is a tar archive; tar -xf FILE -C VAULT .kmsfs puts all of it into a vault that has no .kmsfs, without kmsfs.`,
	})
	cmd.AddCommand(a.keysExportCommand(), a.keysImportCommand(), a.keysCompareCommand())
	return cmd
}

// keysExportCommand is kmsfs keys export.
func (a *app) keysExportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export VAULT",
		Short: "Write the wrapped keys of a vault to a file",
		Long: `Write the config and the key tables of a vault to stdout, or with --output to FILE, which is replaced when all of it is
written and durable. No key is needed. The vault may be mounted and rewrapped meanwhile; of the files that are made during the
export some may be missing from it.

Damaged records and tables are named, and end in exit code 3: stdout has the rest then, and --output FILE that was there before
stays, with the new one beside it as FILE.damaged.`,
		Example: `  kmsfs keys export ~/vault >keys-$(date +%F).tar
  kmsfs keys export --output /mnt/stick/vault.keys /srv/vault && kmsfs keys compare /srv/vault /mnt/stick/vault.keys`,
		Args: args("VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.keysExport(cmd.Context(), output, args[0]) },
	}
	cmd.Flags().StringVar(&output, "output", "", "`FILE` to write to")
	return cmd
}

// keysExport does it.
func (a *app) keysExport(ctx context.Context, output, at string) error {
	p, err := (&storeFlags{}).vaultPlan(at)
	if err != nil {
		return err
	}
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	defer top.Close()
	var done *keyfile.Exported
	write := func(w io.Writer) (err error) {
		b := bufio.NewWriterSize(w, 1<<20)
		if done, err = keyfile.Export(ctx, top, b, time.Now()); err != nil {
			return explain(err, p)
		}
		return b.Flush()
	}
	kept := output
	if output == "" {
		if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return hintf(faultf(errUsage, "a key file is no text for a terminal"), "kmsfs keys export --output FILE %s", quote(p.Vault))
		}
		err = write(a.stdout)
	} else {
		kept, err = writeWhole(output, write, func() bool { return len(done.Damaged) > 0 })
	}
	if err != nil {
		return err
	}
	for i, d := range done.Damaged {
		if i == troubles {
			fmt.Fprintf(a.stderr, "kmsfs: warning: and %d more\n", len(done.Damaged)-i)
			break
		}
		fmt.Fprintf(a.stderr, "kmsfs: warning: %s: %s\n", d.Path, oneLine(d.What))
	}
	if n := len(done.Damaged); n > 0 {
		err := faultf(vault.ErrCorrupt, "%d damaged key tables and records; %d whole records were exported", n, done.Records)
		if kept != "" {
			err = faultf(vault.ErrCorrupt, "%w, to %s", err, kept)
		}
		return hintf(err, "kmsfs keys import %s puts them right from an older key file", quote(p.Vault))
	}
	fmt.Fprintf(a.stderr, "kmsfs: %d records in %d key tables, %d bytes\n", done.Records, done.Tables, done.Bytes)
	return nil
}

// writeWhole makes what write writes the content of the file name, at once and durably. Where worse says so, and there is a file
// of that name already, it stays, and the new one gets a name of its own, which is returned.
func writeWhole(name string, write func(io.Writer) error, worse func() bool) (kept string, err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".kmsfs-keys-*")
	if err != nil {
		return "", hintf(faultf(err, "--output: %w", err), "name a file in a directory that is there and can be written")
	}
	defer os.Remove(f.Name()) // when it has not got its name
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if _, e := os.Lstat(name); worse() && !errors.Is(e, iofs.ErrNotExist) {
		name += ".damaged"
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return "", faultf(err, "--output: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return name, d.Sync()
}

// openKeyFile opens the key file of that name; "" and "-" are stdin.
func (a *app) openKeyFile(name string) (io.Reader, func(), error) {
	if name == "" || name == "-" {
		if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, nil, hintf(faultf(errUsage, "FILE is missing"), "name a file that kmsfs keys export has written, or pipe it in")
		}
		return bufio.NewReaderSize(a.stdin, 1<<20), func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, hintf(faultf(err, "key file: %w", err), "name a file that kmsfs keys export has written")
	}
	return bufio.NewReaderSize(f, 1<<20), func() { f.Close() }, nil
}

// keylessFile is a file without a record, in the output of import and compare.
type keylessFile struct {
	Stored   string `json:"stored_path"`
	Path     string `json:"path,omitempty"` // plaintext, where the keys open
	FileID   string `json:"file_id"`
	KeyTable string `json:"key_table"`
	Slot     uint32 `json:"slot"`
}

func keylessFiles(list []survey.Stored) []keylessFile {
	out := make([]keylessFile, 0, len(list))
	for _, s := range list {
		out = append(out, keylessFile{Stored: s.Path, FileID: s.Head.ID.String(),
			KeyTable: envelope.ControlDir + "/keys/" + envelope.TableName(s.Head.Loc.Table), Slot: s.Head.Loc.Slot})
	}
	return out
}

// explainKeyFile says what to do about the errors of a key file.
func explainKeyFile(err error, p mountPlan) error {
	switch {
	case errors.Is(err, keyfile.ErrOtherVault):
		return hintf(faultf(errUsage, "%w", err), "name a key file that was exported from this vault; for keys import, --volume-id says that it is this vault's")
	case errors.Is(err, envelope.ErrCorrupt):
		return hintf(err, "name another file that kmsfs keys export has written")
	}
	return explain(err, p)
}
