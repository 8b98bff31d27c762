package main

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/survey"
	"kmsfs/keysource"
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
	Survey     *surveyInfo `json:"survey,omitempty"`
}

// configInfo is what vault.json says. It is not verified: that needs the volume key.
type configInfo struct {
	VolumeID  string `json:"volume_id"`
	ChunkSize int    `json:"chunk_size"`
	Keysource string `json:"keysource"`
	Key       string `json:"key"`
	Created   string `json:"created"`
}

// statusFlags are the flags of status.
type statusFlags struct {
	storeFlags
	out                 outputFlags
	offline, tablesOnly bool
	html                string
}

// statusCommand is kmsfs status.
func (a *app) statusCommand() *cobra.Command {
	var s statusFlags
	cmd := &cobra.Command{
		Use:   "status [MOUNTPOINT|VAULT]",
		Short: "Show what is mounted where, and what of a vault is under which CMK",
		Long: `Without an argument, show the mounts of kmsfs. Mounts of other mount namespaces and hosts do not show.

Of a vault, show whether it is mounted, and how many data keys, files and bytes are under each CMK, key material and
encryption zone: which are behind, which are out of their zone, which records no file names. That is read from the vault
as it is on the disk and is not authentic. The keysource is only asked to describe each CMK; --offline does not ask it.`,
		Example: `  kmsfs status
  kmsfs status --offline ~/vault
  kmsfs status --html status.html ~/vault`,
		Args: args("[MOUNTPOINT|VAULT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.statusAll(s.out)
			}
			return a.statusOne(cmd.Context(), &s, args[0])
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&s.offline, "offline", false, "do not ask the keysource which key material is current")
	f.BoolVar(&s.tablesOnly, "tables-only", false, "read the key tables alone, not the tree: no files, bytes and zones")
	f.StringVar(&s.html, "html", "", "write a page with a picture to `FILE` too")
	s.addOverrides(f)
	s.out.add(f)
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

// statusOne shows the mount on path or of the vault at path, and surveys the vault.
func (a *app) statusOne(ctx context.Context, f *statusFlags, path string) error {
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
	}
	if s.Config != nil && m.Type != reverseType {
		if s.Survey, err = a.survey(ctx, f, s.Vault, s.Config); err != nil {
			return explain(err, mountPlan{Vault: s.Vault})
		}
	}
	if f.html != "" && s.Survey != nil {
		if err := s.Survey.writeHTML(f.html, s.Vault); err != nil {
			return err
		}
	}
	if f.out.json {
		return writeJSON(a.stdout, s)
	}
	fields := []string{"vault", s.Vault, "state", s.State, "mountpoint", s.Mountpoint, "pid", pidText(s.PID),
		"options", strings.Join(s.Options, ",")}
	if c := s.Config; c != nil {
		fields = append(fields, c.fields()...)
	}
	if err := writeFields(a.stdout, fields...); err != nil || s.Survey == nil {
		return err
	}
	return s.Survey.write(a)
}

// survey surveys a vault. Where its keysource cannot be opened, what is behind is not known.
func (a *app) survey(ctx context.Context, f *statusFlags, path string, c *configInfo) (*surveyInfo, error) {
	top, err := backing.OpenDir(path)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	scope := survey.Everything
	if f.tablesOnly {
		scope = survey.TablesOnly
	}
	var ks keysource.Keysource
	var unknown error
	if !f.offline {
		if ks, unknown = a.surveySource(ctx, f, path, c); unknown == nil {
			defer ks.Close()
		}
	}
	info, err := surveyVault(ctx, top, scope, ks)
	if err == nil && unknown != nil {
		info.Unknown = append(info.Unknown, unknown.Error())
	}
	return info, err
}

// surveySource opens the keysource of a vault.
func (a *app) surveySource(ctx context.Context, f *statusFlags, path string, c *configInfo) (keysource.Keysource, error) {
	url, err := f.fromURL()
	if err != nil {
		return nil, err
	}
	if url == "" {
		url = c.Keysource
		if err := checkNamed(a.knownStore(), path, url); err != nil {
			return nil, err
		}
	}
	secret, _, err := f.source(a)
	if err != nil {
		return nil, err
	}
	ks, err := openKeysource(ctx, mountPlan{Vault: path, MasterKeyFile: f.masterKeyFile}, url, secret, nil)
	if err != nil {
		return nil, err
	}
	return keysource.NewRetry(ks, keysource.RetryConfig{MaxAttempts: 3}), nil
}

// statusOf describes a mount.
func statusOf(m mountEntry) mountStatus {
	s := mountStatus{Vault: m.Source, Mounted: true, Mountpoint: m.Mountpoint, State: stateOf(m.Mountpoint)}
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
	if m.Type == reverseType {
		s.Options = append(s.Options, "reverse")
		if s.State != stateMounted { // it would not answer
			return s
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
