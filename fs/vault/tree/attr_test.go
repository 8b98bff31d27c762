package tree_test

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/tree/treetest"
)

// acl is an ACL with an entry for a user, as the kernel keeps it (linux/posix_acl_xattr.h).
func acl(user uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, ^uint32(0)}, {2, 7, user}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 5, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// A directory that gives an ACL to what is made in it gives none to a copy of what has none.
func TestInheritedACL(t *testing.T) {
	d, path := treetest.Plain(t)
	if err := unix.Setxattr(path, "system.posix_acl_default", acl(65534), 0); errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("no ACLs on this file system")
	} else if err != nil {
		t.Fatal(err)
	}
	st := backing.Stat{Mode: unix.S_IFREG | 0o640, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if err := tree.PutFile(d, "file", func(f backing.File) error { return tree.SetAttrs(f, &st, nil, tree.New) }); err != nil {
		t.Fatal(err)
	}
	if x, err := tree.ReadXattrs(tree.Named(d, "file")); err != nil || len(x) > 0 {
		t.Errorf("got %q, %v", x, err)
	}
	if got, err := d.StatAt("file"); err != nil || got.Mode != st.Mode {
		t.Errorf("mode %o, %v", got.Mode, err)
	}
}

// Who is not root copies a file that nobody may write with its attributes, and the setuid bit of another as none of his.
func TestAttrsOfUser(t *testing.T) {
	if os.Geteuid() == 0 {
		b, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		home, err := os.MkdirTemp("", "tree")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(home) })
		program := filepath.Join(home, "test")
		if err := errors.Join(os.WriteFile(program, b, 0o755), os.Chmod(program, 0o755), os.Chmod(home, 0o777)); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(program, "-test.run", "^TestAttrsOfUser$")
		c.Dir, c.Env = home, []string{"TMPDIR=" + home}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	d, _ := treetest.Plain(t)
	for _, c := range []struct {
		uid, gid   uint32
		mode, want uint32
	}{
		{uint32(os.Geteuid()), uint32(os.Getegid()), 0o6555, 0o6555},
		{0, 0, 0o6755, 0o755},
		{0, 0, 0o444, 0o444},
	} {
		st := backing.Stat{Mode: unix.S_IFREG | c.mode, UID: c.uid, GID: c.gid}
		for _, value := range []string{"one", "two"} {
			x := tree.Xattrs{"user.x": []byte(value)}
			if err := tree.PutFile(d, "file", func(f backing.File) error { return tree.SetAttrs(f, &st, x, tree.New) }); err != nil {
				t.Fatal(err)
			}
			x["user.x"] = append(x["user.x"], '+')
			if err := tree.SetAttrs(tree.Named(d, "file"), &st, x, tree.Old); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := d.StatAt("file"); err != nil || got.Mode&0o7777 != c.want {
			t.Errorf("%o of %d: got %o, %v", c.mode, c.uid, got.Mode, err)
		}
	}
}

// What a vault says of its files in attributes of its own goes with none: it could not be set.
func TestAttrsOfVaults(t *testing.T) {
	d, _ := treetest.Plain(t)
	treetest.WriteFile(t, d, "file", nil)
	for _, name := range []string{"user.kmsfs.file-id", "user.other"} {
		if err := d.SetxattrAt("file", name, []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if x, err := tree.ReadXattrs(tree.Named(d, "file")); err != nil || len(x) != 1 || x["user.other"] == nil {
		t.Errorf("got %q, %v", x, err)
	}
}
