package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/keyfile"
)

// compareReport is what keys compare prints. Here is the vault, there the key file or the other vault.
type compareReport struct {
	Vault        string        `json:"vault"`
	Other        string        `json:"other"`
	VolumeID     string        `json:"volume_id"`
	Complete     bool          `json:"complete"` // there is a record of every file there
	Files        int64         `json:"files_with_data_key"`
	Same         int64         `json:"records_same"`
	Rewrapped    int64         `json:"records_rewrapped"`
	Differing    int64         `json:"records_of_other_keys"`
	OnlyHere     int64         `json:"records_only_here"`
	OnlyThere    int64         `json:"records_only_there"`
	MissingHere  []keylessFile `json:"files_without_record_here"`
	MissingThere []keylessFile `json:"files_without_record_there"`
	Config       string        `json:"config"` // same, rewrapped or other
	Damage       []string      `json:"damage,omitempty"`
	Unread       int64         `json:"not_readable"`
}

// keysCompareCommand is kmsfs keys compare.
func (a *app) keysCompareCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "compare VAULT FILE|VAULT2",
		Short: "Tell whether a key file has the keys of all files of a vault",
		Long: `Compare the records of a vault with those of a key file, or of another copy of the vault: how many are the same, only
here, only there, or have other wrappings; and which files of VAULT have no record here or there. No key is needed, and the
vault may be mounted. FILE - is stdin.

Exit code 0 says that FILE has a whole record of every file of VAULT, so that it would do as a backup of the keys; 3 that it does
not. Records that are only there are of files that were deleted since, or of a stock of keys made ahead.`,
		Example: `  kmsfs keys compare /srv/vault /mnt/stick/vault.keys || kmsfs keys export --output /mnt/stick/vault.keys /srv/vault
  kmsfs keys compare --json /srv/vault /mnt/backup/vault`,
		Args: args("VAULT", "FILE|VAULT2"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.keysCompare(cmd.Context(), out, args[0], args[1])
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// otherKeys opens a key file or the sidecar of a vault.
func (a *app) otherKeys(name string) (keyfile.Source, func(), error) {
	if st, err := os.Stat(name); err == nil && st.IsDir() {
		p, err := (&storeFlags{}).vaultPlan(name)
		if err != nil {
			return nil, nil, err
		}
		top, err := backing.OpenDir(p.Vault)
		if err != nil {
			return nil, nil, explain(err, p)
		}
		src, closing, err := keyfile.OpenVault(top)
		if err != nil {
			top.Close()
			return nil, nil, explain(err, p)
		}
		return src, func() { closing(); top.Close() }, nil
	}
	r, closing, err := a.openKeyFile(name)
	if err != nil {
		return nil, nil, err
	}
	k, err := keyfile.NewReader(r)
	if err != nil {
		closing()
		return nil, nil, explainKeyFile(err, mountPlan{Vault: name})
	}
	return k, closing, nil
}

// keysCompare does it.
func (a *app) keysCompare(ctx context.Context, out outputFlags, at, other string) error {
	p, err := (&storeFlags{}).vaultPlan(at)
	if err != nil {
		return err
	}
	src, closing, err := a.otherKeys(other)
	if err != nil {
		return err
	}
	defer closing()
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	defer top.Close()
	c, damage := keyfile.Compare(ctx, top, src)
	if c == nil {
		return explainKeyFile(damage, p)
	}
	r := &compareReport{Vault: p.Vault, Other: other, VolumeID: c.Volume.String(), Complete: c.Complete(), Files: c.Files, Same: c.Same,
		Rewrapped: c.Rewrapped, Differing: c.Differing, OnlyHere: c.OnlyHere, OnlyThere: c.OnlyThere, MissingHere: keylessFiles(c.MissingHere),
		MissingThere: keylessFiles(c.MissingThere), Config: c.Config, Unread: c.Unread}
	for _, list := range [][]keyfile.Damage{c.DamagedHere, c.DamagedThere, c.Problems} {
		for _, d := range list {
			r.Damage = append(r.Damage, d.Path+": "+d.What)
		}
	}
	if err := a.writeCompare(out, r); err != nil {
		return err
	}
	switch {
	case damage != nil:
		return explainKeyFile(damage, p)
	case !r.Complete:
		return hintf(faultf(vault.ErrCorrupt, "%s lacks the records of %d of %d files; %d files and directories could not be looked at", other, len(r.MissingThere), r.Files, r.Unread),
			"kmsfs keys export --output FILE %s makes a key file that has them", quote(p.Vault))
	}
	return nil
}

// writeCompare prints the report.
func (a *app) writeCompare(out outputFlags, r *compareReport) error {
	if out.json {
		return writeJSON(a.stdout, r)
	}
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	if err := writeFields(a.stdout, "vault", r.Vault, "other", r.Other, "volume id", r.VolumeID, "config", r.Config,
		"files with a data key", n(r.Files), "records: same", n(r.Same), "records: rewrapped", n(r.Rewrapped),
		"records: of other keys", n(r.Differing), "records: only here", n(r.OnlyHere), "records: only there", n(r.OnlyThere),
		"files without record here", strconv.Itoa(len(r.MissingHere)), "files without record there", strconv.Itoa(len(r.MissingThere)),
		"not readable", n(r.Unread)); err != nil {
		return err
	}
	for _, list := range []struct {
		where string
		files []keylessFile
	}{{"here", r.MissingHere}, {"there", r.MissingThere}} {
		for _, f := range list.files {
			if _, err := fmt.Fprintf(a.stdout, "no record %s: %s\n", list.where, oneLine(f.text())); err != nil {
				return err
			}
		}
	}
	for _, d := range r.Damage {
		fmt.Fprintf(a.stderr, "kmsfs: warning: %s\n", oneLine(d))
	}
	return nil
}
