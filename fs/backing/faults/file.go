package faults

import "kmsfs/fs/backing"

// meta is a backing.Meta behind a hook.
type meta struct {
	m    backing.Meta
	hook Hook
}

func (m meta) Stat() (backing.Stat, error) {
	if err := m.hook.ask(Op{Call: Stat}); err != nil {
		return backing.Stat{}, err
	}
	return m.m.Stat()
}

func (m meta) Chmod(mode uint32) error {
	if err := m.hook.ask(Op{Call: Chmod}); err != nil {
		return err
	}
	return m.m.Chmod(mode)
}

func (m meta) Chown(uid, gid uint32) error {
	if err := m.hook.ask(Op{Call: Chown}); err != nil {
		return err
	}
	return m.m.Chown(uid, gid)
}

func (m meta) Utimes(atime, mtime backing.Timespec) error {
	if err := m.hook.ask(Op{Call: Utimes}); err != nil {
		return err
	}
	return m.m.Utimes(atime, mtime)
}

func (m meta) Getxattr(attr string, buf []byte) (int, error) {
	if err := m.hook.ask(Op{Call: Getxattr, Name: attr}); err != nil {
		return 0, err
	}
	return m.m.Getxattr(attr, buf)
}

func (m meta) Setxattr(attr string, value []byte, flags int) error {
	if err := m.hook.ask(Op{Call: Setxattr, Name: attr}); err != nil {
		return err
	}
	return m.m.Setxattr(attr, value, flags)
}

func (m meta) Removexattr(attr string) error {
	if err := m.hook.ask(Op{Call: Removexattr, Name: attr}); err != nil {
		return err
	}
	return m.m.Removexattr(attr)
}

func (m meta) Listxattr(buf []byte) (int, error) {
	if err := m.hook.ask(Op{Call: Listxattr}); err != nil {
		return 0, err
	}
	return m.m.Listxattr(buf)
}

func (m meta) GetFlags() (uint32, error) {
	if err := m.hook.ask(Op{Call: GetFlags}); err != nil {
		return 0, err
	}
	return m.m.GetFlags()
}

func (m meta) SetFlags(flags uint32) error {
	if err := m.hook.ask(Op{Call: SetFlags}); err != nil {
		return err
	}
	return m.m.SetFlags(flags)
}

func (m meta) Close() error {
	_ = m.hook(Op{Call: Close})
	return m.m.Close()
}

// file is a backing.File behind a hook.
type file struct {
	meta
	in backing.File
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, fault := Limit(f.hook(Op{Call: ReadAt, Off: off, Len: int64(len(p))}), int64(len(p)))
	if fault != nil && n == 0 {
		return 0, fault
	}
	m, err := f.in.ReadAt(p[:n], off)
	if err == nil {
		err = fault
	}
	return m, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, fault := Limit(f.hook(Op{Call: WriteAt, Off: off, Len: int64(len(p))}), int64(len(p)))
	if fault != nil && n == 0 {
		return 0, fault
	}
	m, err := f.in.WriteAt(p[:n], off)
	if err == nil {
		err = fault
	}
	return m, err
}

func (f *file) WritevAt(bufs [][]byte, off int64) (int, error) {
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	n, fault := Limit(f.hook(Op{Call: WritevAt, Off: off, Len: total}), total)
	if fault == nil {
		return f.in.WritevAt(bufs, off)
	}
	done := 0
	for _, b := range bufs {
		b = b[:min(int64(len(b)), n-int64(done))]
		if len(b) == 0 {
			continue
		}
		m, err := f.in.WriteAt(b, off+int64(done))
		done += m
		if err != nil {
			return done, err
		}
	}
	return done, fault
}

func (f *file) Truncate(size int64) error {
	if err := f.hook.ask(Op{Call: Truncate, Len: size}); err != nil {
		return err
	}
	return f.in.Truncate(size)
}

func (f *file) Allocate(mode uint32, off, n int64) error {
	if err := f.hook.ask(Op{Call: Allocate, Off: off, Len: n}); err != nil {
		return err
	}
	return f.in.Allocate(mode, off, n)
}

func (f *file) Seek(off int64, whence int) (int64, error) {
	if err := f.hook.ask(Op{Call: Seek, Off: off}); err != nil {
		return 0, err
	}
	return f.in.Seek(off, whence)
}

// CopyRange answers a part as copy_file_range(2) does: less than asked for, and no error until the next call.
func (f *file) CopyRange(dst backing.File, off, dstOff, n int64) (int64, error) {
	n, err := Limit(f.hook(Op{Call: CopyRange, Off: off, Len: n}), n)
	if err != nil && n == 0 {
		return 0, err
	}
	return f.in.CopyRange(bareFile(dst), off, dstOff, n)
}

func (f *file) Sync() error {
	if err := f.hook.ask(Op{Call: Sync}); err != nil {
		return err
	}
	return f.in.Sync()
}

func (f *file) DataSync() error {
	if err := f.hook.ask(Op{Call: DataSync}); err != nil {
		return err
	}
	return f.in.DataSync()
}

func (f *file) WillNeed(off, n int64) {
	_ = f.hook(Op{Call: WillNeed, Off: off, Len: n})
	f.in.WillNeed(off, n)
}
