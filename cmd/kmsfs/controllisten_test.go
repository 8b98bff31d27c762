package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestControlListenReplacesOnlyStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := listenControl(t.Context(), path, os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	brief, cancel := context.WithTimeout(t.Context(), 2*controlLook)
	defer cancel()
	if _, err := listenControl(brief, path, os.Geteuid()); err == nil {
		t.Error("the socket of a living daemon was replaced")
	}
	l.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error("the socket was left:", err)
	}
}

func TestControlListenKeepsWhatIsNoSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listenControl(t.Context(), path, os.Geteuid()); err == nil {
		l.Close()
		t.Error("a file was replaced")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

// TestControlListenOnce: of many daemons that begin at once over a dead socket, one listens, and its socket is reached.
func TestControlListenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 20 {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		brief, cancel := context.WithTimeout(t.Context(), 2*controlLook)
		var mu sync.Mutex
		var won []*controlListener
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if l, err := listenControl(brief, path, os.Geteuid()); err == nil {
					mu.Lock()
					defer mu.Unlock()
					won = append(won, l)
				}
			})
		}
		wg.Wait()
		cancel()
		if len(won) != 1 {
			t.Fatalf("%d listen", len(won))
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		won[0].Close()
	}
}

// TestControlListenPeers: only the user and root are heard, whatever the modes of socket and directory say.
func TestControlListenPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to connect as several users")
	}
	dir, err := os.MkdirTemp("/tmp", "kmsfs-peers")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	const user, other = 54321, 54322
	l, err := listenControl(t.Context(), path, user)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("x"))
			c.Close()
		}
	}()
	for uid, want := range map[int]int{0: 1, user: 1, other: 0} {
		got := make(chan int, 1)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with its user
			if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); no != 0 {
				t.Error(no)
			}
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Error(err)
				got <- -1
				return
			}
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, _ := c.Read(make([]byte, 1))
			got <- n
		}()
		if n := <-got; n != want {
			t.Errorf("user %d got %d bytes, want %d", uid, n, want)
		}
	}
}
