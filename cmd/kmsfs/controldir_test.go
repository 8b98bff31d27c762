package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestControlDirRefusesHostile(t *testing.T) {
	base, uid := t.TempDir(), os.Geteuid()
	good := filepath.Join(base, "good")
	for range 2 { // made, then found
		if err := makeControlDir(good, uid); err != nil {
			t.Fatal(err)
		}
	}
	link, open, file := filepath.Join(base, "link"), filepath.Join(base, "open"), filepath.Join(base, "file")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{link, open, file} {
		if makeControlDir(dir, uid) == nil {
			t.Errorf("%s was taken", dir)
		}
	}
	if makeControlDir(good, uid+1) == nil {
		t.Error("the directory of another user was taken")
	}
}

func TestControlDirOfUser(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp")
	for _, c := range []struct {
		uid           int
		runtime, want string
	}{
		{0, "/run/user/0", "/run/kmsfs"},
		{7, "/run/user/7", "/run/user/7/kmsfs"},
		{7, "", "/tmp/kmsfs-7"},
		{7, "relative", "/tmp/kmsfs-7"},
	} {
		if got := controlDir(c.uid, c.runtime); got != c.want {
			t.Errorf("controlDir(%d, %q) = %q, want %q", c.uid, c.runtime, got, c.want)
		}
	}
	if controlSocket("/d", "/m/") != controlSocket("/d", "/m") || controlSocket("/d", "/m") == controlSocket("/d", "/n") {
		t.Error("the socket's name is not of the mountpoint alone")
	}
}
