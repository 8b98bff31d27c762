package main

import (
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
)

// vaultInfo is a vault in the output of info.
type vaultInfo struct {
	Vault string `json:"vault"`
	configInfo
	Wrappings []wrappingInfo `json:"wrappings"`
}

// wrappingInfo is the volume key as one CMK wrapped it.
type wrappingInfo struct {
	CMK            string `json:"cmk"`
	KeyMaterialID  string `json:"key_material_id"`
	ContextVersion int    `json:"context_version"`
	WrappedKey     string `json:"wrapped_key"`
}

// fileInfo is the record of a file's data key in the output of info.
type fileInfo struct {
	File          string `json:"file"`
	FileID        string `json:"file_id"`
	CMK           string `json:"cmk"`
	KeyMaterialID string `json:"key_material_id"`
	WrappedKey    string `json:"wrapped_key"`
	Created       string `json:"created"`
}

// infoCommand is kmsfs info.
func (a *app) infoCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "info VAULT|FILE",
		Short: "Show which CMK a vault or a file on a mount uses",
		Long: `Show the config of a vault and the wrappings of its volume key, or the record of the data key of a file on a mount:
CMK, key material, wrapped key. No key is needed for a vault, and none is shown.`,
		Example: `  kmsfs info ~/vault
  kmsfs info --json ~/plain/letter.txt`,
		Args: args("VAULT|FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.info(out, args[0]) },
	}
	out.add(cmd.Flags())
	return cmd
}

// info describes the vault or file at path.
func (a *app) info(out outputFlags, path string) error {
	target, err := resolve(path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(target, &st); err != nil {
		return hintf(faultf(err, "%s: %v", target, err), "name a vault or a file on a mount")
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		cfg, err := readConfig(target)
		if err == nil {
			return a.infoVault(out, target, cfg)
		}
		if !errors.Is(err, vault.ErrNotVault) {
			return explain(err, mountPlan{Vault: target})
		}
	}
	mounts, err := kmsfsMounts()
	if err != nil {
		return err
	}
	m, on := onMount(target, mounts)
	switch {
	case on && target == m.Mountpoint && holdsVault(m.Vault):
		cfg, err := readConfig(m.Vault)
		if err != nil {
			return explain(err, mountPlan{Vault: m.Vault})
		}
		return a.infoVault(out, m.Vault, cfg)
	case on:
		return a.infoFile(out, target)
	}
	return hintf(faultf(errNotKMSFS, "%s is neither a vault nor a file on a mount of kmsfs", target), "kmsfs status shows the mounts")
}

// infoVault prints the config and the wrappings.
func (a *app) infoVault(out outputFlags, path string, cfg *envelope.Config) error {
	v := vaultInfo{Vault: path, configInfo: *newConfigInfo(cfg)}
	for _, w := range cfg.Wrappings {
		v.Wrappings = append(v.Wrappings, wrappingInfo{w.KeyARN, w.KeyMaterialID, int(w.ContextVersion),
			hex.EncodeToString(w.Blob)})
	}
	if out.json {
		return writeJSON(a.stdout, v)
	}
	fields := append([]string{"vault", path}, v.fields()...)
	for _, w := range v.Wrappings {
		fields = append(fields, "wrapping: cmk", w.CMK, "wrapping: key material id", w.KeyMaterialID,
			"wrapping: context version", strconv.Itoa(w.ContextVersion), "wrapping: wrapped key", w.WrappedKey)
	}
	return writeFields(a.stdout, fields...)
}

// infoFile prints the record of a file's data key, which the mount shows as extended attributes.
func (a *app) infoFile(out outputFlags, path string) error {
	f := fileInfo{File: path}
	for _, x := range []struct {
		name string
		to   *string
	}{
		{"file-id", &f.FileID}, {"cmk", &f.CMK}, {"key-material-id", &f.KeyMaterialID}, {"wrapped-key", &f.WrappedKey},
		{"created", &f.Created},
	} {
		value, err := readXattr(path, "user.kmsfs."+x.name)
		switch {
		case errors.Is(err, syscall.ENODATA) && x.name == "file-id":
			return hintf(faultf(errNotKMSFS, "%s has no data key: only regular files that are not empty have one", path),
				"name a regular file that is not empty")
		case errors.Is(err, syscall.ENODATA):
		case err != nil:
			return faultf(err, "%s: user.kmsfs.%s: %v", path, x.name, err)
		}
		*x.to = strings.TrimRight(value, "\x00")
	}
	if out.json {
		return writeJSON(a.stdout, f)
	}
	return writeFields(a.stdout, "file", path, "file id", f.FileID, "cmk", f.CMK, "key material id", f.KeyMaterialID,
		"wrapped key", f.WrappedKey, "created", f.Created)
}

// readXattr reads an attribute, not following a symlink.
func readXattr(path, name string) (string, error) {
	buf := make([]byte, 64<<10) // the most that Linux allows
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
