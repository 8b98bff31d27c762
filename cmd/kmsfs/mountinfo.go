package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The types of mounts of kmsfs in /proc/self/mountinfo: of a vault, and of a plain directory in reverse.
const (
	fsType      = "fuse.kmsfs"
	reverseType = "fuse.kmsfs-reverse"
)

// mountEntry is one mount in /proc/self/mountinfo, proc(5).
type mountEntry struct {
	Mountpoint string
	Vault      string // of the kmsfs mounts: the vault; in reverse that is what the mount shows
	Source     string // of the kmsfs mounts: what is shown, the vault or in reverse a plain directory
	Type       string
	Options    []string // of the mount and of the file system
	Dev        string   // major:minor
}

// kmsfsMounts are the mounts of kmsfs that this process sees.
func kmsfsMounts() ([]mountEntry, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []mountEntry
	for _, m := range parseMountinfo(string(b)) {
		if m.Type == reverseType {
			m.Vault = m.Mountpoint
		}
		if m.Type == fsType || m.Type == reverseType {
			out = append(out, m)
		}
	}
	return out, nil
}

// parseMountinfo reads the text of mountinfo. A mount that another one covers is left out.
func parseMountinfo(text string) []mountEntry {
	var out []mountEntry
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		sep := 6 // optional fields follow, up to a single hyphen
		for sep < len(fields) && fields[sep] != "-" {
			sep++
		}
		if sep+3 >= len(fields) {
			continue
		}
		m := mountEntry{
			Mountpoint: unescapeMount(fields[4]), Vault: unescapeMount(fields[sep+2]), Source: unescapeMount(fields[sep+2]),
			Type: fields[sep+1], Dev: fields[2],
			Options: append(strings.Split(fields[5], ","), strings.Split(fields[sep+3], ",")...),
		}
		for i := range out {
			if out[i].Mountpoint == m.Mountpoint {
				out = append(out[:i], out[i+1:]...)
				break
			}
		}
		out = append(out, m)
	}
	return out
}

// unescapeMount reads the octal escapes of mountinfo: space, tab, newline, backslash.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// has tells whether the mount has an option, and its value.
func (m mountEntry) has(name string) (value string, ok bool) {
	for _, o := range m.Options {
		if n, v, _ := strings.Cut(o, "="); n == name {
			return v, true
		}
	}
	return "", false
}

// pid finds the daemon of a mount, 0 where it cannot be told: by its command line, which the daemon chose itself and
// which is, unlike the rest of a process that cannot be dumped, open to its own user.
func (m mountEntry) pid() int {
	owner, _ := m.has("user_id")
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !isDaemonOf(m.Mountpoint, strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), pid) {
			continue
		}
		if userOf(pid) == owner {
			return pid
		}
	}
	return 0
}

// isDaemonOf tells whether the command line is that of a daemon that serves mountpoint.
func isDaemonOf(mountpoint string, argv []string, pid int) bool {
	if len(argv) < 4 || filepath.Base(argv[0]) != "kmsfs" {
		return false
	}
	if argv[1] == daemonVerb {
		return argv[3] == mountpoint
	}
	foreground := false // else it waits for a daemon, or does not mount
	for _, arg := range argv[2:] {
		foreground = foreground || arg == "--foreground" || arg == "-f"
	}
	if argv[1] != "mount" || !foreground {
		return false
	}
	cwd, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	for _, arg := range argv[2:] {
		if !filepath.IsAbs(arg) && cwd != "" {
			arg = filepath.Join(cwd, arg)
		}
		if filepath.Clean(arg) == mountpoint {
			return true
		}
	}
	return false
}

// userOf is the effective user of a process: its directory in /proc belongs to root where it cannot be dumped.
func userOf(pid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(ids); len(f) >= 2 {
				return f[1]
			}
		}
	}
	return ""
}

// onMount finds the kmsfs mount that the file at path is on.
func onMount(path string, mounts []mountEntry) (mountEntry, bool) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return mountEntry{}, false
	}
	dev := strconv.FormatUint(uint64(st.Dev>>8&0xfff|st.Dev>>32&^0xfff), 10) + ":" +
		strconv.FormatUint(uint64(st.Dev&0xff|st.Dev>>12&^0xff), 10)
	for _, m := range mounts {
		if m.Dev == dev {
			return m, true
		}
	}
	return mountEntry{}, false
}
