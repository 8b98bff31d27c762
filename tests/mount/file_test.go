package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// open opens path below the mount and closes it at the test's end.
func open(t *testing.T, path string, flags int, mode uint32) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	check(t, err, "open "+path)
	t.Cleanup(func() { check(t, unix.Close(fd), "close "+path) })
	return fd
}

// wantAt fails the test where the file does not hold want at off.
func wantAt(t *testing.T, fd int, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := unix.Pread(fd, got, off)
	check(t, err, "pread")
	if n != len(want) || !bytes.Equal(got, want) {
		t.Errorf("at %d: %d bytes, %.40q, want %d, %.40q", off, n, got[:n], len(want), want)
	}
}

// TestSparse writes at the ends of a file of more than a terabyte, which must stay sparse.
func TestSparse(t *testing.T) {
	const size = 3 << 40
	modes(t, lab.Backing(t, map[bool]string{true: "xfs", false: "dir"}[os.Geteuid() == 0]), func(t *testing.T, m *lab.Mount) {
		fd := open(t, m.Dir+"/huge", unix.O_RDWR|unix.O_CREAT, 0o644)
		for _, off := range []int64{0, 1<<40 + 12345, size - 5} {
			_, err := unix.Pwrite(fd, []byte("there"), off)
			check(t, err, "pwrite")
		}
		check(t, unix.Fsync(fd), "fsync")
		var st unix.Stat_t
		check(t, unix.Fstat(fd, &st), "fstat")
		if st.Size != size || st.Blocks > 10_000 {
			t.Errorf("size %d, want %d; %d blocks of 512 bytes, want few", st.Size, int64(size), st.Blocks)
		}
		for _, off := range []int64{0, 1<<40 + 12345, size - 5} {
			wantAt(t, fd, off, []byte("there"))
		}
		wantAt(t, fd, 1<<39, make([]byte, 5000))
		data, err := unix.Seek(fd, 1<<30, unix.SEEK_DATA)
		if err != nil || data > 1<<40+12345 || data < 1<<40 {
			t.Errorf("SEEK_DATA: %d, %v", data, err)
		}
		check(t, unix.Ftruncate(fd, 1<<40), "truncate")
		check(t, unix.Ftruncate(fd, 1<<41), "truncate up")
		wantAt(t, fd, 1<<40+12300, make([]byte, 100))
	})
}

// TestTmpfile makes unnamed files, gives one a name, and holds that O_EXCL forbids it.
func TestTmpfile(t *testing.T) {
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		fd, err := unix.Open(m.Dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Fatal("no O_TMPFILE")
		}
		check(t, err, "open")
		defer unix.Close(fd)
		content := bytes.Repeat([]byte("unnamed "), 1000)
		_, err = unix.Pwrite(fd, content, 0)
		check(t, err, "pwrite")
		var st unix.Stat_t
		check(t, unix.Fstat(fd, &st), "fstat")
		if st.Nlink != 0 || st.Mode != unix.S_IFREG|0o640 {
			t.Errorf("nlink %d, mode %o", st.Nlink, st.Mode)
		}
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, m.Dir+"/named", unix.AT_SYMLINK_FOLLOW)
		check(t, err, "linkat")
		got, err := os.ReadFile(m.Dir + "/named")
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("by its name: %d bytes, %v", len(got), err)
		}
	})
}

// TestUnlinked works on a file without a name, as programs do with their temporary files.
func TestUnlinked(t *testing.T) {
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		path := m.Dir + "/file"
		fd := open(t, path, unix.O_RDWR|unix.O_CREAT|unix.O_SYNC, 0o600)
		other := open(t, path, unix.O_RDONLY, 0)
		_, err := unix.Write(fd, []byte("before"))
		check(t, err, "write")
		check(t, unix.Unlink(path), "unlink")
		check(t, os.WriteFile(path, []byte("another file of that name"), 0o644), "write")
		_, err = unix.Pwrite(fd, bytes.Repeat([]byte("x"), 300_000), 6)
		check(t, err, "pwrite")
		wantAt(t, other, 0, []byte("beforexxxx"))
		check(t, unix.Ftruncate(fd, 100_000), "ftruncate")
		check(t, unix.Fchmod(fd, 0o4711), "fchmod")
		check(t, unix.Fsetxattr(fd, "user.gone", []byte("still"), 0), "fsetxattr")
		check(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10, 50_000), "punch")
		times := []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}
		check(t, unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH), "futimens")
		check(t, unix.Fsync(fd), "fsync")
		wantAt(t, other, 5, append([]byte("exxxx"), make([]byte, 40)...))
		var st unix.Stat_t
		check(t, unix.Fstat(other, &st), "fstat")
		if st.Nlink != 0 || st.Size != 100_000 || st.Mode&0o7777 != 0o4711 || st.Mtim.Nano() != 7_000_000_008 {
			t.Errorf("nlink %d, size %d, mode %o, mtime %v", st.Nlink, st.Size, st.Mode, st.Mtim)
		}
		got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", other))
		if err != nil || len(got) != 100_000 {
			t.Errorf("opened again by /proc: %d bytes, %v", len(got), err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "another file of that name" {
			t.Errorf("the other file: %q, %v", got, err)
		}
	})
}

// TestCoherence holds that mappings, buffered and direct calls on one file all see each other's writes.
func TestCoherence(t *testing.T) {
	const size = 1 << 20
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		path := m.Dir + "/file"
		fd, second := open(t, path, unix.O_RDWR|unix.O_CREAT, 0o644), open(t, path, unix.O_RDWR, 0)
		direct := open(t, path, unix.O_RDWR|unix.O_DIRECT, 0)
		check(t, unix.Ftruncate(fd, size), "truncate")
		mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		check(t, err, "mmap")
		defer unix.Munmap(mem)
		aligned, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		check(t, err, "mmap")
		defer unix.Munmap(aligned)

		for i := range 50 {
			off := int64(i*20_000) &^ 4095
			word := []byte(fmt.Sprintf("round %d", i))
			copy(mem[off:], word)
			wantAt(t, second, off, word)
			_, err := unix.Pwrite(second, []byte("written"), off+100)
			check(t, err, "pwrite")
			if got := string(mem[off+100 : off+107]); got != "written" {
				t.Fatalf("the mapping shows %q after a write", got)
			}
			check(t, unix.Msync(mem, unix.MS_SYNC), "msync")
			_, err = unix.Pread(direct, aligned[:4096], off)
			check(t, err, "direct read")
			if !bytes.HasPrefix(aligned, word) || string(aligned[100:107]) != "written" {
				t.Fatalf("the direct read shows %q", aligned[:110])
			}
			copy(aligned, "direct")
			_, err = unix.Pwrite(direct, aligned[:4096], off)
			check(t, err, "direct write")
			wantAt(t, fd, off, []byte("direct"))
			if got := string(mem[off : off+6]); got != "direct" {
				t.Fatalf("the mapping shows %q after a direct write", got)
			}
		}
	})
}

// TestInodeFlags reads the flags of lsattr(1).
func TestInodeFlags(t *testing.T) {
	lab.NeedRoot(t)
	modes(t, lab.Backing(t, "ext4"), func(t *testing.T, m *lab.Mount) {
		fd := open(t, m.Dir+"/file", unix.O_RDWR|unix.O_CREAT, 0o644)
		flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		check(t, err, "FS_IOC_GETFLAGS")
		const noatime = 0x80
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|noatime))
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
			return // reading is all that is promised
		}
		check(t, err, "FS_IOC_SETFLAGS")
		flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		check(t, err, "FS_IOC_GETFLAGS")
		if flags&noatime == 0 {
			t.Errorf("flags %#x, without the one that was set", flags)
		}
	})
}

// TestStatfs holds that df(1) shows the room there is.
func TestStatfs(t *testing.T) {
	base := lab.Backing(t, backingKind())
	modes(t, base, func(t *testing.T, m *lab.Mount) {
		var want, got unix.Statfs_t
		check(t, unix.Statfs(base, &want), "statfs")
		check(t, unix.Statfs(m.Dir, &got), "statfs")
		if got.Bsize != want.Bsize || got.Blocks != want.Blocks || got.Namelen != 255 || got.Bavail == 0 {
			t.Errorf("statfs: %+v, of the backing file system: %+v", got, want)
		}
	})
}

// TestManyEntries lists a directory that takes many calls to read while entries come and go; those that stay are seen
// exactly once.
func TestManyEntries(t *testing.T) {
	const stay, churned = 2000, 500
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		for i := range stay {
			check(t, os.WriteFile(fmt.Sprintf("%s/stay-%05d-%s", m.Dir, i, bytes.Repeat([]byte("n"), i%150)), nil, 0o644), "create")
		}
		stop, stopped := make(chan struct{}), make(chan error)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				path := fmt.Sprintf("%s/comes-and-goes-%d", m.Dir, i%churned)
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					stopped <- err
					return
				}
				if err := os.Remove(path); err != nil {
					stopped <- err
					return
				}
			}
		}()
		for range 3 {
			seen := map[string]int{}
			entries, err := os.ReadDir(m.Dir)
			check(t, err, "readdir")
			for _, e := range entries {
				if match, _ := filepath.Match("stay-*", e.Name()); match {
					seen[e.Name()]++
				}
			}
			for name, n := range seen {
				if n != 1 {
					t.Errorf("%s is listed %d times", name, n)
				}
			}
			if len(seen) != stay {
				t.Errorf("%d entries of %d are listed", len(seen), stay)
			}
		}
		close(stop)
		check(t, <-stopped, "making and removing")
	})
}

// TestBirth holds that statx tells when a file was made, and that it does not move.
func TestBirth(t *testing.T) {
	modes(t, lab.Backing(t, backingKind()), func(t *testing.T, m *lab.Mount) {
		path := m.Dir + "/file"
		check(t, os.WriteFile(path, nil, 0o644), "create")
		birth := func() unix.Statx_t {
			var sx unix.Statx_t
			check(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_BTIME|unix.STATX_BASIC_STATS, &sx), "statx")
			return sx
		}
		first := birth()
		if first.Mask&unix.STATX_BTIME == 0 {
			t.Skip("no birth time: the kernel or the backing file system has none to give")
		}
		if age := time.Since(time.Unix(first.Btime.Sec, int64(first.Btime.Nsec))).Abs(); age > time.Minute {
			t.Errorf("made %v ago", age)
		}
		check(t, os.WriteFile(path, []byte("content"), 0o644), "write")
		check(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)), "utimes")
		if again := birth(); again.Btime != first.Btime {
			t.Errorf("the birth time has moved from %v to %v", first.Btime, again.Btime)
		}
	})
}
