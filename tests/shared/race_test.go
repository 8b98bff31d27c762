package shared_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// exclusiveCreates has all sides make the same names with O_EXCL at the same time: each is made once. Whoever has made it removes it.
func exclusiveCreates(t *testing.T, p *pair, dir string) {
	p.load(t, 2, func(side, id int, going func() bool) error {
		for n := 0; going(); n++ {
			path := p.path(side, dir, fmt.Sprint("lock", n%2))
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			if err != nil {
				return err
			}
			if _, err := f.Write(stamp(id, n)); err != nil {
				return err
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != string(stamp(id, n)) {
				return fmt.Errorf("a file that was made with O_EXCL is another's: %q, %v", got, err)
			}
			if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
				return err
			}
		}
		return nil
	})
}

// creates has all sides open the same names with O_CREAT while they are removed: what could be opened is usable.
func creates(t *testing.T, p *pair, dir string) {
	p.load(t, 2, func(side, id int, going func() bool) error {
		r := newRand(id)
		for n := 0; going(); n++ {
			path := p.path(side, dir, fmt.Sprint("file", r.IntN(2)))
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
			if errors.Is(err, unix.ESTALE) {
				continue // removed and made anew too often
			}
			if err != nil {
				return err
			}
			if _, err := f.WriteAt(stamp(id, n), 0); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
				return fmt.Errorf("reading: %w", err)
			}
			if err := f.Close(); err != nil {
				return err
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// directories has all sides make and remove the same directories while they make files in them. No file that was made is lost:
// whoever has made it finds it, or removes it.
func directories(t *testing.T, p *pair, dir string) {
	p.load(t, 2, func(side, id int, going func() bool) error {
		r := newRand(id)
		for n := 0; going(); n++ {
			d := p.path(side, dir, fmt.Sprint("d", r.IntN(2)))
			if r.IntN(3) == 0 {
				if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
					return err
				}
				continue
			}
			if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			long := strings.Repeat("n", 200*r.IntN(2)) // some have companions
			file := fmt.Sprintf("%s/%d-%d%s", d, id, n, long)
			err := os.WriteFile(file, stamp(id, n), 0o600)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) {
				continue // the directory was removed
			}
			if err != nil {
				return err
			}
			if got, err := eventuallyRead(file); err != nil || string(got) != string(stamp(id, n)) {
				return fmt.Errorf("what was made is gone: %q, %w", got, err)
			}
			if err := eventually(func() error { return os.Remove(file) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// eventuallyRead reads a file: its directory may be aside for a moment.
func eventuallyRead(path string) (b []byte, err error) {
	err = eventually(func() error { b, err = os.ReadFile(path); return err })
	return b, err
}

// stopped stops one side's daemon in the middle of writes, for a while. The others work on with all other files; what waits for it
// goes on with it, and nothing is torn.
func stopped(t *testing.T, p *pair, dir string) {
	fill(t, p.path(0, dir, "file"))
	for round := range 4 {
		victim := round % len(p.mounts)
		p.load(t, 2, func(side, id int, going func() bool) error {
			w := overwriter{r: newRand(id), id: id, writes: true}
			for n := 0; going(); n++ {
				if id == 0 && n == 10 {
					if err := p.mounts[victim].Signal(unix.SIGSTOP); err != nil {
						return err
					}
					time.Sleep(100 * time.Millisecond)
					other := p.path((victim+1)%len(p.mounts), dir, "other")
					err := os.WriteFile(other, stamp(id, n), 0o600)
					if err := errors.Join(err, p.mounts[victim].Signal(unix.SIGCONT)); err != nil {
						return err
					}
				}
				if err := w.once(p.path(side, dir, "file"), n); err != nil {
					return err
				}
			}
			return nil
		})
		for side := range p.mounts {
			checkBlocks(t, p.path(side, dir, "file"))
		}
	}
}

// databases has a program on each side change one SQLite database, with a rollback journal, at the same time.
func databases(t *testing.T, p *pair, dir string) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("sqlite3 is missing: apt-get install sqlite3")
	}
	sql := func(side int, s string) (string, error) {
		out, err := exec.Command("sqlite3", "-cmd", ".timeout 60000", p.path(side, dir, "db"), s).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w: %s", s, err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	_, err := sql(0, "PRAGMA journal_mode=delete; CREATE TABLE t (id, n, pad)")
	check(t, err)
	done := make([]int, 2*len(p.mounts))
	p.load(t, 2, func(side, id int, going func() bool) error {
		for ; going(); done[id]++ {
			if _, err := sql(side, fmt.Sprintf("INSERT INTO t VALUES (%d, %d, hex(randomblob(%d)))", id, done[id], rand.IntN(3000))); err != nil {
				return err
			}
		}
		return nil
	})
	for side := range p.mounts {
		got, err := sql(side, "PRAGMA integrity_check; SELECT count(*) FROM t")
		check(t, err)
		want := 0
		for _, n := range done {
			want += n
		}
		if got != fmt.Sprintf("ok\n%d", want) {
			t.Errorf("side %d: %s; want %d rows", side, got, want)
		}
	}
}

// repository has a program on each side commit to one git repository, from work trees of their own, at the same time.
func repository(t *testing.T, p *pair, dir string) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is missing: apt-get install git")
	}
	git := func(side int, tree string, args ...string) error {
		c := exec.Command("git", append([]string{"-C", p.path(side, dir, tree), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0"}, args...)...)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
		return nil
	}
	check(t, os.Mkdir(p.path(0, dir, "main"), 0o755))
	check(t, git(0, "main", "init", "-q", "-b", "main"))
	check(t, git(0, "main", "commit", "-q", "--allow-empty", "-m", "first"))
	for side := range p.mounts {
		check(t, git(side, "main", "worktree", "add", "-q", "-b", fmt.Sprint("side", side), fmt.Sprintf("../tree%d", side)))
	}
	p.load(t, 1, func(side, id int, going func() bool) error {
		tree := fmt.Sprint("tree", side)
		for n := 0; going(); n++ {
			if err := os.WriteFile(p.path(side, dir, tree, fmt.Sprint("f", n%5)), stamp(id, n), 0o600); err != nil {
				return err
			}
			if err := errors.Join(git(side, tree, "add", "."), git(side, tree, "commit", "-q", "-m", fmt.Sprint(n))); err != nil {
				return err
			}
		}
		return nil
	})
	for side := range p.mounts {
		check(t, git(side, "main", "fsck", "--strict"))
	}
}

// TestForeignFile: a program that may not open what another user has just made on another side does not get it by opening it with
// O_CREAT, not even when it comes between.
func TestForeignFile(t *testing.T) {
	lab.NeedRoot(t)
	if !lab.IsKMSFS() {
		t.Skip("two mounts of one vault are about kmsfs: unset KMSFS_TEST_FS")
	}
	a := lab.MountNew(t, lab.Options{Shared: true, AllowOther: true})
	p := &pair{[]*lab.Mount{a, lab.MountBeside(t, a, "", lab.Options{Shared: true, AllowOther: true})}}
	check(t, os.Mkdir(p.path(0, "dir"), 0o777))
	check(t, os.Chmod(p.path(0, "dir"), 0o777))
	name := func(side, n int) string { return p.path(side, "dir", fmt.Sprint(n)) }
	const rounds = 3000
	opened, refused := 0, 0
	next := make(chan int)
	made := make(chan error)
	go func() {
		for n := range next {
			f, err := os.OpenFile(name(0, n), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
			if errors.Is(err, fs.ErrExist) {
				err = nil
			} else if err == nil {
				err = f.Close()
			}
			made <- err
		}
	}()
	defer close(next)
	for n := range rounds {
		next <- n
		lab.As(lab.Nobody, func() {
			fd, err := unix.Open(name(1, n), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
			if errors.Is(err, unix.EACCES) {
				refused++
				return
			}
			if err != nil {
				t.Errorf("round %d: %v", n, err)
				return
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Uid != lab.Nobody {
				t.Errorf("round %d: opened a file of user %d: %v", n, st.Uid, err)
			}
			opened++
		})
		check(t, <-made)
		if t.Failed() {
			break
		}
	}
	t.Logf("%d opened, %d refused", opened, refused)
}

// TestMixed: a mount that is alone and one that is shared keep each other out; one that only reads is let in beside either.
func TestMixed(t *testing.T) {
	if !lab.IsKMSFS() {
		t.Skip("two mounts of one vault are about kmsfs: unset KMSFS_TEST_FS")
	}
	for _, shared := range []bool{true, false} {
		m := lab.MountNew(t, lab.Options{Shared: shared})
		check(t, os.WriteFile(m.Dir+"/file", []byte("something"), 0o600))
		check(t, exec.Command("sync", "-f", m.Dir).Run())
		args := []string{"mount", "--foreground", "--key-store", m.Keys()}
		if !shared {
			args = append(args, "--shared")
		}
		const locked = 5 // the exit code
		cmd := exec.Command(lab.Binary(t, "cmd/kmsfs"), append(args, m.Backing, lab.Subdir(t, lab.Dir(t), "mount", 0o755))...)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != locked {
			t.Errorf("beside a mount, shared %v, the other kind: %v, %s", shared, err, out)
		}
		for _, too := range []bool{true, false} {
			reader := lab.MountBeside(t, m, "", lab.Options{ReadOnly: true, Shared: too})
			if got, err := os.ReadFile(reader.Dir + "/file"); err != nil || string(got) != "something" {
				t.Errorf("beside a mount, shared %v, a reader, shared %v: %q, %v", shared, too, got, err)
			}
			check(t, reader.Unmount())
		}
		check(t, m.Unmount())
	}
}

// TestNumberAgain: one side has removed a directory that the other has made, and what is made next, on either, gets its inode
// number. It is not taken for the one that is gone.
func TestNumberAgain(t *testing.T) {
	if !lab.IsKMSFS() {
		t.Skip("two mounts of one vault are about kmsfs: unset KMSFS_TEST_FS")
	}
	lab.NeedRoot(t)
	a := lab.MountNew(t, lab.Options{Shared: true, Vault: lab.Backing(t, "ext4")}) // which gives numbers out again
	p := &pair{[]*lab.Mount{a, lab.MountBeside(t, a, "", lab.Options{Shared: true})}}
	ino := func(path string) uint64 {
		var st unix.Stat_t
		check(t, unix.Stat(path, &st))
		return st.Ino
	}
	for maker := range p.mounts {
		again := 0
		for round := range 5 {
			old := fmt.Sprintf("old-%d-%d", maker, round)
			check(t, os.Mkdir(p.path(0, old), 0o755))
			number := ino(p.path(0, old))
			check(t, os.Remove(p.path(1, old)))
			check(t, exec.Command(lab.Binary(t, "cmd/kmsfs"), "ctl", "flush", p.mounts[1].Dir).Run()) // what was removed is taken apart
			for i := range 40 {                                                                       // some are made ahead
				name := fmt.Sprintf("new-%d-%d-%d", maker, round, i)
				check(t, os.Mkdir(p.path(maker, name), 0o755))
				if ino(p.path(1, name)) != number {
					continue
				}
				again++
				for side := range p.mounts {
					check(t, os.WriteFile(p.path(side, name, fmt.Sprint(side)), []byte("text"), 0o600))
				}
				break
			}
		}
		t.Logf("made on side %d: the number came again %d times", maker, again)
		if again == 0 {
			t.Error("nothing was tried")
		}
	}
}
