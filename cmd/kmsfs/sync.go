package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/mirror"
	"kmsfs/fs/vault/tree"
)

// syncFlags are the flags of sync.
type syncFlags struct {
	storeFlags
	out                                  outputFlags
	checksum, noDelete, dryRun, verbose  bool
	oneFileSystem, wholeFile, allowEmpty bool
	exclude                              []string
	excludeFrom                          []string
	parallel                             int
	manifest                             string
}

// place is a directory, or one in a vault, as the command line names it.
type place struct {
	arg   string
	vault string // "" for a plain directory
	path  string // in the vault, or of the directory
}

// parsePlace reads VAULT, VAULT:PATH or PATH. What is before the first colon after which nothing but a vault is named is one.
func parsePlace(arg string) place {
	if holdsVault(arg) {
		return place{arg, arg, ""}
	}
	for i, c := range arg {
		if c == ':' && i > 0 && holdsVault(arg[:i]) {
			return place{arg, arg[:i], arg[i+1:]}
		}
	}
	return place{arg: arg, path: arg}
}

// syncCommand is kmsfs sync.
func (a *app) syncCommand() *cobra.Command {
	var s syncFlags
	cmd := &cobra.Command{
		Use:   "sync SRC DEST",
		Short: "Make a vault mirror a directory, or a directory a vault, without a mount",
		Long: `Make DEST what SRC is, as rsync -aHAX --delete does, without a mount. One of them is a vault, VAULT or VAULT:PATH for a directory in
it; the other is a directory, or another vault. A vault that is written to must not be mounted; one that is read may be.

A file is looked at if its size or time of change differs, with --checksum if its content does. Large files in a vault are changed
piece by piece, so that little of the vault changes and copies of it stay incremental: interrupted, such a file has some of old and
new until the next run; with --whole-file a new one takes its place. All other files are replaced as a whole. It may be interrupted, and goes on with the next run.
What is damaged in DEST, or has lost its data key, is told of and written anew where it is looked at: with --checksum all is.

--exclude takes patterns of gitignore(5), from the root of SRC; what they match is left alone on both sides. What could not be done is
told of, and the exit code is then not 0. A SRC that is empty, as where a disk is not mounted, is refused unless DEST is too.`,
		Example: `  kmsfs sync /srv/data ~/vault
  kmsfs sync --dry-run --exclude '*.tmp' --exclude /cache /srv/data ~/vault:data
  kmsfs sync --manifest vault.manifest /srv/data ~/vault && rsync -a --delete ~/vault backup:
  kmsfs sync ~/vault:data/2026 /restore`,
		Args: args("SRC", "DEST"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.sync(cmd.Context(), &s, args[0], args[1]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&s.dryRun, "dry-run", "n", false, "print what would be done; change nothing")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "print what is done: + made, ~ changed, . attributes, - removed")
	f.BoolVarP(&s.checksum, "checksum", "c", false, "compare the content of files, not size and time")
	f.BoolVar(&s.noDelete, "no-delete", false, "keep what SRC does not have")
	f.BoolVar(&s.allowEmpty, "allow-empty", false, "empty DEST where SRC is empty")
	f.StringArrayVar(&s.exclude, "exclude", nil, "leave alone what matches `PATTERN`, as in .gitignore; may be given several times")
	f.StringArrayVar(&s.excludeFrom, "exclude-from", nil, "the same, for the patterns in `FILE`")
	f.BoolVarP(&s.oneFileSystem, "one-file-system", "x", false, "do not enter other file systems mounted in SRC")
	f.BoolVar(&s.wholeFile, "whole-file", false, "replace large files as a whole")
	f.StringVar(&s.manifest, "manifest", "", "then write a manifest of the vault DEST to `FILE`, as kmsfs manifest does")
	f.IntVar(&s.parallel, "parallel", 0, "`N` files at once (default: four times the processors)")
	s.addOverrides(f)
	s.out.add(f)
	return cmd
}

// options are the flags as mirror takes them.
func (s *syncFlags) options(dest place) (mirror.Options, error) {
	o := mirror.Options{Parallel: s.parallel}
	if s.parallel < 0 || s.parallel > 1000 {
		return o, faultf(errUsage, "--parallel is 1 to 1000")
	}
	if s.checksum {
		o.Compare = mirror.ByContent
	}
	if s.noDelete {
		o.Extras = mirror.Keep
	}
	if s.dryRun {
		o.Effect = mirror.DryRun
	}
	if s.oneFileSystem {
		o.Bounds = mirror.OneFileSystem
	}
	if dest.vault != "" && !s.wholeFile {
		o.Replace = mirror.InPlace
	}
	o.Ignore = &mirror.Ignore{}
	for _, file := range s.excludeFrom {
		b, err := os.ReadFile(file)
		if err != nil {
			return o, err
		}
		for i, line := range strings.Split(string(b), "\n") {
			if err := o.Ignore.Add(line); err != nil {
				return o, faultf(errUsage, "%s, line %d: %v", file, i+1, err)
			}
		}
	}
	for _, p := range s.exclude {
		if err := o.Ignore.Add(p); err != nil {
			return o, faultf(errUsage, "--exclude: %v", err)
		}
	}
	return o, nil
}

// sync does it.
func (a *app) sync(ctx context.Context, s *syncFlags, src, dest string) error {
	from, to := parsePlace(src), parsePlace(dest)
	o, err := s.options(to)
	if err != nil {
		return err
	}
	if err := checkApart(from, to); err != nil {
		return err
	}
	if s.manifest != "" && (to.vault == "" || s.dryRun) {
		return hintf(faultf(errUsage, "--manifest is for a vault that was synchronized"), "kmsfs manifest VAULT")
	}
	m := a.newMeter()
	defer m.end()
	err = a.at(ctx, &s.storeFlags, from, vault.ReadOnly, func(source backing.Dir) error {
		access := vault.ReadWrite
		if s.dryRun {
			access = vault.ReadOnly
		}
		return a.at(ctx, &s.storeFlags, to, access, func(target backing.Dir) error {
			if err := s.notEmpty(from, source, target); err != nil {
				return err
			}
			return a.mirror(ctx, s, o, m, source, target)
		})
	})
	if err != nil || s.manifest == "" {
		return err
	}
	return a.writeManifest(ctx, &manifestFlags{s.storeFlags, s.manifest}, to.vault)
}

// checkApart refuses places that are in each other, and two plain ones.
func checkApart(from, to place) error {
	if from.vault == "" && to.vault == "" {
		return hintf(faultf(errUsage, "neither %s nor %s is a vault", from.arg, to.arg), "kmsfs init %s makes one; rsync is for two directories", quote(to.arg))
	}
	dirs := make([]string, 2)
	for i, p := range []place{from, to} {
		dir := p.vault
		if dir == "" {
			dir = p.path
		}
		var err error
		if dirs[i], err = resolve(dir); err != nil {
			return err
		}
	}
	if inside(dirs[0], dirs[1]) || inside(dirs[1], dirs[0]) {
		return hintf(faultf(errOverlap, "%s and %s are inside one another", dirs[0], dirs[1]), "name a vault outside the directory")
	}
	return nil
}

// makeLast makes the directory at the end of parts where it is missing.
func makeLast(root backing.Dir, parts []string) error {
	last := len(parts) - 1
	d, err := tree.OpenDir(root, parts[:last]...)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Mkdir(parts[last], 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// at opens a place and calls f with it. One that is written to is made where its last directory is missing.
func (a *app) at(ctx context.Context, s *storeFlags, p place, access vault.Access, f func(backing.Dir) error) error {
	if p.vault != "" {
		return a.withPlain(ctx, s, p.vault, access, func(o *openedVault, root backing.Dir) error {
			parts, err := tree.Split(p.path)
			if err != nil {
				return notFound(err, p.vault, p.path)
			}
			if len(parts) > 0 && access == vault.ReadWrite {
				if err := makeLast(root, parts); err != nil {
					return notFound(err, p.vault, p.path)
				}
			}
			d, err := tree.OpenDir(root, parts...)
			if err != nil {
				return notFound(err, p.vault, p.path)
			}
			defer d.Close()
			if err := f(d); err != nil || access == vault.ReadOnly {
				return err
			}
			return o.Flush()
		})
	}
	if access == vault.ReadWrite {
		if err := os.Mkdir(p.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	d, err := backing.OpenDir(p.path)
	if err != nil {
		return hintf(faultf(err, "%s: %w", p.path, err), "name a directory that is there, or a vault: VAULT or VAULT:PATH")
	}
	defer d.Close()
	if err := f(d); err != nil || access == vault.ReadOnly {
		return err
	}
	return d.SyncFS()
}

// notEmpty refuses to empty a destination because the source is: a disk that is not mounted looks so.
func (s *syncFlags) notEmpty(from place, source, target backing.Dir) error {
	if s.noDelete || s.dryRun || s.allowEmpty {
		return nil
	}
	names, err := tree.List(source)
	if err != nil || len(names) > 0 {
		return nil // what of it cannot be seen is told of later
	}
	if names, err = tree.List(target); err != nil || len(names) == 0 {
		return err
	}
	return hintf(faultf(errUsage, "%s is empty, and all that is in the destination would be removed", from.arg), "is it mounted? --allow-empty if that is meant")
}

// syncSummary is the last line of sync.
type syncSummary struct {
	DryRun  bool    `json:"dry_run"`
	Objects int64   `json:"objects"`
	Made    int64   `json:"made"`
	Changed int64   `json:"changed"`
	Attrs   int64   `json:"attributes_changed"`
	Removed int64   `json:"removed"`
	Mended  int64   `json:"mended"` // of changed
	Bytes   int64   `json:"bytes_read"`
	Written int64   `json:"bytes_written"`
	Failed  int64   `json:"failed"`
	Seconds float64 `json:"seconds"`
}

// mirror runs it and prints what it does.
func (a *app) mirror(ctx context.Context, s *syncFlags, o mirror.Options, m *meter, source, target backing.Dir) error {
	o.Progress, o.Trouble = m.add, m.trouble
	done := "was damaged in the destination, and was written anew"
	if s.dryRun {
		done = "is damaged in the destination, and would be written anew"
	}
	o.Mended = func(path string, damage error) {
		m.line("kmsfs: %s %s: %s", oneLine(path), done, oneLine(damage.Error()))
	}
	var mu sync.Mutex
	if (s.dryRun || s.verbose) && !s.out.json {
		sign := map[mirror.Kind]string{mirror.Make: "+", mirror.Change: "~", mirror.Attrs: ".", mirror.Remove: "-"}
		o.Told = func(kind mirror.Kind, path string) {
			mu.Lock()
			defer mu.Unlock()
			if path == "" {
				path = "/"
			}
			fmt.Fprintf(a.stdout, "%s %s\n", sign[kind], plainName(a.stdout, path))
		}
	}
	res, err := mirror.Run(ctx, source, target, o)
	m.end()
	err = m.outcome(err)
	sum := syncSummary{s.dryRun, res.Objects, res.Made, res.Changed, res.Attrs, res.Removed, res.Mended, res.Bytes, res.Written, m.failed.Load(), time.Since(m.began).Seconds()}
	if s.out.json {
		if e := writeJSON(a.stdout, sum); err == nil {
			err = e
		}
	} else if !errors.Is(err, context.Canceled) {
		fmt.Fprintf(a.stderr, "kmsfs: %d objects: %d made, %d changed, %d attributes, %d removed; %d bytes written in %.1f s\n", sum.Objects, sum.Made, sum.Changed,
			sum.Attrs, sum.Removed, sum.Written, sum.Seconds)
	}
	return err
}
