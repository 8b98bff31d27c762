package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/fsck"
)

// fsckFlags are the flags of fsck.
type fsckFlags struct {
	storeFlags
	out    outputFlags
	repair bool
}

// fsckInfo is the output of fsck.
type fsckInfo struct {
	Vault string `json:"vault"`
	fsck.Result
	Mended  []fsck.Mended `json:"mended,omitempty"`
	Seconds float64       `json:"seconds"`

	left []fsck.Finding // of the Findings: not mended
}

// fsckCommand is kmsfs fsck.
func (a *app) fsckCommand() *cobra.Command {
	var f fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck VAULT",
		Short: "Find and mend what crashes and other programs leave in a vault",
		Long: `Look through a vault that nobody has mounted for what a crash, or a program without the key, may leave in it. No mount needs that
first: it puts in place by itself what the last one was about to write, and reads right with all that is said here. With --repair:

  records of no file, of a crash or of files deleted from outside, are erased, but not while there is something of which cannot be told
  what record it needs, nor where no file names a record at all
  parts of long names that are not there, directories that were being made, and what a rewrap or a change of the config was about to
  replace, are removed
  files that were being written when the last mount died are settled: their checks become strict again
  a key table whose header is damaged gets it anew, from its name and its records; the damaged one stays beside it
  a directory whose id is damaged gets it back where what is left of it and the names in it tell it; else what is in it is moved to
  lost+found in the vault, and it gets another id; the old one is kept in .kmsfs/damaged
  what is under a name or in a directory where it does not belong is moved to lost+found, under the name that it had where that can be
  told, which is not authentic there

What other programs have put into the vault is told of and left alone, but for files of the vault in it.

Two stored files of one data key, in a copy that kept no hard links, are told of: copy one of them on a mount, and put the copy in its
place. In a vault that is a copy the keys of deleted files stay, as another may have the same; where there are no two such files, --repair
ends that.

No content is deleted. It may be killed at any moment. What files hold is not read: kmsfs verify does, and its --repair moves aside what is
beyond help. Exit code 3 says that there is damage that was not mended.`,
		Example: `  kmsfs fsck ~/vault
  kmsfs fsck --repair ~/vault && kmsfs verify ~/vault`,
		Args: args("VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.fsck(cmd.Context(), &f, args[0]) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVar(&f.repair, "repair", false, "mend what can be mended")
	f.out.add(fl)
	f.addOverrides(fl)
	return cmd
}

// fsck does it.
func (a *app) fsck(ctx context.Context, f *fsckFlags, path string) (err error) {
	began := time.Now()
	p, err := f.vaultPlan(path)
	if err != nil {
		return err
	}
	if m := mountsOf(p.Vault); len(m) > 0 {
		return hintf(faultf(errMounted, "the vault %s is mounted on %s", p.Vault, m[0].Mountpoint), "kmsfs verify looks at a mounted vault; kmsfs umount %s, then kmsfs fsck",
			quote(m[0].Mountpoint))
	}
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	defer top.Close()
	unclean, err := fsck.Unclean(top)
	if err != nil {
		return explain(err, p)
	}
	access := vault.ReadOnly
	if f.repair {
		access = vault.ReadWrite
	}
	o, err := a.openPlan(ctx, &f.storeFlags, p, access)
	if err != nil {
		return err
	}
	defer o.closeInto(&err)
	m := a.newMeter()
	defer m.end()
	opt := fsck.Options{Now: began, Progress: func(int64) { m.add(0) }}
	info := fsckInfo{Vault: p.Vault}
	var res *fsck.Result
	if f.repair {
		res, info.Mended, err = fsck.Repair(ctx, top, o.Vault, opt)
	} else {
		res, err = fsck.Find(ctx, top, o.Vault, opt)
	}
	if res == nil {
		return explain(err, p)
	}
	info.Result, info.left = *res, res.Findings
	info.Findings = []fsck.Finding{}
	for _, m := range info.Mended {
		info.Findings = append(info.Findings, m.Finding)
	}
	info.Findings = append(info.Findings, info.left...)
	if f.repair && err == nil && info.Unsure == "" && !slices.ContainsFunc(info.left, func(x fsck.Finding) bool { return x.Kind == fsck.OneKey }) {
		err = o.Claim() // a copy or not: no two files have one key
	}
	info.Unclean = unclean
	m.end()
	info.Seconds = time.Since(began).Seconds()
	if e := a.writeFsck(f, &info); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("fsck of %s: %w", p.Vault, err)
	}
	return fsckVerdict(f, &info)
}

// writeFsck prints what was found and done.
func (a *app) writeFsck(f *fsckFlags, info *fsckInfo) error {
	if f.out.json {
		return writeJSON(a.stdout, info)
	}
	line := func(x *fsck.Finding, done string) error {
		path := shown(x.Stored)
		if x.Path != "" {
			path += " (" + shown(x.Path) + ")"
		}
		_, err := fmt.Fprintf(a.stdout, "%s: %s: %s%s\n", x.Kind, path, oneLine(x.What), done)
		return err
	}
	for i := range info.Mended {
		if err := line(&info.Mended[i].Finding, ": "+oneLine(info.Mended[i].Done)); err != nil {
			return err
		}
	}
	for i := range info.left {
		if err := line(&info.left[i], ""); err != nil {
			return err
		}
	}
	state := "clean"
	if info.Unclean {
		state = "was not unmounted; the next mount puts in place what it has left"
		if f.repair {
			state = "was not unmounted; what it had left is in place"
		}
	}
	if info.Unsure != "" {
		if _, err := fmt.Fprintf(a.stdout, "records of no file were not looked for: %s\n", oneLine(info.Unsure)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.stdout, "%d directories, %d files, %d records: %d findings, %d mended; %s\n", info.Directories, info.Files, info.Records,
		len(info.Findings), len(info.Mended), state)
	return err
}

// fsckVerdict is the error that says what is left.
func fsckVerdict(f *fsckFlags, info *fsckInfo) error {
	damage, mendable := 0, 0
	var unread error
	for _, x := range info.left {
		switch x.Kind {
		case fsck.Unread:
			unread = errors.Join(unread, x.Err)
		case fsck.OrphanRecords, fsck.OrphanCompanion, fsck.Leftover, fsck.HalfMade, fsck.Unsettled, fsck.OneKey, fsck.Foreign: // harmless
		default:
			damage++
			if x.Mendable() {
				mendable++
			}
		}
	}
	v := quote(info.Vault)
	switch {
	case damage > 0 && mendable > 0 && !f.repair:
		return hintf(faultf(envelope.ErrCorrupt, "there are %d kinds of damage in %s", damage, info.Vault), "kmsfs fsck --repair %s mends %d of them", v, mendable)
	case damage > 0:
		return hintf(faultf(envelope.ErrCorrupt, "there is damage in %s that fsck does not mend", info.Vault),
			"kmsfs verify %s tells all of it, and its --repair moves it aside; kmsfs keys import puts back lost data keys", v)
	case unread != nil:
		return faultf(unread, "some of %s could not be looked at: %w", info.Vault, unread)
	}
	return nil
}
