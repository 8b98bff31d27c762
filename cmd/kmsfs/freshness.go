package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/manifest"
)

// freshness is the file of --freshness: what a vault was like when the last mount ended, kept outside the vault by who mounts it.
type freshness struct {
	file string
	log  *slog.Logger
}

// mountedMark follows the name of the file while a mount that writes is there: without its end nobody knows what it has changed.
const mountedMark = ".mounted"

// errNotFresh: the vault is not what the last mount left.
var errNotFresh = errors.New("not as the last mount left it")

// freshnessCommand is kmsfs freshness.
func (a *app) freshnessCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "freshness",
		Short: "Tell whether a vault was put back to an earlier state",
		Long: `Who can write a vault can put back an older version of it, or of single files, and remove or exchange whole files: all of it is
authentic. A file outside the vault, on this machine, that says what the vault was like when the last mount here ended tells that.
kmsfs mount --freshness FILE looks before it mounts, and refuses; it writes FILE anew when it ends. It reads the index of every file
each time, a sixty-fourth of the data, and small files.

FILE is signed with a key that follows from the volume key. It counts for one machine: where others write to the vault, or other verbs do
without a mount (sync, import, cp, fsck --repair, reencrypt), or after a restore, accept what is there.`,
	})
	cmd.AddCommand(a.freshnessAcceptCommand(), a.freshnessCheckCommand())
	return cmd
}

// freshnessAcceptCommand is kmsfs freshness accept.
func (a *app) freshnessAcceptCommand() *cobra.Command {
	var s storeFlags
	cmd := &cobra.Command{
		Use:   "accept VAULT FILE",
		Short: "Take the vault as it is now for fresh",
		Long: `Write FILE, which says what the vault is like now: to begin with, and after a restore or a change that no mount with --freshness
made. What is not as FILE had it before is printed. The vault must not be mounted.`,
		Example: "  kmsfs freshness accept ~/vault ~/.local/state/vault.fresh && kmsfs mount --freshness ~/.local/state/vault.fresh ~/vault ~/plain",
		Args:    args("VAULT", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.freshness(cmd.Context(), &s, args[0], args[1], vault.ReadWrite)
		},
	}
	s.addOverrides(cmd.Flags())
	return cmd
}

// freshnessCheckCommand is kmsfs freshness check.
func (a *app) freshnessCheckCommand() *cobra.Command {
	var s storeFlags
	cmd := &cobra.Command{
		Use:     "check VAULT FILE",
		Short:   "Print what is not as the last mount left it",
		Long:    `Print what of a vault is not as FILE says, without a mount and without changing anything; exit code 34 if there is something.`,
		Example: "  kmsfs freshness check ~/vault ~/.local/state/vault.fresh",
		Args:    args("VAULT", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.freshness(cmd.Context(), &s, args[0], args[1], vault.ReadOnly)
		},
	}
	s.addOverrides(cmd.Flags())
	return cmd
}

// freshness prints the differences, and with access for writing takes them for right.
func (a *app) freshness(ctx context.Context, s *storeFlags, path, file string, access vault.Access) (err error) {
	o, err := a.openVault(ctx, s, path, access)
	if err != nil {
		return err
	}
	defer o.closeInto(&err)
	if access == vault.ReadWrite {
		if err := o.Flush(); err != nil {
			return err
		}
	}
	f := freshness{file, slog.New(slog.DiscardHandler)}
	diff, err := f.compare(ctx, o.Vault, o.plan.Vault)
	if errors.Is(err, iofs.ErrNotExist) && access == vault.ReadWrite {
		err = nil
	}
	if err != nil {
		return err
	}
	for _, d := range diff {
		if _, err := fmt.Fprintf(a.stdout, "%s: %s: %s\n", d.Change, shown(d.Path), oneLine(d.What)); err != nil {
			return err
		}
	}
	switch {
	case access == vault.ReadWrite:
		return f.write(ctx, o.Vault, o.plan.Vault)
	case len(diff) > 0:
		return notFresh(o.plan.Vault, file, len(diff))
	}
	return nil
}

// notFresh is the error for a vault that is not what it was.
func notFresh(vaultDir, file string, n int) error {
	return hintf(faultf(errNotFresh, "%d files or directories of %s are not as the last mount left them", n, vaultDir),
		"kmsfs freshness check %s %s names them; if that is right, after a restore: kmsfs freshness accept %s %s", quote(vaultDir), quote(file), quote(vaultDir), quote(file))
}

// outside refuses a file that is in the vault: who puts that back has it put back too.
func (f freshness) outside(dir string) error {
	up, err := resolve(filepath.Dir(f.file))
	if err != nil {
		return err
	}
	if inside(up, dir) {
		return hintf(faultf(errUsage, "--freshness: %s is in the vault", f.file), "name a file outside of %s", quote(dir))
	}
	return nil
}

// compare returns what is not as the file says.
func (f freshness) compare(ctx context.Context, v *vault.Vault, dir string) ([]manifest.Difference, error) {
	if err := f.outside(dir); err != nil {
		return nil, err
	}
	in, err := os.Open(f.file)
	if err != nil {
		return nil, hintf(faultf(err, "--freshness: %w", err), "kmsfs freshness accept %s %s makes it, of the vault as it is now", quote(dir), quote(f.file))
	}
	defer in.Close()
	m, err := manifest.Parse(in)
	if err == nil && m.Depth != manifest.Indexes {
		err = fmt.Errorf("%w: it is a manifest of contents", manifest.ErrMalformed)
	}
	if err == nil {
		err = m.Verify(v.ManifestSigner())
	}
	if err == nil && m.Head.VolumeID != v.Config().Volume.String() {
		err = fmt.Errorf("%w: it is of another vault", manifest.ErrSignature)
	}
	if err != nil {
		return nil, hintf(faultf(err, "%s: %w", f.file, err), "name the file of this vault; kmsfs freshness accept %s FILE makes one", quote(dir))
	}
	top, err := backing.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return m.Compare(ctx, top, nil)
}

// write writes the file anew. Nobody changes the vault meanwhile, and all of it is in place.
func (f freshness) write(ctx context.Context, v *vault.Vault, dir string) error {
	top, err := backing.OpenDir(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := writeFileAside(f.file, func(w io.Writer) error {
		_, err := manifest.Create(ctx, top, v, manifest.Indexes, time.Now(), w, nil)
		return err
	}); err != nil {
		return fmt.Errorf("%s: %w", f.file, err)
	}
	if err := os.Remove(f.file + mountedMark); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	return nil
}

// begin looks before a mount. Where the last one did not end, what was changed since the file was written, by its time of change, is
// taken for its work; what is older is not.
func (f freshness) begin(ctx context.Context, v *vault.Vault, dir string) error {
	diff, err := f.compare(ctx, v, dir)
	if err != nil {
		return err
	}
	_, err = os.Stat(f.file + mountedMark)
	crashed := err == nil
	refused, taken := 0, 0
	for _, d := range diff {
		if crashed && d.Change != manifest.Older && d.Change != manifest.Unread {
			taken++
			continue
		}
		refused++
	}
	if refused > 0 {
		return notFresh(dir, f.file, refused)
	}
	if taken > 0 {
		f.log.Warn("the last mount did not end: what was changed since it began is taken for its work", "objects", taken)
	}
	if v.ReadOnly() {
		return nil
	}
	return writeFileAside(f.file+mountedMark, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s\n", stamp(time.Now()))
		return err
	})
}

// end writes what the mount has left.
func (f freshness) end(v *vault.Vault, dir string) error {
	if v.ReadOnly() {
		return nil
	}
	if err := v.Flush(); err != nil {
		return err
	}
	return f.write(context.Background(), v, dir)
}
