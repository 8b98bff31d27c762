package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestControlListenReplacesOnlyStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := listenControl(path, os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	if _, err := listenControl(path, os.Geteuid()); err == nil {
		t.Error("the socket of a living daemon was replaced")
	}
	l.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error("the socket was left:", err)
	}
}
