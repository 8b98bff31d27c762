package main

import (
	"context"

	"github.com/spf13/cobra"
)

// mountCommand is kmsfs mount.
func (a *app) mountCommand() *cobra.Command {
	var m mountFlags
	cmd := &cobra.Command{
		Use:   "mount VAULT MOUNTPOINT",
		Short: "Show a vault as an ordinary directory",
		Long: `Show a vault as an ordinary directory on MOUNTPOINT, an empty directory. kmsfs goes to the background once the mount
answers; an error before that is reported here, with its exit code (kmsfs help exit-codes).

The key store is the one that the vault names; --key-store names it where it moved. A new vault (--init) without
--key-store uses /var/lib/kmsfs for root, else $XDG_DATA_HOME/kmsfs or ~/.local/share/kmsfs. A passphrase is asked for on the
terminal unless --passphrase-from says where it comes from.

The daemon ends when the mount is unmounted, by kmsfs umount or umount(8). SIGTERM or SIGINT, in the foreground SIGHUP too, unmount it: while it is busy
for up to 5 seconds, then it is detached and served until nobody uses it; a second signal ends it at once. Without
--log-file its log ends when it goes to the background, except that the log stays in the journal under systemd.

With --reverse it is the other way round: VAULT is a plain directory, and MOUNTPOINT shows it encrypted and read-only, the same
bytes each time, for backup tools that walk a tree themselves. A copy of all that is shown, .kmsfs included, is a vault. Its
vault.json and its data keys are kept in VAULT/.kmsfs.reverse, or in --state DIR, which is made with --init: who loses them gets
a new vault, of which everything is to be copied again. Let a backup read a snapshot (--state DIR keeps the same state): of a file
that is written to while it is read the copy may be old in one part and new in another.


With --foreground it is a service of Type=notify, which pings the watchdog of systemd as long as the mount answers; kmsfs unit
prints one. The memory of the daemon is locked where the limit RLIMIT_MEMLOCK is infinite or can be made so, as for root; it
dumps no core and cannot be traced.`,
		Example: `  kmsfs mount --init ~/vault ~/plain
  kmsfs mount --foreground --debug ~/vault ~/plain
  sudo kmsfs mount --allow-other --key-store /srv/keys /srv/vault /srv/plain
  kmsfs mount --reverse --init ~/documents ~/sealed && restic backup ~/sealed`,
		Args: args("VAULT", "MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, list := range m.options {
				if err := m.parseOptions(list, unknownRefused); err != nil {
					return err
				}
			}
			return a.mount(cmd.Context(), &m, args[0], args[1])
		},
	}
	m.add(cmd.Flags())
	return cmd
}

// mount mounts in the foreground or the background.
func (a *app) mount(ctx context.Context, m *mountFlags, vaultDir, mountpoint string) error {
	p, err := m.finish(a, vaultDir, mountpoint)
	if err != nil {
		return err
	}
	secret, _, err := m.source(a)
	if err != nil {
		return err
	}
	secret, forget := remembered(secret)
	defer forget()
	if !m.foreground {
		return a.background(ctx, p, secret)
	}
	log, file, err := openLog(a.stderr, p)
	if err != nil {
		return err
	}
	if file != nil {
		defer file.Close()
	}
	return a.serve(p, secret, log, func() error { forget(); return nil })
}
