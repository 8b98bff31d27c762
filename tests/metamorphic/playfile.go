package metamorphic

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/posix"
)

func fileOps() map[string]func(*player, posix.File, Op) Result {
	type F = posix.File
	return map[string]func(*player, posix.File, Op) Result{
		"close": func(p *player, f F, o Op) Result {
			p.files[o.FD] = nil
			return failed(f.Close())
		},
		"pread":   func(_ *player, f F, o Op) Result { return read(f.Pread, o) },
		"mapread": func(_ *player, f F, o Op) Result { return read(f.MapRead, o) },
		"pwrite": func(_ *player, f F, o Op) Result {
			n, err := f.Pwrite(bytesOf(o.Seed, o.Len), o.Off)
			return done(int64(n), nil, err)
		},
		"write": func(_ *player, f F, o Op) Result {
			n, err := f.Write(bytesOf(o.Seed, o.Len))
			return done(int64(n), nil, err)
		},
		"mapwrite": func(_ *player, f F, o Op) Result {
			n, err := f.MapWrite(bytesOf(o.Seed, o.Len), o.Off)
			return done(int64(n), nil, err)
		},
		"ftruncate": func(_ *player, f F, o Op) Result {
			return truncate(f, o, func() error { return f.Truncate(o.Len) })
		},
		"fallocate": func(_ *player, f F, o Op) Result { return fallocate(f, o) },
		"holes":     func(_ *player, f F, _ Op) Result { return holes(f) },
		"copyrange": func(p *player, f F, o Op) Result {
			dst := p.files[o.FD2]
			if dst == nil {
				return failed(unix.EBADF)
			}
			n, err := f.CopyRange(dst, o.Off, o.Off2, o.Len)
			return done(n, nil, err)
		},
		"fstat":  func(_ *player, f F, _ Op) Result { return statResult(f.Stat()) },
		"fchmod": func(_ *player, f F, o Op) Result { return failed(f.Chmod(o.Mode)) },
		"fchown": func(_ *player, f F, o Op) Result {
			if o.UID == -1 && o.GID == -1 {
				return Result{Text: "of nothing"}
			}
			return failed(f.Chown(o.UID, o.GID))
		},
		"futimes": func(_ *player, f F, o Op) Result {
			if err := f.Utimes(*o.Atime, *o.Mtime); err != nil {
				return failed(err)
			}
			st, err := f.Stat()
			return withAtime(st, o, err)
		},
		"fsetxattr": func(_ *player, f F, o Op) Result {
			return failed(f.Setxattr(o.Attr, bytesOf(o.Seed, o.Len), o.Flags))
		},
		"fgetxattr": func(_ *player, f F, o Op) Result {
			v, err := f.Getxattr(o.Attr)
			return done(int64(len(v)), v, err)
		},
		"fsync":     func(_ *player, f F, _ Op) Result { return failed(f.Sync()) },
		"fdatasync": func(_ *player, f F, _ Op) Result { return failed(f.DataSync()) },
	}
}

func read(call func([]byte, int64) (int, error), o Op) Result {
	buf := make([]byte, o.Len)
	n, err := call(buf, o.Off)
	return done(int64(n), buf[:max(n, 0)], err)
}

// truncate calls do, which truncates f, and sets the time where the size has not changed.
func truncate(f posix.File, o Op, do func() error) Result {
	st, err := f.Stat()
	if err != nil {
		return failed(err)
	}
	err = do()
	if err == nil && st.Size == o.Len {
		err = f.Utimes(posix.Time{Nsec: posix.UtimeOmit}, posix.Time{Nsec: posix.UtimeNow})
	}
	return failed(err)
}

// fallocate sets the time: where the content stays what it was, file systems choose whether it moves.
func fallocate(f posix.File, o Op) Result {
	err := f.Fallocate(o.Mode, o.Off, o.Len)
	if err == nil {
		err = f.Utimes(posix.Time{Nsec: posix.UtimeOmit}, posix.Time{Nsec: posix.UtimeNow})
	}
	return failed(err)
}

// holes walks the file by SEEK_DATA and SEEK_HOLE. Where holes are is the file system's choice; that a hole reads as
// zero, that the walk goes forward and ends at the file's end, is not. The walk ends where it began: SEEK_DATA that
// finds nothing leaves the position alone.
func holes(f posix.File) (r Result) {
	pos, err := f.Seek(0, unix.SEEK_CUR)
	if err != nil {
		return failed(err)
	}
	defer func() {
		if _, err := f.Seek(pos, unix.SEEK_SET); err != nil {
			r = failed(err)
		}
	}()
	st, err := f.Stat()
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return failed(err)
	}
	if _, err := f.Seek(st.Size, unix.SEEK_DATA); err != unix.ENXIO {
		return Result{Text: fmt.Sprintf("SEEK_DATA at the end: %v", err)}
	}
	for off := int64(0); off < st.Size; {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data, err = st.Size, nil
		}
		if err != nil || data < off || data > st.Size {
			return Result{Text: fmt.Sprintf("SEEK_DATA at %d of %d: %d, %v", off, st.Size, data, err)}
		}
		if r := readsZero(f, off, data); r.Text != "ok" || data == st.Size {
			return r
		}
		off, err = f.Seek(data, unix.SEEK_HOLE)
		if err != nil || off <= data || off > st.Size {
			return Result{Text: fmt.Sprintf("SEEK_HOLE at %d of %d: %d, %v", data, st.Size, off, err)}
		}
	}
	return failed(nil)
}

// readsZero fails where the range, said to be a hole, holds something. A file that is not open for reading passes.
func readsZero(f posix.File, off, end int64) Result {
	buf := make([]byte, 256<<10)
	for off < end {
		n, err := f.Pread(buf[:min(int64(len(buf)), end-off)], off)
		if err == unix.EBADF {
			return failed(nil)
		}
		if err != nil || n == 0 {
			return Result{Text: fmt.Sprintf("hole at %d of %d cannot be read: %v", off, end, err)}
		}
		if i := bytes.IndexFunc(buf[:n], func(r rune) bool { return r != 0 }); i >= 0 {
			return Result{Text: fmt.Sprintf("data at %d, which is said to be a hole", off+int64(i))}
		}
		off += int64(n)
	}
	return failed(nil)
}
