package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstInherited is the first descriptor that systemd passes, see sd_listen_fds(3).
const firstInherited = 3

// inheritedSockets are the listening sockets that systemd passed to this process.
func (a *app) inheritedSockets() ([]net.Listener, error) {
	if a.env("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.ParseUint(a.env("LISTEN_FDS"), 10, 8)
	if err != nil {
		return nil, faultf(errUsage, "LISTEN_FDS=%s is not a number", a.env("LISTEN_FDS"))
	}
	var out []net.Listener
	for fd := firstInherited; fd < firstInherited+int(n); fd++ {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "inherited socket")
		l, err := net.FileListener(f)
		_ = f.Close() // the listener has its own
		if err != nil {
			for _, l := range out {
				_ = l.Close()
			}
			return nil, fmt.Errorf("socket %d of systemd: %w", fd, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the socket is systemd's
		}
		out = append(out, l)
	}
	return out, nil
}

// tellSystemd tells the service manager about the state of this process, see sd_notify(3). Without one it does nothing.
func (a *app) tellSystemd(log *slog.Logger, state string) {
	path := a.env("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if rest, ok := strings.CutPrefix(path, "@"); ok {
		path = "\x00" + rest
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close()
	}
	if err != nil {
		log.Warn("the service manager was not told", "state", state, "error", err)
	}
}
