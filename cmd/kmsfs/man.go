package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand is kmsfs man.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages",
		Long:    "Write the manual pages of kmsfs, made from the same source as the help, into DIR: kmsfs.1, kmsfs-mount.1, ..., mount.kmsfs.8.",
		Example: "  sudo kmsfs man /usr/local/share/man",
		Args:    args("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for name, page := range manPages(cmd.Root()) {
				dir := filepath.Join(args[0], "man"+name[len(name)-1:])
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(page), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manPages are all pages by file name.
func manPages(root *cobra.Command) map[string]string {
	pages := map[string]string{helperName + ".8": helperPage()}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.IsAdditionalHelpTopicCommand() {
			return
		}
		pages[manName(cmd)+".1"] = manPage(cmd)
		for _, sub := range cmd.Commands() {
			if cmd.Name() != "completion" { // cobra's own, one for each shell
				walk(sub)
			}
		}
	}
	walk(root)
	return pages
}

// manName is the name of a command's page.
func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is the page of one command.
func manPage(cmd *cobra.Command) string {
	r := newRoff(manName(cmd), "1")
	r.section("NAME")
	r.line(manName(cmd) + " - " + lowerFirst(cmd.Short))
	r.section("SYNOPSIS")
	r.line(useLine(cmd))
	r.section("DESCRIPTION")
	r.text(cmd.Long)
	subs := visible(cmd)
	if len(subs) > 0 {
		r.section("VERBS")
		for _, sub := range subs {
			r.item(sub.Name(), sub.Short+".")
		}
	}
	for _, set := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"OPTIONS", cmd.NonInheritedFlags()}, {"OPTIONS OF ALL VERBS", cmd.InheritedFlags()}} {
		if set.flags.HasAvailableFlags() {
			r.section(set.title)
			set.flags.VisitAll(func(f *pflag.Flag) { r.flag(f) })
		}
	}
	if cmd.Example != "" {
		r.section("EXAMPLES")
		r.verbatim(cmd.Example)
	}
	if cmd.Name() == "mount" || !cmd.HasParent() {
		r.section("EXIT STATUS")
		r.exitCodes(func(e exit) int { return e.code })
	}
	if cmd.Name() == "mount" {
		r.section("MOUNT OPTIONS")
		r.mountOptions()
	}
	r.section("SEE ALSO")
	r.line(strings.Join(related(cmd, subs), ", "))
	return r.String()
}

// visible are the sub-commands that the help shows.
func visible(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			out = append(out, sub)
		}
	}
	return out
}

// related names the pages around a command's.
func related(cmd *cobra.Command, subs []*cobra.Command) []string {
	var out []string
	if cmd.HasParent() {
		out = append(out, manName(cmd.Parent())+"(1)")
	}
	for _, sub := range subs {
		if cmd.Name() != "completion" {
			out = append(out, manName(sub)+"(1)")
		}
	}
	return append(out, helperName+"(8)")
}

// flag writes one flag.
func (r *roff) flag(f *pflag.Flag) {
	if f.Hidden {
		return
	}
	tag, usage := flagText(f)
	r.item(strings.TrimSpace(tag), usage)
}

// exitCodes writes the table, with one of its two codes.
func (r *roff) exitCodes(code func(exit) int) {
	when := map[int][]string{}
	for _, e := range exitTable() {
		when[code(e)] = append(when[code(e)], e.when)
	}
	codes := make([]int, 0, len(when))
	for c := range when {
		codes = append(codes, c)
	}
	sort.Ints(codes)
	for _, c := range codes {
		r.item(strconv.Itoa(c), strings.Join(when[c], "; "))
	}
}

// mountOptions writes what -o takes.
func (r *roff) mountOptions() {
	var does, ignored []string
	for name, apply := range optionTable() {
		name = strings.TrimSuffix(name, "=")
		if apply == nil {
			ignored = append(ignored, name)
		} else {
			does = append(does, strings.ReplaceAll(name, "-", "_"))
		}
	}
	sort.Strings(does)
	sort.Strings(ignored)
	ignored = slices.Compact(ignored)
	r.text("These do what the flag of the same name does, or what mount(8) says of them: " + strings.Join(does, ", ") + ".\n\n" +
		"These are for mount(8) and systemd(1), and ignored like x-... and X-...: " + strings.Join(ignored, ", ") + ".\n\n" +
		"nosuid and nodev are the default. A comma in a value stands after a backslash.")
}

// helperPage is mount.kmsfs(8).
func helperPage() string {
	r := newRoff(helperName, "8")
	r.section("NAME")
	r.line(helperName + " - mount a vault of kmsfs from fstab(5) or a systemd mount unit")
	r.section("SYNOPSIS")
	r.verbatim("mount -t kmsfs [-o OPTIONS] VAULT MOUNTPOINT\n" + helperName + " VAULT MOUNTPOINT [-sfnv] [-o OPTIONS]")
	r.section("DESCRIPTION")
	r.text(fmt.Sprintf(`mount(8) calls this helper for file systems of type kmsfs. It is kmsfs(1) under another name:

  ln -s "$(command -v kmsfs)" /sbin/%s

The flags are -o for options, -s to ignore unknown options, -f to check the command line without a mount; -n, -v and -t do nothing.`, helperName))
	r.section("OPTIONS")
	r.mountOptions()
	r.section("EXAMPLES")
	r.text(`A line of /etc/fstab, for all users, with a key store of its own:

  /srv/vault  /srv/plain  kmsfs  allow_other,keystore=/srv/keys,x-systemd.requires-mounts-for=/srv/keys,nofail  0  0

The same as /etc/systemd/system/srv-plain.mount:

  [Mount]
  What=/srv/vault
  Where=/srv/plain
  Type=kmsfs
  Options=allow_other,keystore=/srv/keys

  [Install]
  WantedBy=multi-user.target

A passphrase at boot comes from a program, such as one that asks a TPM: passphrase_from=command:/usr/local/sbin/unseal.`)
	r.section("EXIT STATUS")
	r.exitCodes(func(e exit) int { return e.mount })
	r.section("SEE ALSO")
	r.line("kmsfs(1), kmsfs-mount(1), mount(8), fstab(5), systemd.mount(5)")
	return r.String()
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
