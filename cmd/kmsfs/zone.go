package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// xattrZone is the attribute of a directory on a mount that names the CMK of its encryption zone.
const xattrZone = "user.kmsfs.zone"

// zoneInfo is one zone in the output of zone list.
type zoneInfo struct {
	Path string `json:"path"`
	Key  string `json:"key"`
}

// zoneCommand is kmsfs zone.
func (a *app) zoneCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "zone",
		Short: "Encryption zones: directories with a CMK of their own",
		Long: `An encryption zone is a directory below which new files get their data keys from a CMK of its own. The nearest zone at or
above a file counts, when the first byte is written to it. Files that are there, or are moved in, keep their keys until kmsfs
rewrap gives them those of their zone; kmsfs status says how many are out of their zone.

The directory is one on a mount; its owner and root may set the zone. The zone of the root of a mount is that of the vault.`,
		Example: `  kmsfs zone set ~/plain/finance --key alias/finance
  kmsfs zone list ~/plain`,
	})
	cmd.AddCommand(a.zoneSetCommand(), a.zoneUnsetCommand(), a.zoneListCommand())
	return cmd
}

func (a *app) zoneSetCommand() *cobra.Command {
	key := ""
	cmd := &cobra.Command{
		Use: "set DIR --key KEY", Short: "Make a directory on a mount an encryption zone",
		Long:    "Make a directory on a mount an encryption zone: new files below it get data keys of the CMK.",
		Example: "  kmsfs zone set ~/plain/finance --key alias/finance",
		Args:    args("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			if key == "" {
				return hintf(faultf(errUsage, "--key is missing"), "kmsfs zone set %s --key alias/NAME", quote(args[0]))
			}
			dir, err := dirOnMount(args[0])
			if err != nil {
				return err
			}
			return zoneError(unix.Setxattr(dir, xattrZone, []byte(key), 0), dir, key)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "`CMK` of the zone: alias, ARN or id")
	return cmd
}

func (a *app) zoneUnsetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unset DIR", Short: "Make a directory an encryption zone no longer",
		Long: "Make a directory on a mount an encryption zone no longer. Files keep their keys until they are rewrapped.",
		Args: args("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := dirOnMount(args[0])
			if err != nil {
				return err
			}
			err = unix.Removexattr(dir, xattrZone)
			if errors.Is(err, syscall.ENODATA) {
				return hintf(faultf(errUsage, "%s is no encryption zone", dir), "kmsfs zone list %s", quote(filepath.Dir(dir)))
			}
			return zoneError(err, dir, "")
		},
	}
}

func (a *app) zoneListCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "list MOUNTPOINT", Short: "List the encryption zones at and below a directory on a mount",
		Long: `List the encryption zones at and below a directory on a mount, the vault's own first. kmsfs status lists those of a vault that
is not mounted, by stored path.`,
		Args: args("MOUNTPOINT"),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := dirOnMount(args[0])
			if err != nil {
				return err
			}
			list := []zoneInfo{}
			err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
				if err != nil || !e.IsDir() {
					return err
				}
				b := make([]byte, 2048)
				n, err := unix.Lgetxattr(path, xattrZone, b)
				if errors.Is(err, syscall.ENODATA) {
					return nil
				}
				if err == nil {
					list = append(list, zoneInfo{path, string(b[:n])})
				}
				return err
			})
			if err != nil {
				return err
			}
			if out.json {
				return writeJSON(a.stdout, list)
			}
			rows := make([][]string, 0, len(list))
			for _, z := range list {
				rows = append(rows, []string{z.Path, z.Key})
			}
			return writeTable(a.stdout, []string{"DIRECTORY", "KEY"}, rows)
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// dirOnMount is the full path of a directory on a mount of kmsfs.
func dirOnMount(path string) (string, error) {
	dir, err := resolve(path)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", faultf(errUsage, "%s is not a directory", dir)
	}
	if _, err := mountOver(dir); err != nil {
		return "", hintf(faultf(errNotKMSFS, "%s is not on a mount of kmsfs", dir), "kmsfs mount VAULT MOUNTPOINT, then name a directory below MOUNTPOINT")
	}
	return dir, nil
}

// mountOver finds the mount that a path is on.
func mountOver(path string) (mountEntry, error) {
	for {
		m, err := mountAt(path)
		if err == nil || path == "/" {
			return m, err
		}
		path = filepath.Dir(path)
	}
}

// zoneError says what the errno of a change of a zone means.
func zoneError(err error, dir, key string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOKEY):
		return hintf(faultf(errUsage, "the keysource of the mount has no CMK %s", key), "kmsfs key list")
	case errors.Is(err, syscall.EKEYREVOKED):
		return hintf(faultf(errUsage, "the CMK %s is disabled or being deleted", key), "kmsfs key enable %s", quote(key))
	case errors.Is(err, syscall.EINVAL) && key == "":
		return hintf(faultf(errUsage, "%s is the root of the mount: its zone is that of the vault", dir), "kmsfs zone set %s --key alias/NAME", quote(dir))
	case errors.Is(err, syscall.EINVAL):
		return hintf(faultf(errUsage, "%q is no alias, ARN or id of a CMK", key), "kmsfs key list")
	}
	return fmt.Errorf("%s: %w", dir, err)
}
