// Package reverse_test shows plain directories in reverse on real mounts, copies what is shown with the tools that people
// use for backups, and opens the copies as vaults.
package reverse_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
)

// mountReverse shows a new directory in reverse.
func mountReverse(t *testing.T, flags ...string) *lab.Mount {
	t.Helper()
	lab.NeedRoot(t)
	if !lab.IsKMSFS() {
		t.Skip("KMSFS_TEST_FS names something that has no reverse mount")
	}
	return lab.MountNew(t, lab.Options{Flags: append([]string{"--reverse"}, flags...)})
}

// fill makes a source with a bit of everything, in the default chunk size and others.
func fill(t *testing.T, dir string) {
	t.Helper()
	lab.Need(t, "setfattr", "setfacl", "setcap")
	lab.Run(t, dir, "bash", "-euc", `
		for n in 0 1 3967 3968 3969 4095 4096 4097 16383 16384 16385 258047 258048 258049 1032192 1032193 3000001; do
			head -c $n /dev/urandom > "size $n"
		done
		mkdir -p a/b/c .hidden; chmod 1777 a/b; echo deep > a/b/c/file; echo dot > .hidden/.x; echo name > .kmsfs
		for n in 160 161 200 255; do
			long=$(head -c $n < /dev/zero | tr '\0' n); echo $n > "a/$long"; mkdir "a/b/$long"; echo $n > "a/b/$long/in"
		done
		ln -s a/b relative; ln -s /nowhere absolute; ln -s "$(head -c 3039 < /dev/zero | tr '\0' t)" long-target
		ln "size 4097" linked; ln "size 4097" a/linked
		mkfifo fifo; mknod null c 1 3
		truncate -s 30M sparse; printf x | dd of=sparse bs=1 seek=29000000 conv=notrunc status=none
		printf y | dd of=sparse bs=1 seek=100 conv=notrunc status=none; truncate -s 1M hole
		setfattr -n user.colour -v blue "size 4096"; setfattr -n user.colour -v red "size 0"; setfattr -n user.x -v 1 a
		setfacl -m u:1234:r "size 1"; setfacl -d -m g:77:rx a/b; cp "size 1" capable; setcap cap_net_raw+ep capable
		chmod 4751 "size 3967"; chown 12:34 "size 3968"; chmod 000 "size 1"; touch -d 2001-02-03T04:05:06.789 "size 4095" a/b -h relative`)
	time.Sleep(1100 * time.Millisecond) // the kernel's memory of attributes
}

// mountCopy mounts a copy of a view as an ordinary vault, read-only unless flags say otherwise.
func mountCopy(t *testing.T, dir string, flags ...string) string {
	t.Helper()
	kmsfs := lab.Binary(t, "cmd/kmsfs")
	at := lab.Subdir(t, lab.Dir(t), "plain", 0o755)
	lab.Run(t, "/", kmsfs, append(append([]string{"mount", "--allow-other"}, flags...), dir, at)...)
	t.Cleanup(func() { lab.Run(t, "/", kmsfs, "umount", at) })
	return at
}

// same compares the source with the plaintext of a copy.
func same(t *testing.T, what, src, plain string) {
	t.Helper()
	want, err := posix.Snapshot(posix.NewDir(src), posix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for path := range want {
		if path == ".kmsfs.reverse" || strings.HasPrefix(path, ".kmsfs.reverse/") {
			delete(want, path)
		}
	}
	got, err := posix.Snapshot(posix.NewDir(plain), posix.Options{})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if len(want) < 40 {
		t.Fatalf("%d files were compared", len(want))
	}
	if d := want.Diff(got); len(d) > 0 {
		t.Errorf("%s: %d paths differ:\n%s", what, len(d), strings.Join(d[:min(len(d), 20)], "\n"))
	}
}

// tools are commands that copy the view at $1 into the empty directory $2.
func tools() map[string]string {
	return map[string]string{
		"rsync": `rsync -aHAXS "$1/" "$2/"`,
		"cp":    `cp -a "$1/." "$2/"`,
		"tar":   `tar -C "$1" --acls --xattrs --xattrs-include='*' -cSf - . | tar -C "$2" --acls --xattrs --xattrs-include='*' --same-owner -xpf -`,
	}
}

// TestCopies: a copy of the view by any tool is a vault that holds what the source holds, and can be rewrapped and written to.
func TestCopies(t *testing.T) {
	lab.Need(t, "rsync", "tar")
	for _, chunk := range []string{"4096", "16384"} {
		m := mountReverse(t, "--chunk-size", chunk)
		fill(t, m.Backing)
		for tool, script := range tools() {
			if chunk != "4096" && tool != "rsync" {
				continue
			}
			to := lab.Subdir(t, lab.Dir(t), "copy", 0o755)
			lab.Run(t, "/", "bash", "-euo", "pipefail", "-c", script, tool, m.Dir, to)
			same(t, tool, m.Backing, mountCopy(t, to, "--read-only"))
			lab.Run(t, "/", lab.Binary(t, "cmd/kmsfs"), "verify", to)
			if used, err := strconv.Atoi(strings.Fields(lab.Run(t, to, "du", "-sk", "."))[0]); err != nil || used > 20000 {
				t.Errorf("%s: the copy takes %d KiB, %v: no hole is one", tool, used, err)
			}
			if tool == "rsync" {
				lab.Run(t, "/", lab.Binary(t, "cmd/kmsfs"), "rewrap", "--force", to)
				plain := mountCopy(t, to)
				same(t, "rewrapped", m.Backing, plain)
				lab.Run(t, plain, "bash", "-euc", `echo more >> "size 4097"; echo new > new; mv a/b/c moved; cat moved/file linked > /dev/null`)
			}
		}
	}
}

// sums are the hashes, sizes and times of all that the view shows.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(lab.Run(t, dir, "bash", "-euc", `find . -type f -print0 | xargs -0 b2sum -l 128
		find . -printf '%y %i %n %m %U %G %s %T@ l=%l  @%p\n'`)) {
		value, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		out[path] = value
	}
	return out
}

// TestStable: a second mount by a new process shows the same bytes, inode numbers and times; a new file adds its own, and a
// rewrap of the state changes the key tables and vault.json alone, also while it is mounted.
func TestStable(t *testing.T) {
	m := mountReverse(t)
	fill(t, m.Backing)
	differ := func(what string, a, b map[string]string, allowed func(path string) bool) {
		t.Helper()
		for path := range a {
			if a[path] != b[path] && !allowed(path) {
				t.Errorf("%s: %s was %s, is %s", what, path, a[path], b[path])
			}
		}
		for path := range b {
			if a[path] == "" && !allowed(path) {
				t.Errorf("%s: %s is new", what, path)
			}
		}
	}
	control := func(path string) bool { return strings.HasPrefix(strings.TrimPrefix(path, "@")+"/", "./.kmsfs/") }
	lab.Run(t, m.Dir, "ls", ".kmsfs/keys") // makes all data keys
	first := sums(t, m.Dir)
	if err := m.Remount(); err != nil {
		t.Fatal(err)
	}
	differ("remounted", first, sums(t, m.Dir), func(string) bool { return false })

	kmsfs := lab.Binary(t, "cmd/kmsfs")
	lab.Run(t, "/", kmsfs, "rewrap", "--force", m.Backing+"/.kmsfs.reverse")
	differ("rewrapped", first, sums(t, m.Dir), control)
	second := sums(t, m.Dir)
	lab.Run(t, m.Backing, "bash", "-euc", "echo new > a/b/new")
	time.Sleep(1100 * time.Millisecond) // the kernel's memory of names
	added := 0
	third := sums(t, m.Dir)
	lab.Run(t, m.Dir, "ls", ".kmsfs/keys")
	differ("a new file", second, third, func(path string) bool {
		if second[path] == "" && !control(path) {
			added++
			return true
		}
		return control(path) || strings.HasPrefix(path, "@./") && strings.HasPrefix(second[path], "d ") // the directory's time
	})
	if added != 2 { // its content and its attributes
		t.Errorf("a new file adds %d lines", added)
	}
}

// TestSmallChange: restic and rsync have little to do for a small change in a large file.
func TestSmallChange(t *testing.T) {
	lab.Need(t, "rsync")
	m := mountReverse(t)
	lab.Run(t, m.Backing, "bash", "-euc", "head -c 64M /dev/urandom > large; echo small > small")
	to := lab.Subdir(t, lab.Dir(t), "copy", 0o755)
	rsync := func() (sent int) {
		for line := range strings.Lines(lab.Run(t, "/", "rsync", "-a", "--inplace", "--no-whole-file", "--stats", m.Dir+"/", to+"/")) {
			if v, ok := strings.CutPrefix(line, "Literal data: "); ok {
				sent, _ = strconv.Atoi(strings.ReplaceAll(strings.Fields(v)[0], ",", ""))
			}
		}
		return sent
	}
	rsync()
	time.Sleep(1100 * time.Millisecond) // rsync looks at whole seconds
	lab.Run(t, m.Backing, "bash", "-euc", "dd if=/dev/urandom of=large bs=4096 count=1 seek=5000 conv=notrunc status=none")
	time.Sleep(1100 * time.Millisecond)
	if sent := rsync(); sent == 0 || sent > 64<<10 { // in blocks of 8 KiB
		t.Errorf("rsync sends %d bytes", sent)
	}
	plain := mountCopy(t, to, "--read-only")
	lab.Run(t, "/", "cmp", plain+"/large", m.Backing+"/large")
}

// TestReadOnly: nothing can be changed, by root neither.
func TestReadOnly(t *testing.T) {
	m := mountReverse(t)
	fill(t, m.Backing)
	some, _, _ := strings.Cut(lab.Run(t, "/", "find", m.Dir, "-type", "f", "-size", "+100k"), "\n")
	for what, err := range map[string]error{
		"mkdir": os.Mkdir(m.Dir+"/x", 0o700), "create": os.WriteFile(m.Dir+"/x", nil, 0o600), "unlink": os.Remove(some),
		"rename": os.Rename(some, some+"x"), "chmod": os.Chmod(some, 0o700), "truncate": os.Truncate(m.Dir+"/.kmsfs/vault.json", 0),
		"utimes": os.Chtimes(m.Dir, time.Now(), time.Now()), "setxattr": syscall.Setxattr(m.Dir, "user.x", []byte("1"), 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestPlaces: the state may be elsewhere, for a source that is read-only, and other file systems are left out where asked.
func TestPlaces(t *testing.T) {
	state := lab.Subdir(t, lab.Dir(t), "state", 0o700)
	m := mountReverse(t, "--state", state, "--one-file-system")
	fill(t, m.Backing)
	other := lab.Subdir(t, m.Backing, "other", 0o755)
	lab.Run(t, "/", "mount", "-t", "tmpfs", "none", other)
	defer lab.Run(t, "/", "umount", "-l", other) // the daemon may look at it
	lab.Run(t, other, "bash", "-euc", "echo there > file; mkdir dir; echo there > dir/file")
	to := lab.Subdir(t, lab.Dir(t), "copy", 0o755)
	lab.Run(t, "/", "cp", "-a", m.Dir+"/.", to)
	plain := mountCopy(t, to, "--read-only")
	if left, err := os.ReadDir(plain + "/other"); err != nil || len(left) != 0 {
		t.Errorf("of the other file system there is %v, %v", left, err)
	}
	if _, err := os.Stat(m.Backing + "/.kmsfs.reverse"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the source has a state: %v", err)
	}
	if got := lab.Run(t, "/", "cat", plain+"/a/b/c/file"); got != "deep" {
		t.Errorf("a file reads %q", got)
	}
}

// TestTruncated: a file that is cut off while it is read is an error, and the mount lives on.
func TestTruncated(t *testing.T) {
	m := mountReverse(t)
	lab.Run(t, m.Backing, "bash", "-euc", "head -c 32M /dev/urandom > file; head -c 3M /dev/urandom > other")
	path := strings.TrimSpace(lab.Run(t, m.Dir, "find", m.Dir, "-size", "+20M"))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.Backing+"/file", 5000); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(make([]byte, 4096), 20<<20); !errors.Is(err, syscall.EIO) {
		t.Errorf("past the new end: %d bytes, %v", n, err)
	}
	to := lab.Subdir(t, lab.Dir(t), "copy", 0o755)
	time.Sleep(1100 * time.Millisecond)
	lab.Run(t, "/", "cp", "-a", m.Dir+"/.", to)
	lab.Run(t, "/", "cmp", mountCopy(t, to, "--read-only")+"/file", m.Backing+"/file")
	if !strings.Contains(m.Log(), "changed while it was read") {
		t.Errorf("the log does not say so:\n%s", m.Log())
	}
}

// TestBusySource: a source that changes all the time can be copied by several at once; each file that nobody wrote to opens.
func TestBusySource(t *testing.T) {
	m := mountReverse(t)
	quiet := lab.Subdir(t, m.Backing, "quiet", 0o755)
	fill(t, quiet)
	busy := lab.Subdir(t, m.Backing, "busy", 0o755)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%s/%d-%d", busy, i, round%20)
				_ = os.WriteFile(name, bytes.Repeat([]byte{byte(round)}, round%7*9000), 0o600)
				_ = os.Rename(name, fmt.Sprintf("%s/%d-%d", busy, i, (round+7)%20))
				_ = os.Mkdir(name, 0o700)
				_ = os.Remove(name)
				if f, err := os.OpenFile(busy+"/log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
					f.Write(bytes.Repeat([]byte("line\n"), 100))
					f.Close()
				}
			}
		})
	}
	copies := make([]string, 2)
	var copying sync.WaitGroup
	for i := range copies {
		copies[i] = lab.Subdir(t, lab.Dir(t), "copy", 0o755)
		copying.Go(func() {
			lab.Run(t, "/", "bash", "-c", `cp -a "$1/." "$2/" 2>/dev/null; true`, "cp", m.Dir, copies[i])
		})
	}
	copying.Wait()
	close(stop)
	wg.Wait()
	for _, to := range copies {
		same(t, "quiet files", quiet, mountCopy(t, to, "--read-only")+"/quiet")
	}
}

// TestGrows: a file that grows between a look at its attributes and its opening, or while it is read, has the size that its
// stored bytes tell, so that who copies as many bytes as fstat(2) says has a whole file.
func TestGrows(t *testing.T) {
	m := mountReverse(t)
	src, grow := m.Backing+"/log", func(n int) {
		f, err := os.OpenFile(m.Backing+"/log", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err == nil {
			_, err = f.Write(make([]byte, n))
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	grow(500000)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(src, old, old); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond) // then reads go through the cache of the kernel
	var at string
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			at = m.Dir + "/" + e.Name()
		}
	}
	for _, before := range []bool{false, true} {
		if _, err := os.Stat(at); err != nil {
			t.Fatal(err)
		}
		if before {
			grow(100000)
		}
		f, err := os.Open(at)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if !before {
			grow(100000)
			time.Sleep(1100 * time.Millisecond) // the kernel's memory of attributes
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(f); err != nil || int64(b.Len()) != st.Size() {
			t.Errorf("grown before it is opened: %v: %d bytes of %d, %v", before, b.Len(), st.Size(), err)
		}
		f.Close()
	}
}
