package crash_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// TestFsckKilled kills kmsfs fsck --repair at random moments, KMSFS_TEST_KILLS times (6), on a vault with damage of each kind: the next
// one ends, there is nothing left to find, and every file reads.
func TestFsckKilled(t *testing.T) {
	kills := 6
	if n, err := strconv.Atoi(os.Getenv("KMSFS_TEST_KILLS")); err == nil {
		kills = n
	}
	program, dir := lab.Binary(t, "./cmd/kmsfs"), lab.Dir(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	kmsfs := func(args ...string) *exec.Cmd {
		c := exec.Command(program, args...)
		c.Dir, c.Env = dir, append(os.Environ(), "HOME="+path("home"))
		return c
	}
	ok := func(args ...string) string {
		t.Helper()
		out, err := kmsfs(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("kmsfs %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	want := map[string]bool{}
	r := rand.New(rand.NewPCG(7, 8))
	for i := range 60 {
		b := make([]byte, []int{100, 5000, 300_000}[i%3])
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		name := fmt.Sprintf("file%d", i)
		if i%10 == 0 {
			name = strings.Repeat("long", 50) + name
		}
		at := path(fmt.Sprintf("src/%d/%d", i%5, i%2))
		if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, name), b, 0o600)); err != nil {
			t.Fatal(err)
		}
		want[sumOf(b)] = true
	}
	ok("init", "--key-store", "keys", "harmed")
	ok("sync", "src", "harmed")
	harmVault(t, path("harmed"))

	took := time.Duration(0)
	for kill := range kills + 1 {
		if err := errors.Join(os.RemoveAll(path("v")), os.RemoveAll(path("out"))); err != nil {
			t.Fatal(err)
		}
		lab.Run(t, dir, "cp", "-a", "harmed", "v")
		c := kmsfs("fsck", "--repair", "v")
		began := time.Now()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if kill > 0 { // the first is let be, to know how long it takes
			time.Sleep(rand.N(took))
			c.Process.Kill()
		}
		if err := c.Wait(); kill == 0 {
			took = time.Since(began)
			if err != nil {
				t.Fatal(err)
			}
		}
		ok("fsck", "--repair", "v")
		if out := ok("fsck", "v"); !strings.Contains(out, ": 0 findings, ") {
			t.Errorf("kill %d: afterwards there is\n%s", kill, out)
		}
		ok("sync", "v", "out") // which reads all of it
		have := map[string]bool{}
		filepath.WalkDir(path("out"), func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				b, _ := os.ReadFile(p)
				have[sumOf(b)] = true
			}
			return err
		})
		for s := range want {
			if !have[s] {
				t.Fatalf("kill %d: a file is nowhere: %x", kill, s[:4])
			}
		}
	}
	t.Logf("%d kills within %v each", kills, took)
}

func sumOf(b []byte) string { s := sha256.Sum256(b); return string(s[:]) }

// harmVault does damage of each kind that fsck mends without a loss.
func harmVault(t *testing.T, vault string) {
	t.Helper()
	var dirs, files []string
	if err := filepath.WalkDir(vault, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(vault, p)
		switch {
		case err != nil || strings.HasPrefix(rel, ".") || strings.HasPrefix(e.Name(), "."):
			if rel == ".kmsfs" {
				return filepath.SkipDir
			}
		case e.IsDir():
			dirs = append(dirs, p)
		default:
			files = append(files, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(vault, ".kmsfs/keys/*"))
	flip := func(p string, offs ...int64) {
		f, e := os.OpenFile(p, os.O_RDWR, 0)
		err = errors.Join(err, e)
		for _, off := range offs {
			var b [1]byte
			_, e := f.ReadAt(b[:], off)
			b[0] ^= 0xff
			_, e2 := f.WriteAt(b[:], off)
			err = errors.Join(err, e, e2)
		}
		err = errors.Join(err, f.Close())
	}
	top := func(p string) string { return filepath.Join(vault, filepath.Base(p)) }
	flip(tables[0], 20)
	flip(filepath.Join(dirs[0], ".kmsfs.dir"), 10, 50) // an id that is lost
	flip(filepath.Join(dirs[4], ".kmsfs.dir"), 50)     // one that the names tell
	last := files[len(files)-1]
	err = errors.Join(err, os.Rename(last, top(last)), os.Rename(dirs[len(dirs)-1], top(dirs[len(dirs)-1])),
		os.WriteFile(tables[0]+".new", []byte("x"), 0o600), os.Mkdir(filepath.Join(dirs[3], ".kmsfs.new.00"), 0o700),
		os.WriteFile(filepath.Join(dirs[3], ".kmsfs.long.AAAAAAAAAAAAAAAAAAAAAA.1.AAAA"), nil, 0o600), os.Mkdir(filepath.Join(vault, ".kmsfs/tmp/x"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
}
