package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attach mounts a new FUSE connection on dir and returns its descriptor, on which the INIT request waits.
// Root mounts by mount(2); everybody else by fusermount3(1), which is set-uid.
func attach(dir string, o Options) (int, error) {
	if os.Geteuid() == 0 {
		return mountDirect(dir, o)
	}
	return mountHelper(dir, o)
}

func mountDirect(dir string, o Options) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d",
		fd, st.Mode&unix.S_IFMT, os.Geteuid(), os.Getegid(), maxRequest)
	if o.AllowOther {
		data += ",allow_other,default_permissions" // root alone needs no checks, and they cost requests
	}
	flags := o.mountFlags()
	if err := unix.Mount(o.Source, dir, "fuse."+o.subtype, flags, data); err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	return fd, nil
}

func mountHelper(dir string, o Options) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "commfd"), os.NewFile(uintptr(pair[1]), "commfd")
	defer ours.Close()
	defer theirs.Close()
	opts := []string{"fsname=" + escape(o.Source), "subtype=" + o.subtype, "default_permissions", fmt.Sprintf("max_read=%d", maxRequest)}
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	opts = append(opts, o.mountOptions()...)
	cmd := exec.Command("fusermount3", "-o", strings.Join(opts, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 4), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	return fds[0], nil
}

// escape protects what fusermount3 reads as a separator.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

// detach unmounts dir. flags are those of umount2(2); of them the helper knows MNT_DETACH.
func detach(dir string, flags int) error {
	if os.Geteuid() == 0 {
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|flags); err != nil {
			return &os.PathError{Op: "umount", Path: dir, Err: err}
		}
		return nil
	}
	args := []string{"-u", "--", dir}
	if flags&unix.MNT_DETACH != 0 {
		args = append([]string{"-z"}, args...)
	}
	if out, err := exec.Command("fusermount3", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// setReadAhead widens the kernel's read-ahead, which INIT cannot ask beyond 128 KiB. Only root may; others keep that.
func setReadAhead(st *unix.Statx_t, bytes int, log *slog.Logger) {
	p := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", st.Dev_major, st.Dev_minor)
	if err := os.WriteFile(p, []byte(strconv.Itoa(bytes>>10)), 0); err != nil {
		log.Debug("read-ahead stays at the kernel's", "err", err)
	}
}
