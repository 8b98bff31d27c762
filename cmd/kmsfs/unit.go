package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unitCommand is kmsfs unit.
func (a *app) unitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unit VAULT MOUNTPOINT [-- FLAGS OF MOUNT]",
		Short: "Print a systemd service for a mount",
		Long: `Print a systemd service that mounts VAULT on MOUNTPOINT, with the given flags of kmsfs mount. It is ready once the mount answers,
is stopped by unmounting, and is begun anew where the daemon ends by itself, after what a dead one left has been taken away.
The watchdog kills a daemon that takes no more requests or whose vault does not answer for two minutes: take WatchdogSec out where
the vault lies on a network file system that may be away for longer.

The service runs as root; User= makes it another one's, who then needs fusermount3. It has none of the settings that would
give it a mount namespace of its own (ProtectSystem, PrivateTmp and the like): nobody else would see the mount. There is no
terminal: a passphrase comes from --passphrase-from.`,
		Example: `  kmsfs unit /srv/vault /srv/plain -- --allow-other | sudo tee /etc/systemd/system/kmsfs-plain.service
  sudo systemctl enable --now kmsfs-plain.service`,
		Args: func(cmd *cobra.Command, list []string) error {
			return args("VAULT", "MOUNTPOINT")(cmd, list[:min(2, len(list))])
		},
		RunE: func(_ *cobra.Command, list []string) error {
			text, err := a.mountUnit(list[0], list[1], list[2:])
			if err == nil {
				_, err = fmt.Fprint(a.stdout, text)
			}
			return err
		},
	}
}

// mountUnit is the text of a service that mounts vault on mountpoint. The flags are checked as mount checks them.
func (a *app) mountUnit(vault, mountpoint string, flags []string) (string, error) {
	var m mountFlags
	set := pflag.NewFlagSet("mount", pflag.ContinueOnError)
	m.add(set)
	if err := set.Parse(flags); err != nil {
		return "", hintf(faultf(errUsage, "%v", err), "kmsfs mount --help")
	}
	if set.NArg() > 0 {
		return "", hintf(faultf(errUsage, "%q is no flag of mount", set.Arg(0)), "kmsfs unit VAULT MOUNTPOINT -- FLAGS")
	}
	for _, list := range m.options {
		if err := m.parseOptions(list, unknownRefused); err != nil {
			return "", err
		}
	}
	p, err := m.finish(a, vault, mountpoint)
	if err != nil {
		return "", err
	}
	const program = "/usr/local/bin/kmsfs"
	start := []string{program, "mount", "--foreground"}
	for _, f := range flags {
		start = append(start, execWord(f))
	}
	start = append(start, execWord(p.Vault), execWord(p.Mountpoint))
	return fmt.Sprintf(`[Unit]
Description=kmsfs mount of %s
Documentation=man:kmsfs-mount(1)
RequiresMountsFor=%s %s
After=network-online.target

[Service]
Type=notify
ExecStart=%s
# What a daemon that was killed has left would be in the way of the next one.
ExecStopPost=-%s umount --lazy %s
Restart=on-failure
WatchdogSec=2min
TimeoutStopSec=2min
LimitCORE=0
LimitMEMLOCK=infinity
LimitNOFILE=65536
MemorySwapMax=0
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictNamespaces=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`, oneLine(strings.ReplaceAll(p.Vault, "%", "%%")), unitWord(p.Vault), unitWord(filepath.Dir(p.Mountpoint)),
		strings.Join(start, " "), program, execWord(p.Mountpoint)), nil
}

// execWord is one word of a command line in a unit, see "Command lines" in systemd.service(5).
func execWord(word string) string { return strings.ReplaceAll(unitWord(word), "$", "$$") }

// unitWord is one word of a line in a unit, see systemd.syntax(7).
func unitWord(word string) string {
	word = strings.ReplaceAll(word, "%", "%%")
	if word != "" && !strings.ContainsAny(word, " \t\n\\\"';") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(word) + `"`
}
