package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// TestUsers holds that the kernel's permission checks work for many users on one mount: what each may do, and who owns
// what they make, is as on a plain directory.
func TestUsers(t *testing.T) {
	lab.NeedRoot(t)
	script := `
		try() { "$@" 2>/dev/null && echo "$* ok" || echo "$* refused"; }
		umask 027
		try cat secret; try cat group; try cat all; try touch closed/x; try touch open/mine; try mkdir open/dir
		try ls closed; try cat closed/inside; try cat through/inside; try ls through
		try rm open/roots; try rm sticky/roots; try touch sticky/mine; try mv open/roots2 open/moved
		try chmod 777 all; try chown 0 open/mine; try chgrp 0 open/mine; try ln all open/hard; try ln -s all open/sym
		try mkfifo open/fifo; try mknod open/dev c 1 3; try touch -d 2001-01-01 all; try touch -d 2001-01-01 open/mine
		try truncate -s 1 all; try truncate -s 1 writable; try setfattr -n user.x -v 1 all; try setfattr -n user.x -v 1 writable
		try setfattr -n trusted.x -v 1 writable; try touch sgid/mine; try mkdir sgid/dir; try ./program; try ./noexec
		stat -c '%n %u %g %a' open/mine open/dir open/fifo sticky/mine sgid/mine sgid/dir open/sym`
	lab.Need(t, "setfattr")
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		run := func(dir string) string {
			lab.Run(t, dir, "bash", "-euc", `
				umask 022; chmod 755 .
				echo s > secret; chmod 600 secret; echo g > group; chmod 640 group; chgrp 65534 group; echo a > all
				mkdir -m 700 closed; echo i > closed/inside; mkdir -m 711 through; echo i > through/inside
				mkdir open; chmod 777 open; touch open/roots open/roots2; mkdir sticky; chmod 1777 sticky; touch sticky/roots
				mkdir sgid; chgrp 1000 sgid; chmod 2777 sgid; touch writable; chmod 666 writable
				printf '#!/bin/sh\necho ran\n' > program; cp program noexec; chmod 755 program`)
			cmd := exec.Command("bash", "-c", script)
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: lab.Nobody, Gid: lab.Nobody}}
			out, err := cmd.CombinedOutput()
			check(t, err, string(out))
			return string(out)
		}
		want, got := run(lab.Dir(t)), run(m.Dir)
		sameText(t, "what another user may do", want, got)
		if !strings.Contains(want, "ok") || !strings.Contains(want, "refused") {
			t.Errorf("the script proves nothing:\n%s", want)
		}
	})
}

// TestOthersKeptOut holds that without --allow-other nobody else gets in, root included.
func TestOthersKeptOut(t *testing.T) {
	lab.NeedRoot(t)
	m := lab.MountNew(t, lab.Options{})
	var err error
	lab.As(lab.Nobody, func() { _, err = os.ReadDir(m.Dir) })
	if !errors.Is(err, unix.EACCES) {
		t.Errorf("another user reads the mount: %v, want EACCES", err)
	}
}

// TestReadOnly holds that a mount with --read-only refuses every change and reads everything.
func TestReadOnly(t *testing.T) {
	vault := lab.Dir(t)
	first := lab.MountNew(t, lab.Options{Vault: vault})
	check(t, os.WriteFile(first.Dir+"/file", []byte("content"), 0o644), "write")
	check(t, first.Unmount(), "unmount")
	m := lab.MountAgain(t, first, lab.Options{ReadOnly: true})
	b, err := os.ReadFile(m.Dir + "/file")
	if err != nil || string(b) != "content" {
		t.Errorf("read: %q, %v", b, err)
	}
	for name, change := range map[string]func(path string) error{
		"write":  func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"create": func(p string) error { return os.WriteFile(p+"2", nil, 0o644) },
		"unlink": os.Remove,
		"chmod":  func(p string) error { return os.Chmod(p, 0o600) },
		"rename": func(p string) error { return os.Rename(p, p+"2") },
		"mkdir":  func(p string) error { return os.Mkdir(p+"2", 0o755) },
		"xattr":  func(p string) error { return unix.Setxattr(p, "user.x", nil, 0) },
	} {
		if err := change(m.Dir + "/file"); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
}

// TestACL holds that POSIX ACLs are kept, inherited and obeyed as on a plain directory.
func TestACL(t *testing.T) {
	lab.NeedRoot(t)
	lab.Need(t, "setfacl", "getfacl")
	base := lab.Backing(t, "ext4")
	const allACLs = `find . | LC_ALL=C sort | xargs getfacl -n`
	const script = `
		umask 022; chmod 755 .
		echo secret > f; chmod 600 f; setfacl -m u:65534:r f
		mkdir d; chmod 700 d; setfacl -m u:65534:rwx,d:u:65534:rwx,d:g::r-x,d:o::--- d
		touch d/file; mkdir d/sub; touch d/sub/file; (umask 077; touch d/private; mkdir d/privatedir)
		setfacl -m m::r d/file; chmod g+w d/sub; echo x > g; setfacl -m g:65534:rw,o::- g; cp -a d copy
		setfacl -b copy/file; setfacl -k copy/sub; mv d/private copy/; ln d/file copy/link
		find . -printf '%M %U %G %p\n' | sort; ` + allACLs
	const other = `cat f; echo x >> f; touch d/mine; echo y >> g; ls d/sub; cat copy/private; getfacl -n d/mine 2>&1`
	modes(t, base, func(t *testing.T, m *lab.Mount) {
		run := func(dir string) string {
			out := lab.Run(t, dir, "bash", "-euc", script)
			cmd := exec.Command("bash", "-c", other)
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: lab.Nobody, Gid: lab.Nobody}}
			o, err := cmd.CombinedOutput()
			return fmt.Sprintf("%s\nthe other user:\n%s%v\n", out, o, err)
		}
		plain := lab.Subdir(t, base, "plain-"+filepath.Base(t.Name()), 0o755)
		want, got := run(plain), run(m.Dir)
		sameText(t, "ACLs", strings.ReplaceAll(want, plain, ""), strings.ReplaceAll(got, m.Dir, ""))
		check(t, m.Remount(), "remount")
		sameText(t, "ACLs after a remount", lab.Run(t, plain, "bash", "-euc", allACLs), lab.Run(t, m.Dir, "bash", "-euc", allACLs))
	})
}

// TestModeAgainstOwner writes to files of an ordinary user whose mode has become one that the user's own daemon could not
// open them with: whoever has a file open may go on.
func TestModeAgainstOwner(t *testing.T) {
	lab.NeedRoot(t)
	for name, shared := range map[string]bool{"exclusive": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			m := lab.MountNew(t, lab.Options{UID: lab.Nobody, Shared: shared})
			asOwner := func(what string, f func() error) {
				t.Helper()
				var err error
				lab.As(lab.Nobody, func() { err = f() })
				check(t, err, what)
			}
			var held int
			asOwner("files made read-only", func() (err error) {
				if held, err = unix.Open(m.Dir+"/held", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o444); err != nil {
					return err
				}
				defer unix.Close(held)
				if _, err := unix.Pwrite(held, bytes.Repeat([]byte("old "), 50_000), 0); err != nil {
					return err
				}
				for i := range 700 { // more than the daemon keeps open
					if err := os.WriteFile(fmt.Sprintf("%s/other%d", m.Dir, i), []byte("other"), 0o644); err != nil {
						return err
					}
				}
				if _, err := unix.Pwrite(held, bytes.Repeat([]byte("new "), 3000), 100_000); err != nil {
					return err
				}
				return unix.Fsync(held)
			})
			check(t, m.Remount(), "remount")
			asOwner("a file closed to all", func() error {
				for i, mode := range []uint32{0o444, 0o200, 0} {
					fd, err := unix.Open(fmt.Sprintf("%s/other%d", m.Dir, i), unix.O_RDWR|unix.O_CLOEXEC, 0)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					if err := unix.Fchmod(fd, mode); err != nil {
						return err
					}
					if _, err := unix.Pwrite(fd, []byte("more"), 3); err != nil {
						return err
					}
					if err := unix.Fsync(fd); err != nil {
						return err
					}
					got := make([]byte, 8)
					if n, err := unix.Pread(fd, got, 0); err != nil || string(got[:n]) != "othmore" {
						return fmt.Errorf("mode %o: %q, %w", mode, got[:n], err)
					}
					var st unix.Stat_t
					if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o7777 != mode {
						return fmt.Errorf("mode %o is %o, %w", mode, st.Mode, err)
					}
				}
				got, err := os.ReadFile(m.Dir + "/held")
				want := bytes.Repeat([]byte("old "), 50_000)
				copy(want[100_000:], bytes.Repeat([]byte("new "), 3000))
				if err == nil && !bytes.Equal(got, want) {
					err = errors.New("the file that was made read-only holds something else")
				}
				return err
			})
		})
	}
}
