package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// tool copies a vault, SRC, into DST, which does not exist; both are paths, as is REPO. None keeps attributes, and each has an order
// of its own.
type tool struct {
	name    string
	once    string // makes REPO
	copy    string
	restore string // where copy does not make DST
	// moving are its exit codes where what it copies changes meanwhile.
	moving []int
}

func tools() []tool {
	return []tool{
		{name: "cp", copy: `cp -r "$SRC" "$DST"`, moving: []int{1}},
		{name: "tar", copy: `tar -cf "$REPO" -C "$SRC" .`, restore: `mkdir "$DST"; tar -xf "$REPO" -C "$DST"`, moving: []int{1, 2}},
		{name: "rsync", copy: `rsync -a "$SRC/" "$DST/"`, moving: []int{23, 24}},
		{name: "rclone", copy: `rclone copy --links --retries 1 -q "$SRC" "$DST"`, moving: []int{1, 3, 4, 5, 6}},
		{name: "restic", once: `restic -q -r "$REPO" init`, copy: `cd "$SRC"; restic -q -r "$REPO" backup .`,
			restore: `restic -q -r "$REPO" restore latest --target "$DST"`, moving: []int{3}},
		{name: "borg", once: `borg init -e none "$REPO"`, copy: `cd "$SRC"; borg create "$REPO::$NAME" .`,
			restore: `mkdir "$DST"; cd "$DST"; borg extract "$REPO::$NAME"`, moving: []int{1}},
	}
}

// copier copies with one tool.
type copier struct {
	*bench
	tool
	repo  string
	count int
}

func newCopier(b *bench, x tool) *copier {
	b.t.Helper()
	lab.Need(b.t, x.name)
	c := &copier{bench: b, tool: x, repo: b.at("repo-" + x.name)}
	if x.once != "" {
		b.script(x.once, "REPO="+c.repo)
	}
	return c
}

// next are the environment of the next copy, of src, and where it is to be.
func (c *copier) next(src string) (env []string, dst string) {
	c.count++
	name := fmt.Sprintf("copy-%s-%d", c.name, c.count)
	return []string{"REPO=" + c.repo, "SRC=" + src, "DST=" + c.at(name), "NAME=" + name}, c.at(name)
}

// unpack makes a directory of the copy that env speaks of.
func (c *copier) unpack(env []string) {
	c.t.Helper()
	if c.restore != "" {
		c.script(c.restore, env...)
	}
}

// TestTools: with every tool, a copy of a vault that is not mounted is what was there; so is one that was taken in kmsfs freeze while
// programs write, of one moment; and one that was taken without has every file right that was not being written.
func TestTools(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	live := b.mount(b.at("vault"))
	plant(t, live)
	want := contents(t, live, nil)
	b.umount(live)
	b.script(`cp -r "$SRC" "$DST"`, "SRC="+b.at("vault"), "DST="+b.at("unmounted"))
	live = b.mount(b.at("vault"))
	l := startLoad(t, live, 3)
	for _, x := range tools() {
		t.Run(x.name, func(t *testing.T) {
			c := newCopier(b.in(t), x)

			env, dst := c.next(b.at("unmounted"))
			c.script(x.copy, env...)
			c.unpack(env)
			got := c.mount(dst, "--read-only")
			compare(t, "unmounted", contents(t, got, nil), want)
			c.umount(got)

			env, dst = c.next(b.at("vault"))
			began := time.Now()
			c.frozen(x.copy, env)
			ended := time.Now()
			c.unpack(env)
			got = c.mount(dst, "--read-only")
			all := contents(t, got, nil)
			l.moment(t, "frozen", all, span{began, ended})
			compare(t, "frozen", still(all), want)
			c.umount(got)

			env, dst = c.next(b.at("vault"))
			before := l.steps()
			out, err := c.tryScript(x.copy, env...)
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || !slices.Contains(x.moving, exit.ExitCode())) {
				t.Fatalf("%v\n%s", err, out)
			}
			if before == l.steps() {
				t.Error("nothing changed while it was copied")
			}
			c.unpack(env)
			c.opens(dst, l, want)
		})
	}
	l.end()
	all := contents(t, live, nil)
	l.moment(t, "the vault itself", all, span{time.Now(), time.Now()})
	compare(t, "the vault itself", still(all), want)
}

// TestAnyOrder: a copy without a freeze, in an order that no tool has, has every file right that was not being written.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	live := b.mount(b.at("vault"))
	plant(t, live)
	want := contents(t, live, nil)
	b.ok("ctl", "flush", live)
	l := startLoad(t, live, 3)
	rounds := 2
	if n, err := strconv.Atoi(os.Getenv("KMSFS_TEST_COPIES")); err == nil {
		rounds = n
	}
	for round := range rounds {
		seed := rand.Uint64()
		dst := b.at(fmt.Sprint("copy", round))
		copyShuffled(t, b.at("vault"), dst, rand.New(rand.NewPCG(seed, 0)))
		b.opens(dst, l, want)
		if err := os.RemoveAll(dst); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("round %d, seed %d", round, seed)
		}
	}
}

// copyShuffled copies a tree file by file in an order of chance, as it is at the time of each; what is gone by then is left out.
func copyShuffled(t *testing.T, src, dst string, r *rand.Rand) {
	t.Helper()
	var files []string
	err := filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(src, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return os.MkdirAll(filepath.Join(dst, rel), 0o755)
		}
		files = append(files, rel)
		return nil
	})
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, name := range files {
		if err == nil {
			err = copyFile(filepath.Join(src, name), filepath.Join(dst, name))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// copyFile copies what is at src, if it is still there, as slowly as one does who reads a page at a time.
func copyFile(src, dst string) error {
	if target, err := os.Readlink(src); err == nil {
		return os.Symlink(target, dst)
	}
	in, err := os.Open(src)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	for page := 0; err == nil; page++ {
		if _, err = io.CopyN(out, in, 4096); page < 20 {
			time.Sleep(time.Millisecond)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, out.Close())
}

// frozen runs a script inside kmsfs freeze.
func (b *bench) frozen(script string, env []string) {
	b.t.Helper()
	b.script(`kmsfs freeze vault -- sh -euc "$SCRIPT"`, append(env, "SCRIPT="+script)...)
}

// opens mounts a copy that was taken while l worked, and writes to it: what want has must be there, all else may be old, new or an
// error.
func (b *bench) opens(dst string, l *load, want map[string]string) {
	b.t.Helper()
	got := b.mount(dst)
	compare(b.t, "not frozen", still(contents(b.t, got, func(string, error) {})), want)
	files, failed := l.torn(b.t, "not frozen", got)
	b.t.Logf("of %d files that were being changed, %d cannot be read in the copy", files, failed)
	if err := os.WriteFile(filepath.Join(got, "new"), []byte("text"), 0o600); err != nil {
		b.t.Error(err)
	}
	b.ok("umount", got)
	got = b.mount(dst, "--read-only")
	again := still(contents(b.t, got, func(string, error) {}))
	if again["new"] != described([]byte("text")) {
		b.t.Errorf("a file that was written to the copy: %q", again["new"])
	}
	delete(again, "new")
	compare(b.t, "not frozen, mounted again", again, want)
	b.ok("umount", got)
}

// still is all but the workers' directories.
func still(all map[string]string) map[string]string {
	maps.DeleteFunc(all, func(path, _ string) bool { return strings.HasPrefix(path, "busy") })
	return all
}
