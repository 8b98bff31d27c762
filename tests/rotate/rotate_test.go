package rotate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// noticed is how long a server takes to see what another process has done to its key store, and some more.
const noticed = 1500 * time.Millisecond

// TestRotate rotates and replaces the CMK under a live mount and rewraps it, exclusive and shared, by the local key store and
// through the KMS protocol. Then the old CMK is disabled: all files are there, and new ones can be made.
func TestRotate(t *testing.T) {
	for _, c := range []struct {
		name   string
		shared bool
		kms    bool
		more   string // options of the keysource
	}{
		{name: "local"}, {name: "local, shared", shared: true}, {name: "kms", kms: true}, {name: "kms, branch keys", kms: true, more: "&branch=default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := newKeys(t)
			old := k.key("describe", "alias/files")
			o := lab.Options{Keysource: "local:" + k.store, Shared: c.shared, Flags: []string{"--key", "alias/files"}}
			if c.kms {
				k.env = k.user("mounter", "user")
				s := k.serve()
				o = lab.Options{Keysource: s.url + c.more, Env: k.env, Shared: c.shared}
			}
			m := lab.MountNew(t, o)
			l := startLoad(t, m.Dir, 3)
			time.Sleep(300 * time.Millisecond)

			material := k.key("rotate", "alias/files")
			if c.kms {
				time.Sleep(noticed)
			}
			s := k.rewrap(m.Backing)
			if s.Rewrapped == 0 || s.Failed+s.Damaged != 0 {
				t.Errorf("after a rotation: %+v", s)
			}
			two := k.key("create", "--alias", "alias/two")
			s = k.rewrap("--to", "alias/two", m.Dir)
			if s.Rewrapped == 0 || s.Failed+s.Damaged != 0 {
				t.Errorf("to another CMK: %+v", s)
			}
			l.end()
			if l.ops.Load() < 100 {
				t.Errorf("the load did %d operations", l.ops.Load())
			}
			k.key("disable", "alias/files")
			l.compare()
			if err := m.Remount(); err != nil {
				t.Fatal(err)
			}
			l.compare()
			if err := os.WriteFile(filepath.Join(m.Dir, "new"), []byte("new"), 0o600); err != nil {
				t.Errorf("a new file, with the old CMK disabled: %v", err)
			}
			for name, content := range l.want {
				if len(content) == 0 {
					continue
				}
				if s := k.rewrap("--only", name, "--force", m.Backing); s.Rewrapped != 1 {
					t.Errorf("of one file: %+v", s)
				}
				break
			}
			for name := range l.want {
				if cmk := xattr(t, name, "user.kmsfs.cmk"); cmk != "" && !strings.HasSuffix(cmk, two) {
					t.Fatalf("%s is under %s, and not under %s; %s was first, %s its second material", name, cmk, two, old, material)
				}
			}
			if s := k.rewrap(m.Dir); s.Behind != 0 || s.Calls != 0 {
				t.Errorf("once more: %+v", s)
			}
		})
	}
}

// xattr reads an attribute; "" where there is none.
func xattr(t *testing.T, path, name string) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, name, b)
	if err == unix.ENODATA {
		return ""
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return strings.TrimRight(string(b[:n]), "\x00")
}

// TestRewrapper: who may ReEncrypt and not Decrypt rewraps a vault, and cannot read a byte of it.
func TestRewrapper(t *testing.T) {
	k := newKeys(t)
	mounter, rewrapper := k.user("mounter", "user"), k.user("moves", "rewrapper")
	s := k.serve()
	m := lab.MountNew(t, lab.Options{Keysource: s.url, Env: mounter})
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(m.Dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	material := k.key("rotate", "alias/files")
	time.Sleep(noticed)
	k.env = rewrapper
	audit := filepath.Join(lab.Dir(t), "audit")
	got := k.rewrap("--audit-log", audit, m.Backing)
	if got.Rewrapped < 50 || got.Failed != 0 {
		t.Errorf("%+v", got)
	}
	if b, err := os.ReadFile(audit); err != nil || int64(strings.Count(string(b), material)) < got.Rewrapped || !strings.Contains(string(b), "request_id") {
		t.Errorf("the audit log: %v\n%.500s", err, b)
	}
	k.key("create", "--alias", "alias/two")
	time.Sleep(noticed)
	out, code, stderr := k.run("rewrap", "--to", "alias/two", m.Backing)
	if s := k.last(out); code != 31 || s.Rewrapped < 50 || !strings.Contains(stderr, "kmsfs rewrap --to alias/two") {
		t.Errorf("to another CMK: exit code %d, %+v\n%s", code, s, stderr)
	}
	if _, code, stderr := k.run("rewrap", "--only", "1", m.Backing); code != 16 {
		t.Errorf("--only by who may not decrypt: exit code %d\n%s", code, stderr)
	}
	if _, code, stderr := k.run("mount", "--foreground", "--read-only", "--key-timeout", "2s", m.Backing, lab.Subdir(t, lab.Dir(t), "other", 0o755)); code != 16 {
		t.Errorf("a mount by who may not decrypt: exit code %d\n%s", code, stderr)
	}
	if err := m.Remount(); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if b, err := os.ReadFile(filepath.Join(m.Dir, fmt.Sprint(i))); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("file %d: %q, %v", i, b, err)
		}
	}
}

// TestKill ends a rewrap with SIGKILL again and again under load. The last one is let to its end.
func TestKill(t *testing.T) {
	k := newKeys(t)
	m := lab.MountNew(t, lab.Options{Keysource: "local:" + k.store, Flags: []string{"--key", "alias/files"}})
	l := startLoad(t, m.Dir, 2)
	time.Sleep(200 * time.Millisecond)
	for i := range 8 {
		k.key("rotate", "alias/files")
		k.killed(time.Duration(5+i*7)*time.Millisecond, "rewrap", m.Backing)
	}
	s := k.rewrap(m.Backing)
	if s.Failed+s.Damaged != 0 {
		t.Errorf("%+v", s)
	}
	l.end()
	l.compare()
	if err := m.Remount(); err != nil {
		t.Fatal(err)
	}
	l.compare()
	if s := k.rewrap(m.Backing); s.Calls != 0 {
		t.Errorf("once more: %+v", s)
	}
}
