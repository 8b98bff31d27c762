package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/manifest"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/local"
	"kmsfs/keysource/passphrase"
)

// TestExitTable is the table of exit codes as scripts may rely on it: a code never changes its meaning.
func TestExitTable(t *testing.T) {
	for _, c := range []struct {
		err         error
		code, mount int
	}{
		{nil, 0, 0},
		{errors.New("?"), 1, 32},
		{errUsage, 2, 1}, {keysource.ErrInvalidArgument, 2, 1},
		{vault.ErrNotVault, 9, 32}, {errNotKMSFS, 9, 32},
		{vault.ErrNotEmpty, 4, 32},
		{vault.ErrLocked, 5, 32}, {errMounted, 5, 32},
		{errMountpoint, 6, 32},
		{errOverlap, 7, 32},
		{envelope.ErrWrongKey, 8, 32}, {keysource.ErrInvalidCiphertext, 8, 32}, {keysource.ErrIncorrectKey, 8, 32},
		{errForeign, 3, 32}, {envelope.ErrCorrupt, 3, 32}, {vault.ErrCorrupt, 3, 32}, {sidecar.ErrNoRecord, 3, 32},
		{manifest.ErrSignature, 3, 32}, {manifest.ErrMalformed, 3, 32}, {manifest.ErrVersion, 10, 32},
		{envelope.ErrUnsupported, 10, 32}, {keysource.ErrUnsupported, 10, 32},
		{errNoKeyStore, 11, 32},
		{local.ErrDamaged, 12, 32},
		{fmt.Errorf("%w: %w", local.ErrMasterKey, iofs.ErrNotExist), 13, 32}, {passphrase.ErrNoTerminal, 13, 32},
		{local.ErrInsecure, 14, 32},
		{keysource.ErrDisabled, 15, 32}, {keysource.ErrInvalidState, 15, 32},
		{keysource.ErrDenied, 16, 32},
		{keysource.ErrNotFound, 17, 32},
		{keysource.ErrUnavailable, 18, 32}, {context.DeadlineExceeded, 18, 32},
		{errNoFUSE, 19, 2},
		{errNoFusermount, 20, 2},
		{syscall.EACCES, 21, 1}, {iofs.ErrPermission, 21, 1},
		{syscall.EIO, 22, 32}, {syscall.ENOSPC, 22, 32}, {syscall.ENOENT, 22, 32},
		{errNotMounted, 23, 32},
		{errNoControl, 29, 32},
		{errNotFrozen, 33, 32},
		{faultf(errNoCommand, "x: %w", iofs.ErrNotExist), 127, 32},
		{errBusy, 24, 32}, {syscall.EBUSY, 24, 32}, {syscall.EADDRINUSE, 24, 32}, {audit.ErrInUse, 24, 32},
		{&audit.LineError{Line: 1}, 26, 32},
		{keysource.ErrAlreadyExists, 25, 32},
		{context.Canceled, 130, 8},
	} {
		e := exitOf(keysource.WithHint(c.err, "x"))
		if e.code != c.code || e.mount != c.mount {
			t.Errorf("%v: exit codes %d and %d, want %d and %d", c.err, e.code, e.mount, c.code, c.mount)
		}
	}
	seen := map[int]bool{}
	for _, e := range exitTable() {
		if seen[e.code] || e.when == "" {
			t.Errorf("row %d is there twice or says nothing", e.code)
		}
		seen[e.code] = true
		if !strings.Contains(exitText(), fmt.Sprintf("%3d  %s\n", e.code, e.when)) {
			t.Errorf("exit-codes lacks %d", e.code)
		}
	}
}

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		options string
		want    func(m *mountFlags)
		err     string
	}{
		{"", nil, ""},
		{"rw,defaults,auto,noauto,nofail,_netdev,user,users,x-a.b=c,X-d", nil, ""},
		{"ro", func(m *mountFlags) { m.plan.ReadOnly = true }, ""},
		{"ro,rw", nil, ""},
		{"dev,suid,noexec", func(m *mountFlags) { m.plan.Dev, m.plan.Suid, m.plan.NoExec = true, true, true }, ""},
		{"dev,suid,noexec,nodev,nosuid,exec", nil, ""},
		{"allow_other,shared", func(m *mountFlags) { m.plan.AllowOther, m.plan.Shared = true, true }, ""},
		{"allow-other,init", func(m *mountFlags) { m.plan.AllowOther, m.plan.Init = true, true }, ""},
		{"keystore=/k,key=alias/x", func(m *mountFlags) { m.dir, m.plan.Key = "/k", "alias/x" }, ""},
		{`key_store=/a\,b\\c,ro`, func(m *mountFlags) { m.dir, m.plan.ReadOnly = `/a,b\c`, true }, ""},
		{"passphrase_from=command:/bin/cat /x", func(m *mountFlags) { m.passphraseFrom = "command:/bin/cat /x" }, ""},
		{"chunk_size=16384,log_file=/l,debug", func(m *mountFlags) {
			m.plan.ChunkSize, m.plan.LogFile, m.plan.Debug = 16384, "/l", true
		}, ""},
		{"key_cache_max_age=1m,key_cache_idle=10s,key-cache-grace=0,key_timeout=1500ms", func(m *mountFlags) {
			m.plan.Keys = keyPlan{MaxAge: time.Minute, Idle: 10 * time.Second, Grace: -1, Timeout: 1500 * time.Millisecond}
		}, ""},
		{"key_cache_max_age=0", nil, "longer than 0"},
		{"key_cache_grace=-1s", nil, "not a time"},
		{"user=joe,uhelper=x,comment=y", nil, ""},
		{"bla", nil, "unknown"},
		{"bla=1", nil, "unknown"},
		{"ro=1", nil, "takes no value"},
		{"keystore", nil, "needs a value"},
		{"keystore=", nil, "empty value"},
		{"chunk_size=x", nil, "not a number"},
		{"passphrase=x", nil, "unknown"},
		{"remount", nil, "remounted"},
	} {
		var got, want mountFlags
		if c.want != nil {
			c.want(&want)
		}
		err := got.parseOptions(c.options, unknownRefused)
		if c.err != "" {
			if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("-o %s: error %v, want %q", c.options, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("-o %s:\ngot  %+v, %v\nwant %+v", c.options, got, err, want)
		}
	}
	var m mountFlags
	if err := m.parseOptions("bla,ro", unknownIgnored); err != nil || !m.plan.ReadOnly {
		t.Errorf("sloppy: %v, %+v", err, m.plan)
	}
}

func TestParseMountinfo(t *testing.T) {
	const text = `22 27 0:21 / /proc rw,nosuid shared:5 master:1 - proc proc rw
40 27 0:35 / /mnt/a\040b rw,nosuid,nodev - fuse.kmsfs /srv/v\134x rw,user_id=1000,group_id=0
41 27 0:36 / /mnt/c ro - fuse.kmsfs /srv/w ro,user_id=0,allow_other
42 27 0:37 / /mnt/c rw - tmpfs none rw
short line
`
	got := parseMountinfo(text)
	if len(got) != 3 || got[1].Mountpoint != "/mnt/a b" || got[1].Vault != `/srv/v\x` || got[1].Type != fsType || got[1].Dev != "0:35" {
		t.Fatalf("got %+v", got)
	}
	if id, ok := got[1].has("user_id"); !ok || id != "1000" {
		t.Errorf("user_id=%s, %v", id, ok)
	}
	if got[2].Type != "tmpfs" {
		t.Errorf("the mount on top of /mnt/c is %s", got[2].Type)
	}
}

func TestResolveAndInside(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(dir+"/a", 0o700), os.Symlink("a", dir+"/l")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/a": "/a", "/l": "/a", "/l/x": "/a/x", "/l/x/y/": "/a/x/y", "/a/../l": "/a", "/none": "/none",
	} {
		if got, err := resolve(dir + path); err != nil || got != dir+want {
			t.Errorf("resolve %s: %s, %v", path, got, err)
		}
	}
	if !inside(dir+"/a/x", dir+"/a") || !inside(dir, "/") || inside(dir+"/ab", dir+"/a") || inside(dir, dir+"/a") {
		t.Error("inside is wrong")
	}
}

// TestChannel: a plan, a question, a passphrase, and failures with code and hint cross the channel.
func TestChannel(t *testing.T) {
	parent, file, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	child, err := fileChannel(file)
	if err != nil {
		t.Fatal(err)
	}
	plan := mountPlan{Vault: "/v " + strings.Repeat("x", 5000), Mountpoint: "/p", Init: true, ChunkSize: 4096}
	done := make(chan error, 1)
	go func() {
		defer child.close()
		got, err := child.readPlan(t.Context())
		if err == nil && got != plan {
			err = fmt.Errorf("plan: %+v", got)
		}
		if err == nil {
			var p []byte
			if p, err = child.passphrase(t.Context(), passphrase.New); err == nil && string(p) != "secret" {
				err = fmt.Errorf("passphrase: %q", p)
			}
		}
		if err == nil {
			_, e := child.passphrase(t.Context(), passphrase.Unlock)
			if !errors.Is(e, passphrase.ErrNoTerminal) && exitOf(e).code != 13 || keysource.Hint(e) != "sit down" {
				err = fmt.Errorf("no passphrase: %v, %s", e, keysource.Hint(e))
			}
		}
		done <- errors.Join(err, child.sendFailure(msgFail, hintf(vault.ErrNotVault, "make\none")))
	}()
	err = parent.relay(t.Context(), plan, func(_ context.Context, purpose passphrase.Purpose) ([]byte, error) {
		if purpose == passphrase.New {
			return []byte("secret"), nil
		}
		return nil, hintf(passphrase.ErrNoTerminal, "sit down")
	})
	if e := <-done; e != nil {
		t.Error(e)
	}
	if !isFailure(err) || exitOf(err).code != 9 || keysource.Hint(err) != "make\none" {
		t.Errorf("the failure arrived as %v, code %d, hint %q", err, exitOf(err).code, keysource.Hint(err))
	}
	if _, _, err := parent.receive(t.Context()); err == nil {
		t.Error("a closed channel has a message")
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a\nb\x1b[31m\n"); got != "a; b?[31m" {
		t.Errorf("got %q", got)
	}
}

// TestManPages: every verb has a page that says something, and groff has nothing to say about any.
func TestManPages(t *testing.T) {
	root := (&app{}).rootCommand()
	pages := manPages(root)
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Long == "" {
			t.Errorf("%s is not described", cmd.CommandPath())
		}
		if cmd.Name() != "help" && !cmd.IsAdditionalHelpTopicCommand() && pages[manName(cmd)+".1"] == "" {
			t.Errorf("%s has no page", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			if cmd.Name() != "completion" {
				walk(sub)
			}
		}
	}
	walk(root)
	for _, e := range exitTable() {
		if !strings.Contains(pages["kmsfs.1"], "\n.TP\n\\fB"+fmt.Sprint(e.code)) {
			t.Errorf("kmsfs.1 lacks exit code %d", e.code)
		}
	}
	if !strings.Contains(pages["mount.kmsfs.8"], "/srv/vault  /srv/plain  kmsfs  allow_other") {
		t.Error("mount.kmsfs.8 has no line of fstab")
	}
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("groff is missing: apt-get install groff")
	}
	for name, page := range pages {
		cmd := exec.Command("groff", "-man", "-ww", "-z", "-K", "utf8")
		cmd.Stdin = strings.NewReader(page)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
