package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/mirror"
	"kmsfs/fs/vault/tree"
)

// copying is one kmsfs cp.
type copying struct {
	a *app
	s syncFlags
	o mirror.Options
	m *meter

	srcs   []place
	dest   place
	rename string // what the copy is called; "" for its own name
}

// cpCommand is kmsfs cp.
func (a *app) cpCommand() *cobra.Command {
	c := &copying{a: a}
	cmd := &cobra.Command{
		Use:   "cp SRC... DEST",
		Short: "Copy files and directories out of a vault, or into it, without a mount",
		Long: `Copy files and directories, with all below them, out of a vault or into it: VAULT:PATH names something in a vault, anything else
is a path. If DEST is a directory the copies are made in it, under their names; else there is one SRC, and DEST is what its copy
is called. Owners (for root), modes, times, extended attributes and holes are copied. Of directories, files that are there with the
same size and time are left alone. A vault that is written to must not be mounted.`,
		Example: `  kmsfs cp ~/vault:letter.txt ~/vault:projects /tmp/restored
  kmsfs cp report.pdf ~/vault:projects/`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return hintf(faultf(errUsage, "SRC or DEST is missing"), "%s", cmd.UseLine())
			}
			return c.run(cmd.Context(), args[:len(args)-1], args[len(args)-1])
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&c.s.verbose, "verbose", "v", false, "print what is copied")
	c.s.addOverrides(f)
	return cmd
}

// run copies srcs to dest.
func (c *copying) run(ctx context.Context, srcs []string, dest string) error {
	c.dest = parsePlace(dest)
	c.s.noDelete = true
	var err error
	if c.o, err = c.s.options(c.dest); err != nil {
		return err
	}
	for _, src := range srcs {
		p := parsePlace(src)
		switch {
		case p.vault == "" && c.dest.vault == "":
			return hintf(faultf(errUsage, "neither %s nor %s is in a vault", src, dest), "kmsfs cp VAULT:PATH DEST")
		case len(c.srcs) > 0 && p.vault != c.srcs[0].vault:
			return hintf(faultf(errUsage, "%s and %s are not of one vault", c.srcs[0].arg, src), "copy them one after the other")
		}
		if err := checkCopy(p, c.dest); err != nil {
			return err
		}
		c.srcs = append(c.srcs, p)
	}
	c.m = c.a.newMeter()
	defer c.m.end()
	if c.dest.vault != "" {
		return c.a.at(ctx, &c.s.storeFlags, place{arg: dest, vault: c.dest.vault}, vault.ReadWrite, func(root backing.Dir) error { return c.into(ctx, root) })
	}
	dir := c.dest.path
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		dir, c.rename = filepath.Split(filepath.Clean(dir))
		dir = filepath.Clean(dir)
	}
	return c.a.at(ctx, &c.s.storeFlags, place{arg: dest, path: dir}, vault.ReadWrite, func(d backing.Dir) error { return c.from(ctx, d) })
}

// checkCopy refuses a copy into itself, which has no end, and plaintext among the files of the vault that it is from.
func checkCopy(from, to place) error {
	overlap := hintf(faultf(errOverlap, "%s and %s are inside one another", from.arg, to.arg), "name a place outside of it")
	dir := from.vault
	if dir == "" {
		dir = from.path
	}
	src, err := resolve(dir)
	if err != nil {
		return err
	}
	if to.vault == "" {
		target := to.path
		if st, err := os.Stat(target); err == nil && st.IsDir() {
			target = filepath.Join(target, path.Base(path.Clean("/"+from.path)))
		}
		if target, err = resolve(target); err == nil && (inside(target, src) || inside(src, target)) {
			err = overlap
		}
		return err
	}
	dest, err := resolve(to.vault)
	switch {
	case err != nil:
		return err
	case from.vault == "" && inside(dest, src):
		return overlap
	case from.vault == "" || dest != src:
		return nil
	}
	if below(path.Clean("/"+to.path), path.Clean("/"+from.path)) {
		return overlap
	}
	return nil
}

// below says whether a clean path is another or is below it.
func below(p, dir string) bool { return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/") }

// into finds the destination in a vault.
func (c *copying) into(ctx context.Context, root backing.Dir) error {
	parts, err := tree.Split(c.dest.path)
	if err != nil {
		return notFound(err, c.dest.vault, c.dest.path)
	}
	d, err := tree.OpenDir(root, parts...)
	if err != nil && len(parts) > 0 && !strings.HasSuffix(c.dest.path, "/") {
		c.rename = parts[len(parts)-1]
		d, err = tree.OpenDir(root, parts[:len(parts)-1]...)
	}
	if err != nil {
		return notFound(err, c.dest.vault, c.dest.path)
	}
	defer d.Close()
	return c.from(ctx, d)
}

// from opens what is copied, and copies it into d.
func (c *copying) from(ctx context.Context, d backing.Dir) error {
	if c.rename != "" && (len(c.srcs) > 1 || strings.HasSuffix(c.dest.arg, "/")) {
		return hintf(faultf(errUsage, "%s is no directory", c.dest.arg), "make the directory, or name one SRC")
	}
	if v := c.srcs[0].vault; v != "" {
		return c.a.withPlain(ctx, &c.s.storeFlags, v, vault.ReadOnly, func(o *openedVault, root backing.Dir) error {
			for _, p := range c.srcs {
				at, err := find(o, root, p.path)
				if err != nil {
					return err
				}
				err = c.one(ctx, at, d)
				at.Dir.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", p.arg, err)
				}
			}
			return nil
		})
	}
	for _, p := range c.srcs {
		abs, err := filepath.Abs(p.path)
		if err != nil {
			return err
		}
		parent, err := backing.OpenDir(filepath.Dir(abs))
		if err != nil {
			return fmt.Errorf("%s: %w", p.arg, err)
		}
		at, err := tree.Find(parent, path.Base(abs))
		parent.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", p.arg, err)
		}
		err = c.one(ctx, at, d)
		at.Dir.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", p.arg, err)
		}
	}
	return nil
}

// one copies one object into d.
func (c *copying) one(ctx context.Context, at tree.At, d backing.Dir) error {
	name := c.rename
	if name == "" {
		name = at.Name
	}
	if !tree.IsDir(&at.Stat) {
		c.o.Progress = c.m.add
		_, err := mirror.Object(ctx, at, d, name, c.o)
		if err == nil && c.s.verbose {
			fmt.Fprintf(c.a.stdout, "+ %s\n", plainName(c.a.stdout, name))
		}
		return err
	}
	src, err := at.OpenDir()
	if err != nil {
		return err
	}
	defer src.Close()
	if name == "" { // all of a vault, into a directory
		return c.a.mirror(ctx, &c.s, c.o, c.m, src, d)
	}
	if err := d.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	sub, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	return c.a.mirror(ctx, &c.s, c.o, c.m, src, sub)
}
