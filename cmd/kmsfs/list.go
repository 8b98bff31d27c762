package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/tree"
)

// listFlags are the flags of ls and find.
type listFlags struct {
	storeFlags
	out     outputFlags
	null    bool
	long    bool
	recurse bool
}

// objectInfo is one object in the output of ls, find and stat.
type objectInfo struct {
	Path   string `json:"path"`
	Type   string `json:"type"`
	Size   int64  `json:"size"`
	Mode   string `json:"mode"`
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Links  uint32 `json:"links"`
	MTime  string `json:"mtime"`
	Target string `json:"target,omitempty"`
}

// newObjectInfo describes name in d, or d itself.
func newObjectInfo(at tree.At, path string) (objectInfo, error) {
	st := &at.Stat
	o := objectInfo{Path: path, Type: typeName(st.Mode), Size: st.Size, Mode: fmt.Sprintf("%04o", st.Mode&0o7777), UID: st.UID, GID: st.GID,
		Links: st.Nlink, MTime: moment(st.Mtim)}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		o.Target, err = at.Dir.Readlink(at.Name)
	}
	return o, err
}

// moment is a time of a file, to the nanosecond.
func moment(t backing.Timespec) string { return t.Time().UTC().Format(time.RFC3339Nano) }

// typeName is the type of an object in words.
func typeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return "unknown"
}

// lsCommand is kmsfs ls.
func (a *app) lsCommand() *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:   "ls VAULT [PATH...]",
		Short: "List what is in a vault, without a mount",
		Long: `List directories of a vault, without a mount. PATH is from the root of the vault; without one the root is listed. A vault that
is mounted is flushed first, and may be written to meanwhile. Nothing is written to the vault: it may be on read-only media, a
backup or a snapshot. Symbolic links are not followed.`,
		Example: `  kmsfs ls ~/vault
  kmsfs ls -l -R ~/vault projects`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsVault(cmd, args); err != nil {
				return err
			}
			return a.withPlain(cmd.Context(), &l.storeFlags, args[0], vault.ReadOnly, func(o *openedVault, root backing.Dir) error {
				return a.list(&l, o, root, orRoot(args[1:]))
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&l.long, "long", "l", false, "mode, links, owner, group, size and time too")
	f.BoolVarP(&l.recurse, "recursive", "R", false, "and all directories below")
	f.BoolVarP(&l.null, "null", "0", false, "end each name with a zero byte; names are then as they are")
	l.out.add(f)
	l.addOverrides(f)
	return cmd
}

// needsVault checks the first argument of verbs of any number.
func needsVault(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || args[0] == "" {
		return hintf(faultf(errUsage, "VAULT is missing"), "%s", cmd.UseLine())
	}
	return nil
}

// orRoot is the root where no path is given.
func orRoot(paths []string) []string {
	if len(paths) == 0 {
		return []string{""}
	}
	return paths
}

// list lists paths.
func (a *app) list(l *listFlags, o *openedVault, root backing.Dir, paths []string) error {
	all := []objectInfo{}
	show := func(at tree.At, path string) error {
		info, err := newObjectInfo(at, path)
		if err != nil {
			return err
		}
		if l.out.json {
			all = append(all, info)
			return nil
		}
		return a.listLine(l, info)
	}
	if err := walk(o, root, paths, func(at tree.At, path string, depth int) (bool, error) {
		if depth == 0 && tree.IsDir(&at.Stat) {
			return true, nil
		}
		return l.recurse, show(at, path)
	}); err != nil {
		return err
	}
	if l.out.json {
		return writeJSON(a.stdout, all)
	}
	return nil
}

// walk calls f for each of paths in a vault, and for what is below directories for which it returns true, in the order of names, with
// the path from the root and how far it is below. What is gone meanwhile is passed over.
func walk(o *openedVault, root backing.Dir, paths []string, f func(at tree.At, path string, depth int) (bool, error)) error {
	for _, path := range paths {
		in := inVault(o, path)
		at, err := tree.Find(root, in)
		if err != nil {
			return notFound(err, o.plan.Vault, path)
		}
		parts, _ := tree.Split(in) // as it was found
		err = walkFrom(at, strings.Join(parts, "/"), 0, f)
		at.Dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func walkFrom(at tree.At, path string, depth int, f func(at tree.At, path string, depth int) (bool, error)) error {
	enter, err := f(at, path, depth)
	if err != nil || !enter || !tree.IsDir(&at.Stat) {
		return err
	}
	d, err := at.OpenDir()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer d.Close()
	names, listed := tree.List(d)
	for _, name := range names {
		p := tree.Join(path, name)
		st, err := d.StatAt(name)
		if errors.Is(err, syscall.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if err := walkFrom(tree.At{Dir: d, Name: name, Stat: st}, p, depth+1, f); err != nil {
			return err
		}
	}
	if listed != nil { // after what can be seen
		return fmt.Errorf("%s: %w", cmp.Or(path, "/"), listed)
	}
	return nil
}

// listLine prints one object.
func (a *app) listLine(l *listFlags, o objectInfo) error {
	name := o.Path
	if !l.recurse {
		name = path.Base(name)
	}
	end := "\n"
	if l.null {
		end = "\x00"
	} else if name = plainName(a.stdout, name); o.Target != "" && l.long {
		name += " -> " + plainName(a.stdout, o.Target)
	}
	if l.long {
		_, err := fmt.Fprintf(a.stdout, "%s%s %3d %5d %5d %12d %s %s%s", typeLetter(o.Type), o.Mode, o.Links, o.UID, o.GID, o.Size, o.MTime, name, end)
		return err
	}
	_, err := io.WriteString(a.stdout, name+end)
	return err
}

// typeLetter is the type as ls(1) has it.
func typeLetter(typ string) string {
	if letter := map[string]string{"directory": "d", "symlink": "l", "fifo": "p", "socket": "s", "character device": "c", "block device": "b"}[typ]; letter != "" {
		return letter
	}
	return "-"
}

// plainName is a name without bytes that a terminal would act on, where w is one.
func plainName(w io.Writer, name string) string {
	if _, ok := terminal(w); !ok {
		return name
	}
	return oneLine(name)
}

// findFlags are the flags of find.
type findFlags struct {
	listFlags
	name, path, kind string
	size, newer      string
	depth            int
}

// findCommand is kmsfs find.
func (a *app) findCommand() *cobra.Command {
	var l findFlags
	cmd := &cobra.Command{
		Use:   "find VAULT [PATH...]",
		Short: "Find files in a vault, without a mount",
		Long: `Print the paths, from the root of the vault, of what is at and below PATH and has all the properties that are asked for. Nothing is
written to the vault.`,
		Example: `  kmsfs find ~/vault --name '*.pdf' --size +1M
  kmsfs find ~/vault projects --type file --newer 2026-01-02 -0 | xargs -0 kmsfs cat ~/vault`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsVault(cmd, args); err != nil {
				return err
			}
			match, err := l.matcher()
			if err != nil {
				return err
			}
			return a.withPlain(cmd.Context(), &l.storeFlags, args[0], vault.ReadOnly, func(o *openedVault, root backing.Dir) error {
				return a.find(&l, match, o, root, orRoot(args[1:]))
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&l.name, "name", "", "whose name matches `GLOB`, as *.txt")
	f.StringVar(&l.path, "path", "", "whose path from the root matches `GLOB`; * is no slash")
	f.StringVar(&l.kind, "type", "", "of `TYPE` file, directory, symlink, fifo, socket, character or block, or its first letter (l: symlink)")
	f.StringVar(&l.size, "size", "", "of more (+) or fewer (-) than `N` bytes, or exactly; k, M and G are 1024 times more each")
	f.StringVar(&l.newer, "newer", "", "changed after `TIME`: 2026-01-02, 2026-01-02T03:04:05Z, or 24h ago")
	f.IntVar(&l.depth, "max-depth", -1, "at most `N` directories below PATH")
	f.BoolVarP(&l.null, "null", "0", false, "end each path with a zero byte")
	l.out.add(f)
	l.addOverrides(f)
	return cmd
}

// matcher is what find looks for.
func (l *findFlags) matcher() (func(at tree.At, p string) bool, error) {
	var tests []func(at tree.At, p string) bool
	for _, glob := range []string{l.name, l.path} {
		if _, err := path.Match(glob, ""); err != nil {
			return nil, hintf(faultf(errUsage, "%q is no pattern", glob), "* is any text, ? any character, [a-z] one of these")
		}
	}
	if l.name != "" {
		tests = append(tests, func(at tree.At, _ string) bool { ok, _ := path.Match(l.name, at.Name); return ok })
	}
	if l.path != "" {
		glob := strings.TrimPrefix(l.path, "/")
		tests = append(tests, func(_ tree.At, p string) bool { ok, _ := path.Match(glob, p); return ok })
	}
	if l.kind != "" {
		kind, ok := map[string]uint32{"f": unix.S_IFREG, "file": unix.S_IFREG, "d": unix.S_IFDIR, "directory": unix.S_IFDIR, "l": unix.S_IFLNK,
			"symlink": unix.S_IFLNK, "p": unix.S_IFIFO, "fifo": unix.S_IFIFO, "s": unix.S_IFSOCK, "socket": unix.S_IFSOCK,
			"c": unix.S_IFCHR, "character": unix.S_IFCHR, "b": unix.S_IFBLK, "block": unix.S_IFBLK}[l.kind]
		if !ok {
			return nil, hintf(faultf(errUsage, "--type: %q is none", l.kind), "--type file")
		}
		tests = append(tests, func(at tree.At, _ string) bool { return at.Stat.Mode&unix.S_IFMT == kind })
	}
	if l.size != "" {
		order, n, err := parseSize(l.size)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(at tree.At, _ string) bool {
			return tree.IsFile(&at.Stat) && (order == '+' && at.Stat.Size > n || order == '-' && at.Stat.Size < n || order == '=' && at.Stat.Size == n)
		})
	}
	if l.newer != "" {
		t, err := parseMoment(l.newer, time.Now())
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(at tree.At, _ string) bool { return at.Stat.Mtim.Time().After(t) })
	}
	return func(at tree.At, p string) bool {
		for _, test := range tests {
			if !test(at, p) {
				return false
			}
		}
		return true
	}, nil
}

// parseSize reads +10M.
func parseSize(s string) (order byte, n int64, err error) {
	bad := hintf(faultf(errUsage, "--size: %q is no size", s), "--size +10M")
	order = '='
	digits := s
	if digits != "" && (digits[0] == '+' || digits[0] == '-') {
		order, digits = digits[0], digits[1:]
	}
	shift := 0
	if digits != "" {
		if i := strings.IndexByte("kMGT", digits[len(digits)-1]); i >= 0 {
			shift, digits = 10*(i+1), digits[:len(digits)-1]
		}
	}
	n, e := strconv.ParseInt(digits, 10, 64)
	if e != nil || n < 0 || n > 1<<62>>shift {
		return 0, 0, bad
	}
	return order, n << shift, nil
}

// parseMoment reads a time, a date, or how long ago.
func parseMoment(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(strings.TrimSuffix(s, " ago")); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, hintf(faultf(errUsage, "%q is no time", s), "2026-01-02, 2026-01-02T03:04:05Z, or 24h")
}

// find prints what matches.
func (a *app) find(l *findFlags, match func(tree.At, string) bool, o *openedVault, root backing.Dir, paths []string) error {
	all := []objectInfo{}
	end := "\n"
	if l.null {
		end = "\x00"
	}
	if err := walk(o, root, paths, func(at tree.At, path string, depth int) (bool, error) {
		enter := l.depth < 0 || depth < l.depth
		if path == "" || !match(at, path) {
			return enter, nil
		}
		if l.out.json {
			info, err := newObjectInfo(at, path)
			all = append(all, info)
			return enter, err
		}
		if !l.null {
			path = plainName(a.stdout, path)
		}
		_, err := io.WriteString(a.stdout, path+end)
		return enter, err
	}); err != nil {
		return err
	}
	if l.out.json {
		return writeJSON(a.stdout, all)
	}
	return nil
}
