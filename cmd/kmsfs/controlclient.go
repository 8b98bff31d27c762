package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"kmsfs/keysource"
)

// controlLineMax bounds one line of an answer.
const controlLineMax = 1 << 20

// controlMount finds the mount to control: the one on path, or that of the vault at path.
func controlMount(path string) (mountEntry, error) {
	target, err := resolve(path)
	if err != nil {
		return mountEntry{}, err
	}
	m, err := mountAt(target)
	if err == nil {
		return m, nil
	}
	switch of := mountsOf(target); {
	case len(of) == 1:
		return of[0], nil
	case len(of) > 1:
		return m, hintf(faultf(errUsage, "the vault %s has several mounts here", target), "name a mountpoint; kmsfs status shows them")
	case holdsVault(target):
		return m, hintf(faultf(errNotMounted, "the vault %s is not mounted here", target), "kmsfs mount %s MOUNTPOINT", quote(target))
	}
	return m, hintf(faultf(errNotMounted, "%s is neither a mount of kmsfs nor a vault that is mounted", target), "kmsfs status")
}

// control has the daemon of m do a verb. request goes to it as JSON; got is called with each line of its answer.
func (a *app) control(ctx context.Context, m mountEntry, verb string, request any, got func(line json.RawMessage) error) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answer, err := a.controlHTTP(ctx, m, http.MethodPost, controlPath+verb, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	lines := bufio.NewScanner(answer)
	lines.Buffer(nil, controlLineMax)
	for lines.Scan() {
		var line controlLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return faultf(errNoControl, "answer of the daemon of %s: %w", m.Mountpoint, err)
		}
		switch {
		case line.Error != nil:
			return keysource.WithHint(line.Error, line.Error.Hint)
		case line.Done:
			return nil
		case got != nil:
			if err := got(line.Line); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return hintf(faultf(errNoControl, "the daemon of %s ended before it was done", m.Mountpoint), "kmsfs status %s", quote(m.Mountpoint))
}

// controlHTTP makes one request to the daemon of m. The caller closes the answer.
func (a *app) controlHTTP(ctx context.Context, m mountEntry, method, path string, body []byte) (io.ReadCloser, error) {
	socket, err := a.findControl(m)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: controlHeaderSize,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: controlHead}).DialContext(ctx, "unix", socket)
		}}
	r, err := http.NewRequestWithContext(ctx, method, "http://kmsfs"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := t.RoundTrip(r)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, iofs.ErrPermission):
		return nil, otherUsersMount(m)
	case err != nil:
		return nil, noControl(m, err)
	case answer.StatusCode == http.StatusOK:
		return answer.Body, nil
	}
	answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusMethodNotAllowed {
		return nil, hintf(faultf(errNoControl, "the daemon of %s is of another version and does not know this", m.Mountpoint),
			"kmsfs umount %s, then mount it again", quote(m.Mountpoint))
	}
	return nil, noControl(m, errors.New(answer.Status))
}

// findControl finds the socket of the daemon of m, which is in a directory of the user who mounted.
func (a *app) findControl(m mountEntry) (string, error) {
	owner := a.uid
	if id, ok := m.has("user_id"); ok {
		if n, err := strconv.Atoi(id); err == nil {
			owner = n
		}
	}
	if a.uid != 0 && a.uid != owner {
		return "", otherUsersMount(m)
	}
	var last error
	for _, dir := range controlDirs(owner, a.uid, a.env("XDG_RUNTIME_DIR")) {
		err := checkControlDir(dir, owner)
		if err == nil {
			socket := controlSocket(dir, m.Mountpoint)
			c, e := net.DialTimeout("unix", socket, time.Second)
			if e == nil {
				c.Close()
				return socket, nil
			}
			err = e
		}
		if last == nil || !errors.Is(err, iofs.ErrNotExist) {
			last = err
		}
	}
	return "", noControl(m, last)
}

// controlDirs are the directories where the daemon of a mount of owner may have its socket, as seen by uid.
func controlDirs(owner, uid int, runtimeDir string) []string {
	if owner == 0 {
		return []string{controlDir(0, "")}
	}
	dirs := []string{controlDir(owner, filepath.Join("/run/user", strconv.Itoa(owner))), controlDir(owner, "")}
	if own := controlDir(owner, runtimeDir); uid == owner && own != dirs[0] && own != dirs[1] {
		dirs = append([]string{own}, dirs...)
	}
	return dirs
}

func otherUsersMount(m mountEntry) error {
	return hintf(faultf(iofs.ErrPermission, "%s was mounted by another user", m.Mountpoint), "become that user or root: sudo kmsfs ctl ...")
}

// noControl is the error of a daemon that cannot be reached.
func noControl(m mountEntry, err error) error {
	if stateOf(m.Mountpoint) == stateGone {
		return hintf(faultf(errNoControl, "the daemon of %s is gone", m.Mountpoint), "kmsfs umount %s", quote(m.Mountpoint))
	}
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("it has no control socket: %w", err)
	}
	return hintf(faultf(errNoControl, "the daemon of %s cannot be reached: %w", m.Mountpoint, err),
		"the log of the mount says why; kmsfs umount %s, then mount it again", quote(m.Mountpoint))
}
