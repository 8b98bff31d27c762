package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/tree"
)

// catCommand is kmsfs cat.
func (a *app) catCommand() *cobra.Command {
	var s storeFlags
	var bytes string
	cmd := &cobra.Command{
		Use:   "cat VAULT PATH...",
		Short: "Print files of a vault, without a mount",
		Long: `Write the content of files of a vault to standard output, without a mount, or with --range a part of it, for which no more is
read than is needed. What does not open ends the output there, with an error. PATH is from the root of the vault. Nothing is written to the
vault: it may be on read-only media, and of a backup the one file, its key table, the .kmsfs.dir of the directories above it and .kmsfs/vault.json
are enough (kmsfs locate names them).`,
		Example: `  kmsfs cat ~/vault letter.txt
  kmsfs cat --range 1000000-1999999 ~/vault disk.img | xxd | less
  kmsfs cat --range -512 ~/vault disk.img`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsVault(cmd, args); err != nil {
				return err
			}
			if len(args) < 2 {
				return hintf(faultf(errUsage, "PATH is missing"), "%s", cmd.UseLine())
			}
			r, err := parseRange(bytes)
			if err != nil {
				return err
			}
			return a.withPlain(cmd.Context(), &s, args[0], vault.ReadOnly, func(o *openedVault, root backing.Dir) error {
				for _, path := range args[1:] {
					if err := a.cat(cmd.Context(), o, root, path, r); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&bytes, "range", "", "only the bytes `FROM-TO`, counted from 0, both included; FROM- for all from there, -N for the last N")
	s.addOverrides(f)
	return cmd
}

// byteRange is a part of a file.
type byteRange struct {
	from, to int64 // both included; to < 0: to the end
	last     int64 // the last so many, where not 0
}

// parseRange reads FROM-TO.
func parseRange(s string) (byteRange, error) {
	r := byteRange{to: -1}
	if s == "" {
		return r, nil
	}
	bad := hintf(faultf(errUsage, "--range: %q is no range", s), "--range 0-99, --range 100- or --range -100")
	from, to, ok := strings.Cut(s, "-")
	number := func(s string, n *int64) bool {
		v, err := strconv.ParseInt(s, 10, 64)
		*n = v
		return err == nil && v >= 0 && s[0] != '+'
	}
	switch {
	case !ok, from == "" && to == "":
		return r, bad
	case from == "":
		if !number(to, &r.last) || r.last == 0 {
			return r, bad
		}
	case !number(from, &r.from), to != "" && (!number(to, &r.to) || r.to < r.from):
		return r, bad
	}
	return r, nil
}

// extent is the part of a file of size bytes.
func (r byteRange) extent(size int64) tree.Extent {
	from, end := min(r.from, size), size
	if r.last > 0 {
		from = max(size-r.last, 0)
	} else if r.to >= 0 {
		end = min(r.to, size-1) + 1
	}
	return tree.Extent{Off: from, Len: max(end-from, 0)}
}

// cat prints one file.
func (a *app) cat(ctx context.Context, o *openedVault, root backing.Dir, path string, r byteRange) error {
	at, err := find(o, root, path)
	if err != nil {
		return err
	}
	defer at.Dir.Close()
	if !tree.IsFile(&at.Stat) {
		return hintf(faultf(errUsage, "%s is no file: %s", path, typeName(at.Stat.Mode)), "kmsfs ls %s %s", quote(o.plan.Vault), quote(path))
	}
	f, st, err := at.Dir.OpenStat(at.Name, unix.O_RDONLY, 0)
	if err != nil {
		return notFound(err, o.plan.Vault, path)
	}
	defer f.Close()
	var c tree.Copier
	if err := c.Stream(ctx, a.stdout, f, r.extent(st.Size)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// statInfo is an object in the output of stat.
type statInfo struct {
	objectInfo
	CTime  string            `json:"ctime"`
	Inode  uint64            `json:"inode"`
	Blocks int64             `json:"blocks"`
	Xattrs map[string]string `json:"xattrs,omitempty"`
	FileID string            `json:"file_id,omitempty"`
	CMK    string            `json:"cmk,omitempty"`
	Key    string            `json:"key_material_id,omitempty"`
	Made   string            `json:"key_created,omitempty"`
}

// statCommand is kmsfs stat.
func (a *app) statCommand() *cobra.Command {
	var s storeFlags
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "stat VAULT PATH...",
		Short: "Show what is known of files of a vault, without a mount",
		Long: `Show type, size, mode, owner, times and extended attributes of objects in a vault, and which CMK and key material wrap the
data key of a file. Nothing is written to the vault.`,
		Example: "  kmsfs stat ~/vault letter.txt",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsVault(cmd, args); err != nil {
				return err
			}
			return a.withPlain(cmd.Context(), &s, args[0], vault.ReadOnly, func(o *openedVault, root backing.Dir) error {
				all := []statInfo{}
				for _, path := range orRoot(args[1:]) {
					info, err := statOne(o, root, path)
					if err != nil {
						return err
					}
					all = append(all, info)
				}
				if out.json {
					return writeJSON(a.stdout, all)
				}
				return a.writeStats(all)
			})
		},
	}
	out.add(cmd.Flags())
	s.addOverrides(cmd.Flags())
	return cmd
}

// statOne describes one object.
func statOne(o *openedVault, root backing.Dir, path string) (info statInfo, err error) {
	at, err := find(o, root, path)
	if err != nil {
		return info, err
	}
	defer at.Dir.Close()
	if info.objectInfo, err = newObjectInfo(at, path); err != nil {
		return info, err
	}
	info.CTime, info.Inode, info.Blocks = moment(at.Stat.Ctim), at.Stat.Ino, at.Stat.Blocks
	object := tree.Object(at.Dir)
	if at.Name != "" {
		object = tree.Named(at.Dir, at.Name)
	}
	x, err := tree.ReadXattrs(object)
	if err != nil {
		return info, err
	}
	for name, value := range x {
		if info.Xattrs == nil {
			info.Xattrs = map[string]string{}
		}
		info.Xattrs[name] = strconv.Quote(string(value))
	}
	if !tree.IsFile(&at.Stat) {
		return info, nil
	}
	buf := make([]byte, 16<<10)
	for _, f := range []struct {
		name string
		to   *string
	}{{"file-id", &info.FileID}, {"cmk", &info.CMK}, {"key-material-id", &info.Key}, {"created", &info.Made}} {
		n, err := object.Getxattr("user.kmsfs."+f.name, buf)
		if err == nil {
			*f.to = string(buf[:n])
		}
	}
	return info, nil
}

// writeStats prints them for people.
func (a *app) writeStats(all []statInfo) error {
	for i, s := range all {
		if i > 0 {
			if _, err := io.WriteString(a.stdout, "\n"); err != nil {
				return err
			}
		}
		path := s.Path
		if path == "" {
			path = "/"
		}
		fields := []string{"path", path, "type", s.Type, "target", s.Target, "size", strconv.FormatInt(s.Size, 10), "mode", s.Mode,
			"owner", strconv.Itoa(int(s.UID)), "group", strconv.Itoa(int(s.GID)), "links", strconv.Itoa(int(s.Links)), "inode", strconv.FormatUint(s.Inode, 10),
			"changed", s.MTime, "status changed", s.CTime, "file id", s.FileID, "cmk", s.CMK, "key material id", s.Key, "key created", s.Made}
		for _, name := range slices.Sorted(maps.Keys(s.Xattrs)) {
			fields = append(fields, "attribute "+name, s.Xattrs[name])
		}
		if err := writeFields(a.stdout, fields...); err != nil {
			return err
		}
	}
	return nil
}
