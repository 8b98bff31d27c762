package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/keyfile"
)

// importFlags are the flags of keys import.
type importFlags struct {
	storeFlags
	out    outputFlags
	from   string
	volume string
	dryRun bool
	noKeys bool
}

// importReport is what keys import prints.
type importReport struct {
	Vault    string        `json:"vault"`
	DryRun   bool          `json:"dry_run"`
	VolumeID string        `json:"volume_id"`
	Created  string        `json:"key_file_created"`
	Config   string        `json:"config"`
	Files    int64         `json:"files_with_data_key"`
	Records  int64         `json:"records_put_in"`
	Tables   int64         `json:"key_tables_written"`
	Missing  []keylessFile `json:"files_without_record"`
	Unread   int64         `json:"not_readable"`
	Problems []string      `json:"problems,omitempty"`
	Damaged  []string      `json:"key_file_damage,omitempty"`
}

// keysImportCommand is kmsfs keys import.
func (a *app) keysImportCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import VAULT [FILE]",
		Short: "Put a vault right whose wrapped keys were lost or are too old",
		Long: `Put back into a vault, from FILE or stdin, what kmsfs keys export has written: the records that files of the vault name and
that are missing, erased, damaged or another file's there, each at its place; and vault.json where it is missing or damaged (a
damaged one stays as vault.json.damaged-TIME). All else in the vault stays as it is, and records of files that were deleted do
not come back. A record that was rewrapped since the export comes back with its older wrapping.

It may be interrupted and repeated, with one key file or with several, one after the other. Nobody may have the vault mounted for
writing. No key is needed, but at the end the vault is opened, to see that vault.json opens and to name files in plaintext;
--no-keys leaves that out.

Files that still have no record are listed, and end in exit code 3.`,
		Example: `  kmsfs keys import --dry-run ~/vault vault.keys
  kmsfs keys import ~/vault <vault.keys
  kmsfs keys import --no-keys --json /srv/vault /mnt/stick/vault.keys`,
		Args: args("VAULT", "[FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				if f.from != "" {
					return hintf(faultf(errUsage, "FILE and --from say the same thing twice"), "leave one of them out")
				}
				f.from = args[1]
			}
			return a.keysImport(cmd.Context(), &f, args[0])
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.from, "from", "", "`FILE` to read (default: stdin)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be put in; change nothing")
	flags.BoolVar(&f.noKeys, "no-keys", false, "do not open the vault at the end")
	flags.StringVar(&f.volume, "volume-id", "", "the vault is that of this volume `ID`, though neither a config nor a file of it says so")
	f.addOverrides(flags)
	f.out.add(flags)
	return cmd
}

// keysImport does it.
func (a *app) keysImport(ctx context.Context, f *importFlags, at string) error {
	o := keyfile.ImportOptions{DryRun: f.dryRun}
	if f.volume != "" {
		id, err := hex.DecodeString(f.volume)
		if err != nil || len(id) != len(o.Volume) {
			return hintf(faultf(errUsage, "--volume-id: %q is not a volume id", f.volume), "it stands in the first lines of the key file: tar -xOf FILE kmsfs-keys.json")
		}
		o.Volume = envelope.VolumeID(id)
	}
	dir, err := resolve(at)
	if err != nil {
		return err
	}
	p := mountPlan{Vault: dir}
	mounts := mountsOf(dir)
	if m, err := mountAt(dir); err == nil {
		p.Vault, mounts = m.Vault, append(mounts, m)
	}
	for _, m := range mounts {
		if _, readOnly := m.has("ro"); !readOnly && !f.dryRun {
			return hintf(faultf(errMounted, "the vault %s is mounted on %s", p.Vault, m.Mountpoint), "kmsfs umount %s", quote(m.Mountpoint))
		}
	}
	r, closing, err := a.openKeyFile(f.from)
	if err != nil {
		return err
	}
	defer closing()
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	defer top.Close()
	done, damage := keyfile.Import(ctx, top, r, o)
	if done == nil {
		return explainKeyFile(damage, p)
	}
	report := newImportReport(p.Vault, f, done)
	opened := a.nameMissing(ctx, f, p, report)
	if err := a.writeImport(f, report); err != nil {
		return err
	}
	switch {
	case damage != nil:
		return explainKeyFile(damage, p)
	case opened != nil:
		return faultf(opened, "the records are put in, but the vault does not open: %w", opened)
	case len(report.Missing)+int(report.Unread) > 0:
		return hintf(faultf(vault.ErrCorrupt, "%d files have no record of their data key, %d files and directories could not be looked at", len(report.Missing), report.Unread),
			"kmsfs keys import %s with another key file, such as a later one; what was put in stays", quote(p.Vault))
	}
	return nil
}

func newImportReport(vaultDir string, f *importFlags, done *keyfile.Imported) *importReport {
	r := &importReport{Vault: vaultDir, DryRun: f.dryRun, VolumeID: done.Head.Volume.String(), Created: stamp(done.Head.Created),
		Config: string(done.Config), Files: done.Files, Records: done.Records, Tables: done.Tables, Missing: keylessFiles(done.Missing), Unread: done.Unread}
	for _, p := range done.Problems {
		r.Problems = append(r.Problems, p.Path+": "+p.What)
	}
	for _, d := range done.Damaged {
		r.Damaged = append(r.Damaged, d.Path+": "+d.What)
	}
	return r
}

// nameMissing opens the vault, which shows that its config is whole, and names the files that have no record.
func (a *app) nameMissing(ctx context.Context, f *importFlags, p mountPlan, r *importReport) (err error) {
	if f.noKeys || f.dryRun && r.Config != string(keyfile.ConfigKept) {
		return nil
	}
	o, err := a.openVault(ctx, &f.storeFlags, p.Vault, vault.ReadOnly)
	if err != nil {
		return err
	}
	defer o.closeInto(&err)
	for i := range r.Missing {
		plain, err := o.plainPath(r.Missing[i].Stored)
		if err == nil {
			r.Missing[i].Path = plain
		} else if !errors.Is(err, vault.ErrCorrupt) {
			return err
		}
	}
	return nil
}

// writeImport prints the report.
func (a *app) writeImport(f *importFlags, r *importReport) error {
	if f.out.json {
		return writeJSON(a.stdout, r)
	}
	put := "records put in"
	if r.DryRun {
		put = "records to be put in"
	}
	if err := writeFields(a.stdout, "vault", r.Vault, "volume id", r.VolumeID, "key file created", r.Created, "config", r.Config,
		"files with a data key", fmt.Sprint(r.Files), put, fmt.Sprint(r.Records), "key tables written", fmt.Sprint(r.Tables),
		"files without record", strconv.Itoa(len(r.Missing)), "not readable", fmt.Sprint(r.Unread)); err != nil {
		return err
	}
	for _, m := range r.Missing {
		if _, err := fmt.Fprintln(a.stdout, "no record: "+oneLine(m.text())); err != nil {
			return err
		}
	}
	for _, list := range [][]string{r.Problems, r.Damaged} {
		for _, text := range list {
			fmt.Fprintf(a.stderr, "kmsfs: warning: %s\n", oneLine(text))
		}
	}
	return nil
}

// text names a file for people.
func (f keylessFile) text() string {
	if f.Path == "" {
		return f.Stored
	}
	return f.Stored + " (" + f.Path + ")"
}
