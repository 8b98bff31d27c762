package main

import (
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
)

// mountPlan is all that a daemon needs to know; it crosses the channel from the parent as JSON. All paths are absolute.
// It holds no secret.
type mountPlan struct {
	Vault, Mountpoint string
	// Keysource is the URL to use in place of the one that the vault names; empty: that one.
	Keysource string
	// KnownStore is the directory of the key store that may know the vault: see checkNamed.
	KnownStore string
	// NewKeysource is the URL that a new vault gets where Keysource is empty.
	NewKeysource  string
	MasterKeyFile string
	// SealNew: a key store that Init makes is sealed under a passphrase.
	SealNew bool
	// Init makes what is missing: directories, key store and vault with Key and ChunkSize.
	Init      bool
	Key       string
	ChunkSize int

	ReadOnly, AllowOther, Shared bool
	Suid, Dev, NoExec            bool
	Debug                        bool
	LogFile                      string
	MetricsListen                string // address or empty
	Freshness                    string // file or empty

	// AutoRewrap has the daemon rewrap what is behind every AutoRewrapEvery; 0: the default.
	AutoRewrap      bool
	AutoRewrapEvery time.Duration

	reversePlan

	// Keys says how long data keys are kept and waited for.
	Keys keyPlan
}

// mountFlags are the flags of mount, and what -o options set.
type mountFlags struct {
	storeFlags
	plan       mountPlan
	foreground bool
	options    []string
}

// add defines the flags.
func (m *mountFlags) add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.BoolVar(&m.plan.Init, "init", false, "make the directories, the key store and the vault where they are missing")
	f.BoolVarP(&m.foreground, "foreground", "f", false, "stay in the foreground and log to standard error")
	f.BoolVar(&m.plan.ReadOnly, "read-only", false, "refuse all changes; the vault is not written to")
	f.BoolVar(&m.plan.AllowOther, "allow-other", false, "let other users in; the kernel checks permissions")
	f.BoolVar(&m.plan.Shared, "shared", false, "other hosts may mount the same vault at the same time: cache nothing")
	m.plan.reversePlan.add(f)
	m.addOverrides(f)
	f.StringVar(&m.plan.Key, "key", "", "with --init: `CMK` of a new vault, an alias, ARN or id (default alias/aws/kmsfs)")
	f.IntVar(&m.plan.ChunkSize, "chunk-size", 0, "with --init: `BYTES` of a chunk in a new vault: 4096 (default), 16384, 65536")
	m.plan.Keys.add(f)
	f.BoolVar(&m.plan.AutoRewrap, "auto-rewrap", false, "look for new key material of the CMKs, and rewrap in the background what is behind")
	f.Var((*timeValue)(&m.plan.AutoRewrapEvery), "auto-rewrap-every", "how often that is looked for: `TIME` (default 1h)")
	f.StringArrayVarP(&m.options, "option", "o", nil, "mount `OPTIONS` as in fstab(5), separated by commas")
	f.StringVar(&m.plan.LogFile, "log-file", "", "append the log to `FILE`")
	f.StringVar(&m.plan.Freshness, "freshness", "", "refuse a vault that is not as the last mount here left it, by `FILE` (kmsfs freshness --help)")
	f.StringVar(&m.plan.MetricsListen, "metrics-listen", "", "show metrics at http://`ADDRESS`/metrics, to all users of this machine: 127.0.0.1:9464")
	f.BoolVar(&m.plan.Debug, "debug", false, "log every operation, without plaintext names and keys")
}

// finish completes the plan from the flags and the arguments.
func (m *mountFlags) finish(a *app, vaultDir, mountpoint string) (mountPlan, error) {
	p := m.plan
	var err error
	if p.Vault, err = resolve(vaultDir); err != nil {
		return p, err
	}
	if p.Mountpoint, err = resolve(mountpoint); err != nil {
		return p, err
	}
	if p.Keysource, err = m.fromURL(); err != nil {
		return p, err
	}
	p.KnownStore = a.knownStore()
	if err = p.reversePlan.finish(&p); err != nil {
		return p, err
	}
	if p.MetricsListen != "" {
		if err := checkMetricsAddress(p.MetricsListen); err != nil {
			return p, err
		}
	}
	switch {
	case p.AutoRewrap && p.ReadOnly:
		return p, hintf(faultf(errUsage, "a read-only mount rewraps nothing"), "leave out --auto-rewrap or --read-only")
	case p.Freshness != "" && (p.Shared || p.Init):
		return p, hintf(faultf(errUsage, "--freshness is for a vault that is there, and that this mount alone writes to"), "leave out --shared or --init; kmsfs freshness accept")
	case p.AutoRewrapEvery != 0 && !p.AutoRewrap:
		return p, hintf(faultf(errUsage, "--auto-rewrap-every is nothing without --auto-rewrap"), "add --auto-rewrap")
	case !p.Init && (p.Key != "" || p.ChunkSize != 0):
		return p, hintf(faultf(errUsage, "the CMK and the chunk size are chosen when a vault is made"),
			"kmsfs init --help; or give --init")
	case p.Init:
		if p.NewKeysource, err = m.orDefault(a); err != nil {
			return p, err
		}
		if err := checkNewVault(p.Key, p.ChunkSize); err != nil {
			return p, err
		}
	}
	p.SealNew = m.passphraseFrom != ""
	for _, file := range []*string{&p.LogFile, &p.MasterKeyFile, &p.Freshness} {
		if file == &p.MasterKeyFile {
			*file = m.masterKeyFile
		}
		if *file == "" {
			continue
		}
		if *file, err = filepath.Abs(*file); err != nil {
			return p, err
		}
	}
	return p, nil
}
