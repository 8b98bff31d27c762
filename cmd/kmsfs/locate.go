package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
)

// locateFlags are the flags of locate.
type locateFlags struct {
	storeFlags
	out                            outputFlags
	paths, null, recursive, stored bool
	deleted                        bool
	prefix                         string
}

// located is what has to be restored so that one path of a vault opens; all paths are from the vault's directory.
type located struct {
	Path        string   `json:"path"`          // plaintext, from the root of the vault; "." for the root
	Stored      string   `json:"stored_path"`   // "" for the root
	Kind        string   `json:"kind"`          // file, directory, symlink or other; missing with --deleted
	Companions  []string `json:"companions"`    // of long names, of the directories above too
	Directories []string `json:"directory_ids"` // the .kmsfs.dir of each directory above, and of a directory
	KeyTable    string   `json:"key_table,omitempty"`
	Slot        uint32   `json:"slot,omitempty"`
	Journal     []string `json:"journal,omitempty"`
	Config      string   `json:"config"`
}

// kindMissing is the kind of what is not there any more.
const kindMissing = "missing"

// restore are all paths that are to be restored.
func (l located) restore() []string {
	all := append(slices.Clone(l.Directories), l.Companions...)
	if l.Kind != "directory" { // else its id file brings it
		all = append(all, l.Stored)
	}
	if l.KeyTable != "" {
		all = append(all, l.KeyTable)
	}
	return append(append(all, l.Journal...), l.Config)
}

// locateCommand is kmsfs locate.
func (a *app) locateCommand() *cobra.Command {
	var l locateFlags
	cmd := &cobra.Command{
		Use:   "locate VAULT PATH...",
		Short: "Show what of a backup one file needs, or what a stored path is",
		Long: `Show what has to be restored of a backup of the vault so that PATH opens: its stored path, the companions of long names, the
.kmsfs.dir of each directory above, the key table that holds the record of its data key, and the config. Restore these into
an empty directory: it is a vault of this one file, to be mounted or read like any other. PATH is one from the root of the
vault, or on a mount of it.

--paths prints the stored paths alone, one a line, from the directory of the vault: for rsync --files-from, tar -T and restic
restore --include. Use --null with tar, which takes a line that begins with a hyphen for an option.

The records of a file can move to another key table by kmsfs reencrypt alone. Of a file that is gone from the vault, --deleted
shows all but the key table; restore that, then ask kmsfs locate for the rest in what was restored. While a vault is mounted
for writing it has a journal, and a backup that was taken then needs that of the backup: .kmsfs/journal. It is printed where
VAULT has one. So best name the backup itself as VAULT, where it can be read as files, such as by restic mount.

With --stored it goes the other way round: STOREDPATH, absolute or from the directory of the vault, is printed in plaintext. Of
a key table the files are printed whose keys it has, of a companion or .kmsfs.dir what it belongs to.`,
		Example: `  kmsfs locate ~/vault letters/2024.txt
  kmsfs locate --paths ~/vault letters/2024.txt | rsync -a --files-from=- /backup/vault/ ~/one/
  kmsfs locate --paths --null ~/vault letters/2024.txt | tar -C ~/one -xf vault.tar --null -T -
  restic restore latest --target ~/one $(kmsfs locate --paths --prefix=--include=/srv/vault/ /srv/vault letters/2024.txt)
  kmsfs locate --stored ~/vault .kmsfs/keys/0123456789abcdef`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return hintf(faultf(errUsage, "VAULT is missing"), "%s", cmd.UseLine())
			case len(args) == 1:
				return hintf(faultf(errUsage, "PATH is missing"), "kmsfs locate %s PATH...; --recursive %s . is all of it", quote(args[0]), quote(args[0]))
			}
			return a.locate(cmd.Context(), &l, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&l.paths, "paths", false, "print only the paths to be restored, each once")
	f.BoolVarP(&l.null, "null", "0", false, "end each path with a NUL byte in place of a line feed")
	f.StringVar(&l.prefix, "prefix", "", "print `TEXT` before each path, such as the vault's directory in the backup")
	f.BoolVar(&l.recursive, "recursive", false, "of a directory, all that is in it too")
	f.BoolVar(&l.deleted, "deleted", false, "also of a path that is not there any more, but for its key table")
	f.BoolVar(&l.stored, "stored", false, "the paths are stored ones: print them in plaintext")
	l.addOverrides(f)
	l.out.add(f)
	return cmd
}

// check refuses flags that do not go together.
func (l *locateFlags) check() error {
	switch {
	case l.stored && (l.paths || l.recursive || l.deleted || l.prefix != ""):
		return faultf(errUsage, "--stored goes with --null and --json alone")
	case l.out.json && (l.paths || l.null):
		return faultf(errUsage, "--json goes with neither --paths nor --null")
	case !l.stored && !l.paths && (l.null || l.prefix != ""):
		return faultf(errUsage, "--null and --prefix go with --paths")
	}
	return nil
}

// locate does it.
func (a *app) locate(ctx context.Context, l *locateFlags, at string, paths []string) (err error) {
	if err := l.check(); err != nil {
		return err
	}
	o, err := a.openVault(ctx, &l.storeFlags, at, vault.ReadOnly)
	if err != nil {
		return err
	}
	defer o.closeInto(&err)
	if l.stored {
		return a.locateStored(ctx, l, o, paths)
	}
	s := &locating{ctx: ctx, o: o, deleted: l.deleted}
	if s.journal, err = o.JournalFiles(); err != nil {
		return explain(err, o.plan)
	}
	for i, name := range s.journal {
		s.journal[i] = envelope.ControlDir + "/journal/" + name
	}
	out := &locateOutput{a: a, l: l, seen: map[string]bool{}, all: []*located{}}
	s.emit = out.one
	for _, name := range paths {
		if err := s.path(vaultPath(o.plan.Vault, name), l.recursive); err != nil {
			return err
		}
	}
	return out.finish()
}

// vaultPath is a path on a mount of the vault, or from its root, as one from its root. A symlink at its end is not followed.
func vaultPath(vaultDir, name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		if up, err := resolve(filepath.Dir(abs)); err == nil {
			real := filepath.Join(up, filepath.Base(abs))
			for _, m := range mountsOf(vaultDir) {
				if rel, err := filepath.Rel(m.Mountpoint, real); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
					name = rel
				}
			}
		}
	}
	return path.Clean("/" + name)[1:]
}

// locating finds what paths need.
type locating struct {
	ctx     context.Context
	o       *openedVault
	deleted bool
	journal []string
	emit    func(*located) error
}

// step is a directory on the way, or the end of it.
type step struct {
	n          *vault.Node
	plain      string // "" for the root
	stored     string
	dirs       []string // id files down to it
	companions []string
	kind       uint32
}

// below is the step from directory s to what stands there under a name.
func (s step) below(name string, sealed envelope.SealedName) step {
	next := step{plain: path.Join(s.plain, name), stored: path.Join(s.stored, sealed.Entry), dirs: s.dirs, companions: slices.Clip(s.companions)}
	for _, c := range sealed.Companions {
		next.companions = append(next.companions, path.Join(s.stored, c))
	}
	return next
}

// enter makes s, whose node is looked up, that of a directory.
func (s *step) enter() {
	if s.kind = s.n.Kind(); s.kind == syscall.S_IFDIR {
		s.dirs = append(slices.Clip(s.dirs), path.Join(s.stored, envelope.DirFileName))
	}
}

// path locates one path.
func (l *locating) path(name string, all bool) error {
	v := l.o.Vault
	at := step{n: v.Root(), kind: syscall.S_IFDIR}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			continue
		}
		sealed, err := v.StoredName(at.n, part)
		var next *vault.Node
		if err == nil {
			next, _, err = v.Lookup(at.n, part)
		}
		to := at.below(part, sealed)
		l.leave(at.n)
		if errors.Is(err, syscall.ENOENT) {
			if l.deleted && to.plain == name {
				return l.emit(l.found(to, kindMissing, envelope.Locator{}))
			}
			return hintf(faultf(err, "%s: no such file in the vault", to.plain), "--deleted shows what can be known of a file that is gone; a backup that can be read as files can be named as VAULT")
		}
		if err != nil {
			return faultf(err, "%s (stored as %s): %w", to.plain, to.stored, err)
		}
		to.n = next
		to.enter()
		at = to
	}
	return l.tree(at, all)
}

// leave gives a node back.
func (l *locating) leave(n *vault.Node) {
	if n != l.o.Root() {
		l.o.Forget(n, 1)
	}
}

// tree locates s, and what is below it where all is asked for. It gives the node of s back.
func (l *locating) tree(s step, all bool) error {
	defer l.leave(s.n)
	if err := l.ctx.Err(); err != nil {
		return err
	}
	loc, err := l.o.KeyPlace(s.n)
	if err != nil {
		return faultf(err, "%s: the header of the stored file %s does not say which key it has: %w", s.plain, s.stored, err)
	}
	if err := l.emit(l.found(s, kindName(s.kind), loc)); err != nil || !all || s.kind != syscall.S_IFDIR {
		return err
	}
	var entries []vault.DirEntry
	if err := l.o.ReadDir(s.n, func(e vault.DirEntry) bool {
		entries = append(entries, e)
		return true
	}); err != nil {
		return faultf(err, "%s (stored as %s): %w", s.plain, s.stored, err)
	}
	for _, e := range entries {
		sealed, err := l.o.StoredName(s.n, e.Name)
		if err != nil {
			return err
		}
		next := s.below(e.Name, sealed)
		if next.n, _, err = l.o.LookupStored(s.n, e.Stored); errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			return faultf(err, "%s (stored as %s): %w", next.plain, next.stored, err)
		}
		next.enter()
		if err := l.tree(next, all); err != nil {
			return err
		}
	}
	return nil
}

// found is what s needs.
func (l *locating) found(s step, kind string, loc envelope.Locator) *located {
	r := &located{Path: s.plain, Stored: s.stored, Kind: kind, Companions: s.companions, Directories: s.dirs, Journal: l.journal,
		Config: envelope.ControlDir + "/vault.json"}
	if s.plain == "" {
		r.Path = "."
	}
	if loc.Table != 0 {
		r.KeyTable, r.Slot = envelope.ControlDir+"/keys/"+envelope.TableName(loc.Table), loc.Slot
	}
	return r
}

// kindName is the S_IFMT bits of a mode in a word.
func kindName(kind uint32) string {
	switch kind {
	case syscall.S_IFREG:
		return "file"
	case syscall.S_IFDIR:
		return "directory"
	case syscall.S_IFLNK:
		return "symlink"
	}
	return "other"
}

// locateOutput prints what was located.
type locateOutput struct {
	a    *app
	l    *locateFlags
	seen map[string]bool // paths that were printed
	all  []*located
}

// one prints one path.
func (o *locateOutput) one(r *located) error {
	switch {
	case o.l.out.json:
		o.all = append(o.all, r)
		return nil
	case o.l.paths:
		for _, p := range r.restore() {
			if !o.seen[p] {
				o.seen[p] = true
				if err := o.a.line(o.l.prefix+p, o.l.null); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if len(o.seen) > 0 {
		fmt.Fprintln(o.a.stdout)
	}
	o.seen[r.Path] = true
	fields := []string{"path", r.Path, "kind", r.Kind, "stored as", r.Stored}
	for _, list := range []struct {
		name  string
		paths []string
	}{{"companion", r.Companions}, {"directory id", r.Directories}, {"journal", r.Journal}} {
		for _, p := range list.paths {
			fields = append(fields, list.name, p)
		}
	}
	if r.KeyTable != "" {
		fields = append(fields, "key table", r.KeyTable, "slot", fmt.Sprint(r.Slot))
	}
	return writeFields(o.a.stdout, append(fields, "config", r.Config)...)
}

func (o *locateOutput) finish() error {
	if o.l.out.json {
		return writeJSON(o.a.stdout, o.all)
	}
	return nil
}

// line prints text with a NUL behind it, as it is, or as a line.
func (a *app) line(text string, null bool) error {
	if null {
		_, err := a.stdout.Write(append([]byte(text), 0))
		return err
	}
	b := []byte(text)
	for i, c := range b {
		if c < ' ' || c == 0x7f { // a name may hold what a terminal would act on
			b[i] = '?'
		}
	}
	_, err := a.stdout.Write(append(b, '\n'))
	return err
}
