package metamorphic

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/posix"
)

// slots is how many files a player can hold open.
const slots = 6

// Result is the answer to one operation. Text is what is compared; Data, where there is some, is compared byte for byte
// and left out of the text.
type Result struct {
	Text string
	Data []byte
}

// player plays operations on one tree.
type player struct {
	fs    posix.FS
	files [slots]posix.File
}

// closeAll closes what is open, as a process that ends.
func (p *player) closeAll() error {
	var errs []error
	for i, f := range p.files {
		if f != nil {
			errs = append(errs, f.Close())
			p.files[i] = nil
		}
	}
	return errors.Join(errs...)
}

// play plays op.
func (p *player) play(op Op) Result {
	if f, ok := fileOps()[op.Do]; ok {
		file := p.files[op.FD]
		if file == nil {
			return failed(unix.EBADF)
		}
		return f(p, file, op)
	}
	if f, ok := pathOps()[op.Do]; ok {
		return f(p, op)
	}
	return Result{Text: "no such operation"}
}

// failed is the answer of a call that failed, or the bare success.
func failed(err error) Result {
	var errno syscall.Errno
	switch {
	case err == nil:
		return Result{Text: "ok"}
	case errors.As(err, &errno):
		return Result{Text: unix.ErrnoName(errno)}
	default:
		return Result{Text: err.Error()}
	}
}

// done is the answer of a call that moved data.
func done(n int64, data []byte, err error) Result {
	r := failed(err)
	r.Text += fmt.Sprintf(" n=%d", n)
	r.Data = data
	return r
}

// statResult is the answer of a stat call.
func statResult(st posix.Stat, err error) Result {
	if err != nil {
		return failed(err)
	}
	t := fmt.Sprintf("ok mode=%#o uid=%d gid=%d rdev=%#x", st.Mode, st.UID, st.GID, st.Rdev)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t += fmt.Sprintf(" nlink=%d size=%d", st.Nlink, st.Size)
	}
	return Result{Text: t + " mtime=" + timeText(st.Mtime)}
}

func timeText(t posix.Time) string {
	if t.Recent() {
		return "recent"
	}
	return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec)
}

// bytesOf are the bytes that an operation writes: the same from the same seed, and never all zero.
func bytesOf(seed uint64, n int64) []byte {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), 1})
	b := make([]byte, n)
	_, _ = src.Read(b) // never fails
	return b
}

func pathOps() map[string]func(*player, Op) Result {
	return map[string]func(*player, Op) Result{
		"open":  (*player).open,
		"mkdir": func(p *player, o Op) Result { return failed(p.fs.Mkdir(string(o.Path), o.Mode)) },
		"mknod": func(p *player, o Op) Result { return failed(p.fs.Mknod(string(o.Path), o.Mode, o.Dev)) },
		"symlink": func(p *player, o Op) Result {
			return failed(p.fs.Symlink(strings.Repeat("./", o.Repeat)+string(o.Path2), string(o.Path)))
		},
		"readlink": func(p *player, o Op) Result {
			s, err := p.fs.Readlink(string(o.Path))
			return done(int64(len(s)), []byte(s), err)
		},
		"link":   func(p *player, o Op) Result { return failed(p.fs.Link(string(o.Path), string(o.Path2))) },
		"unlink": func(p *player, o Op) Result { return failed(p.fs.Unlink(string(o.Path))) },
		"rmdir":  func(p *player, o Op) Result { return failed(p.fs.Rmdir(string(o.Path))) },
		"rename": (*player).rename,
		"readdir": func(p *player, o Op) Result {
			entries, err := p.fs.ReadDir(string(o.Path))
			names := make([]string, len(entries))
			for i, e := range entries {
				names[i] = e.Name
			}
			slices.Sort(names)
			return done(int64(len(names)), []byte(strings.Join(names, "/")), err)
		},
		"stat":  func(p *player, o Op) Result { return statResult(p.fs.Stat(string(o.Path))) },
		"chmod": func(p *player, o Op) Result { return failed(p.fs.Chmod(string(o.Path), o.Mode)) },
		"chown": func(p *player, o Op) Result {
			if o.UID == -1 && o.GID == -1 {
				return Result{Text: "of nothing"} // of whether that takes setuid, see SEMANTICS.md
			}
			return failed(p.fs.Chown(string(o.Path), o.UID, o.GID))
		},
		"utimes":   (*player).utimes,
		"truncate": (*player).truncate,
		"setxattr": (*player).setxattr,
		"getxattr": func(p *player, o Op) Result {
			v, err := p.fs.Getxattr(string(o.Path), o.Attr)
			return done(int64(len(v)), v, err)
		},
		"listxattr": func(p *player, o Op) Result {
			m, err := posix.Xattrs(p.fs, string(o.Path))
			return done(int64(len(m)), []byte(strings.Join(slices.Sorted(maps.Keys(m)), " ")), err)
		},
		"removexattr": func(p *player, o Op) Result { return failed(p.fs.Removexattr(string(o.Path), o.Attr)) },
	}
}

// open leaves devices, FIFOs and sockets alone: what stands behind them is not the file system's.
func (p *player) open(o Op) Result {
	if st, err := p.fs.Stat(string(o.Path)); err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
		default:
			return Result{Text: "special"}
		}
	}
	f, err := p.fs.Open(string(o.Path), o.Flags, o.Mode)
	if err != nil {
		return failed(err)
	}
	if old := p.files[o.FD]; old != nil {
		err = old.Close()
	}
	p.files[o.FD] = f
	return failed(err)
}

// setxattr leaves trusted attributes of what is neither file nor directory alone: a vault has no place for them.
func (p *player) setxattr(o Op) Result {
	if st, err := p.fs.Stat(string(o.Path)); err == nil && strings.HasPrefix(o.Attr, "trusted.") {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR:
		default:
			return Result{Text: "special"}
		}
	}
	return failed(p.fs.Setxattr(string(o.Path), o.Attr, bytesOf(o.Seed, o.Len), o.Flags))
}

// rename takes EEXIST for ENOTEMPTY, as rename(2) allows both for a directory that is not empty (xfs says EEXIST).
func (p *player) rename(o Op) Result {
	err := p.fs.Rename(string(o.Path), string(o.Path2), uint32(o.Flags))
	if o.Flags&unix.RENAME_NOREPLACE == 0 && errors.Is(err, unix.EEXIST) {
		err = unix.ENOTEMPTY
	}
	return failed(err)
}

// truncate sets the time where the size stays what it was: file systems choose whether it moves then.
func (p *player) truncate(o Op) Result {
	f, err := p.fs.Open(string(o.Path), unix.O_PATH, 0)
	if err != nil {
		return failed(p.fs.Truncate(string(o.Path), o.Len))
	}
	defer f.Close()
	return truncate(f, o, func() error { return p.fs.Truncate(string(o.Path), o.Len) })
}

// utimes tells the access time too, which nothing has had time to change.
func (p *player) utimes(o Op) Result {
	if err := p.fs.Utimes(string(o.Path), *o.Atime, *o.Mtime); err != nil {
		return failed(err)
	}
	st, err := p.fs.Stat(string(o.Path))
	return withAtime(st, o, err)
}

func withAtime(st posix.Stat, o Op, err error) Result {
	r := statResult(st, err)
	if err == nil && o.Atime.Nsec != posix.UtimeOmit {
		r.Text += " atime=" + timeText(st.Atime)
	}
	return r
}
