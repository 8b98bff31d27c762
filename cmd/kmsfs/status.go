package main

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// mountStatus is one mount, or a vault that is not mounted, in the output of status.
type mountStatus struct {
	Vault      string      `json:"vault"`
	Mounted    bool        `json:"mounted"`
	State      string      `json:"state"`
	Mountpoint string      `json:"mountpoint,omitempty"`
	PID        int         `json:"pid,omitempty"`
	Options    []string    `json:"options,omitempty"`
	Config     *configInfo `json:"config,omitempty"`
}

// configInfo is what vault.json says. It is not verified: that needs the volume key.
type configInfo struct {
	VolumeID  string `json:"volume_id"`
	ChunkSize int    `json:"chunk_size"`
	Keysource string `json:"keysource"`
	Key       string `json:"key"`
	Created   string `json:"created"`
}

// statusCommand is kmsfs status.
func (a *app) statusCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "status [MOUNTPOINT|VAULT]",
		Short: "Show what is mounted where",
		Long: `Show the mounts of kmsfs, or whether one vault is mounted: exit code 23 says that it is not.

Mounts of other mount namespaces and hosts do not show.`,
		Example: `  kmsfs status
  kmsfs status --json ~/vault`,
		Args: args("[MOUNTPOINT|VAULT]"),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.statusAll(out)
			}
			return a.statusOne(out, args[0])
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// statusAll lists all mounts.
func (a *app) statusAll(out outputFlags) error {
	mounts, err := kmsfsMounts()
	if err != nil {
		return err
	}
	list := make([]mountStatus, len(mounts))
	var asking sync.WaitGroup // at the same time: each that hangs costs a while
	for i, m := range mounts {
		asking.Go(func() { list[i] = statusOf(m) })
	}
	asking.Wait()
	rows := make([][]string, 0, len(mounts))
	for _, s := range list {
		rows = append(rows, []string{s.Mountpoint, s.Vault, s.State, pidText(s.PID), strings.Join(s.Options, ",")})
	}
	switch {
	case out.json:
		return writeJSON(a.stdout, list)
	case len(rows) == 0:
		return nil
	}
	return writeTable(a.stdout, []string{"MOUNTPOINT", "VAULT", "STATE", "PID", "OPTIONS"}, rows)
}

// statusOne shows the mount on path or of the vault at path.
func (a *app) statusOne(out outputFlags, path string) error {
	target, err := resolve(path)
	if err != nil {
		return err
	}
	s := mountStatus{Vault: target, State: "not mounted"}
	m, err := mountAt(target)
	if err != nil {
		if of := mountsOf(target); len(of) > 0 {
			m, err = of[0], nil
		}
	}
	if err == nil {
		s = statusOf(m)
	} else if cfg, e := readConfig(target); e != nil && holdsVault(target) {
		return explain(e, mountPlan{Vault: target})
	} else if e != nil {
		return err
	} else {
		s.Config = newConfigInfo(cfg)
		err = hintf(faultf(errNotMounted, "the vault %s is not mounted", target), "kmsfs mount %s MOUNTPOINT", quote(target))
	}
	if out.json {
		return errors.Join(writeJSON(a.stdout, s), err)
	}
	fields := []string{"vault", s.Vault, "state", s.State, "mountpoint", s.Mountpoint, "pid", pidText(s.PID),
		"options", strings.Join(s.Options, ",")}
	if c := s.Config; c != nil {
		fields = append(fields, c.fields()...)
	}
	if e := writeFields(a.stdout, fields...); e != nil {
		return e
	}
	return err
}

// statusOf describes a mount.
func statusOf(m mountEntry) mountStatus {
	s := mountStatus{Vault: m.Vault, Mounted: true, Mountpoint: m.Mountpoint, State: stateOf(m.Mountpoint)}
	if s.State != stateGone {
		s.PID = m.pid()
	}
	seen := map[string]bool{}
	for _, o := range m.Options {
		name, _, _ := strings.Cut(o, "=")
		switch name {
		case "user_id", "group_id", "max_read", "relatime", "blksize":
		default:
			if !seen[o] {
				s.Options = append(s.Options, o)
			}
			seen[o] = true
		}
	}
	s.Config = readConfigInfo(m.Vault)
	return s
}

// readConfigInfo reads the config of the vault at path; nil where there is none to be read.
func readConfigInfo(path string) *configInfo {
	cfg, err := readConfig(path)
	if err != nil {
		return nil
	}
	return newConfigInfo(cfg)
}

// readConfig reads the config of the vault at path.
func readConfig(path string) (*envelope.Config, error) {
	if !filepath.IsAbs(path) {
		return nil, faultf(errNotKMSFS, "%s is no path", path)
	}
	top, err := backing.OpenDir(path)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return vault.ReadConfig(top)
}

func newConfigInfo(cfg *envelope.Config) *configInfo {
	return &configInfo{VolumeID: cfg.Volume.String(), ChunkSize: cfg.ChunkSize, Keysource: cfg.Keysource, Key: cfg.Key,
		Created: stamp(cfg.Created)}
}

// fields are the pairs for writeFields.
func (c *configInfo) fields() []string {
	return []string{"volume id", c.VolumeID, "chunk size", strconv.Itoa(c.ChunkSize), "keysource", c.Keysource,
		"key", c.Key, "created", c.Created}
}

func pidText(pid int) string {
	if pid == 0 {
		return ""
	}
	return strconv.Itoa(pid)
}
