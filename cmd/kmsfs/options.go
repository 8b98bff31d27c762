package main

import (
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// unknownOptions says what to do about a mount option that is not known.
type unknownOptions int

// The two ways; mount(8) asks for the second with -s.
const (
	unknownRefused unknownOptions = iota
	unknownIgnored
)

// optionTable has the mount options by name, each with what it does. An option that is there without a function is
// for mount(8) and systemd, or the default.
func optionTable() map[string]func(m *mountFlags, value string) error {
	set := func(field func(m *mountFlags) *bool, value bool) func(*mountFlags, string) error {
		return func(m *mountFlags, _ string) error { *field(m) = value; return nil }
	}
	text := func(field func(m *mountFlags) *string) func(*mountFlags, string) error {
		return func(m *mountFlags, value string) error { *field(m) = value; return nil }
	}
	readOnly := func(m *mountFlags) *bool { return &m.plan.ReadOnly }
	dev := func(m *mountFlags) *bool { return &m.plan.Dev }
	suid := func(m *mountFlags) *bool { return &m.plan.Suid }
	noExec := func(m *mountFlags) *bool { return &m.plan.NoExec }
	keyStore := text(func(m *mountFlags) *string { return &m.dir })
	duration := func(name string, field func(m *mountFlags) pflag.Value) func(*mountFlags, string) error {
		return func(m *mountFlags, value string) error {
			if err := field(m).Set(value); err != nil {
				return faultf(errUsage, "mount option %s: %w", name, err)
			}
			return nil
		}
	}
	t := map[string]func(m *mountFlags, value string) error{
		"ro": set(readOnly, true), "rw": set(readOnly, false),
		"dev": set(dev, true), "nodev": set(dev, false),
		"suid": set(suid, true), "nosuid": set(suid, false),
		"exec": set(noExec, false), "noexec": set(noExec, true),
		"allow-other":        set(func(m *mountFlags) *bool { return &m.plan.AllowOther }, true),
		"shared":             set(func(m *mountFlags) *bool { return &m.plan.Shared }, true),
		"reverse":            set(func(m *mountFlags) *bool { return &m.plan.Reverse }, true),
		"one-file-system":    set(func(m *mountFlags) *bool { return &m.plan.OneFileSystem }, true),
		"state=":             text(func(m *mountFlags) *string { return &m.plan.State }),
		"init":               set(func(m *mountFlags) *bool { return &m.plan.Init }, true),
		"auto-rewrap":        set(func(m *mountFlags) *bool { return &m.plan.AutoRewrap }, true),
		"auto-rewrap-every=": duration("auto-rewrap-every", func(m *mountFlags) pflag.Value { return (*timeValue)(&m.plan.AutoRewrapEvery) }),
		"debug":              set(func(m *mountFlags) *bool { return &m.plan.Debug }, true),
		"keystore=":          keyStore,
		"key-store=":         keyStore,
		"keysource=":         text(func(m *mountFlags) *string { return &m.url }),
		"key=":               text(func(m *mountFlags) *string { return &m.plan.Key }),
		"master-key-file=":   text(func(m *mountFlags) *string { return &m.masterKeyFile }),
		"passphrase-from=":   text(func(m *mountFlags) *string { return &m.passphraseFrom }),
		"freshness=":         text(func(m *mountFlags) *string { return &m.plan.Freshness }),
		"metrics-listen=":    text(func(m *mountFlags) *string { return &m.plan.MetricsListen }),
		"log-file=":          text(func(m *mountFlags) *string { return &m.plan.LogFile }),
		"key-cache-max-age=": duration("key-cache-max-age", func(m *mountFlags) pflag.Value { return (*timeValue)(&m.plan.Keys.MaxAge) }),
		"key-cache-idle=":    duration("key-cache-idle", func(m *mountFlags) pflag.Value { return (*timeValue)(&m.plan.Keys.Idle) }),
		"key-cache-grace=":   duration("key-cache-grace", func(m *mountFlags) pflag.Value { return (*graceValue)(&m.plan.Keys.Grace) }),
		"key-timeout=":       duration("key-timeout", func(m *mountFlags) pflag.Value { return (*timeValue)(&m.plan.Keys.Timeout) }),
		"chunk-size=": func(m *mountFlags, value string) (err error) {
			if m.plan.ChunkSize, err = strconv.Atoi(value); err != nil {
				return faultf(errUsage, "mount option chunk-size: %q is not a number", value)
			}
			return nil
		},
	}
	for _, name := range strings.Fields(`defaults auto noauto nofail fail user nouser users owner group user= uhelper= _netdev
		async noatime relatime nodiratime nolazytime comment=`) {
		t[name] = nil
	}
	return t
}

// parseOptions applies mount options, "ro,keystore=/srv/keys". The last of two that contradict each other counts. A
// comma in a value stands after a backslash.
func (m *mountFlags) parseOptions(list string, unknown unknownOptions) error {
	table := optionTable()
	for _, option := range splitOptions(list) {
		name, value, has := strings.Cut(option, "=")
		if name == "" && !has || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") {
			continue
		}
		known := strings.ReplaceAll(name, "_", "-")
		if name == "_netdev" {
			known = name
		}
		if has {
			known += "="
		}
		apply, ok := table[known]
		_, bare := table[strings.TrimSuffix(known, "=")]
		_, valued := table[known+"="]
		switch {
		case ok && has && value == "" && apply != nil:
			return faultf(errUsage, "mount option %s has an empty value", name)
		case ok && apply == nil:
		case ok:
			if err := apply(m, value); err != nil {
				return err
			}
		case has && bare:
			return faultf(errUsage, "mount option %s takes no value", name)
		case valued:
			return hintf(faultf(errUsage, "mount option %s needs a value", name), "-o %s=VALUE", name)
		case name == "remount":
			return hintf(faultf(errUsage, "a mount of kmsfs cannot be remounted"), "kmsfs umount, then kmsfs mount")
		case unknown == unknownRefused:
			return unknownOption(name)
		}
	}
	return nil
}

// unknownOption names the options that there are.
func unknownOption(name string) error {
	hint := "kmsfs mount --help has the options that kmsfs knows; x-... are ignored"
	for _, other := range []struct{ name, use string }{
		{"nonempty", "name an empty mountpoint"},
		{"allow_root", "use allow_other: the kernel then checks permissions"},
		{"sync", "leave it out: fsync and O_SYNC work"},
		{"dirsync", "leave it out: fsync of a directory works"},
		{"default_permissions", "leave it out: allow_other brings it"},
		{"passphrase", "a passphrase never stands in an option; use passphrase-from=command:PROGRAM"},
	} {
		if name == other.name {
			hint = other.use
		}
	}
	return hintf(faultf(errUsage, "mount option %s is unknown", name), "%s", hint)
}

// splitOptions splits at commas that no backslash protects.
func splitOptions(list string) []string {
	var out []string
	var b strings.Builder
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '\\' && i+1 < len(list) && (list[i+1] == ',' || list[i+1] == '\\'):
			i++
			b.WriteByte(list[i])
		case c == ',':
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(out, b.String())
}
