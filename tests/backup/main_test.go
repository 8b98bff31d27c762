// Package backup tests that a vault can be copied with the tools that people use, restored anywhere, and mounted from media that
// cannot be written to: real rsync, restic, borg, rclone, tar and cp, loop devices and squashfs. recipes holds what the README
// tells people to run; the tests run the same files.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// bench is a directory with a key store, keys, and a vault, vault, and the program.
type bench struct {
	t       *testing.T
	dir     string
	program string
}

// newBench makes a bench where the temporary files are.
func newBench(t *testing.T) *bench {
	t.Helper()
	return benchIn(t, lab.Dir(t))
}

// benchIn makes a bench in dir.
func benchIn(t *testing.T, dir string) *bench {
	t.Helper()
	if !lab.IsKMSFS() {
		t.Skip("is about vaults: unset KMSFS_TEST_FS")
	}
	lab.NeedFUSE(t, uint32(os.Geteuid()))
	b := &bench{t: t, dir: dir, program: lab.Binary(t, "cmd/kmsfs")}
	b.ok("key", "create", "--key-store", b.at("keys"), "--alias", "alias/files")
	b.ok("init", "--key-store", b.at("keys"), "--key", "alias/files", b.at("vault"))
	return b
}

// in is the bench in a subtest.
func (b *bench) in(t *testing.T) *bench { return &bench{t, b.dir, b.program} }

// at is a path in the bench.
func (b *bench) at(name string) string { return filepath.Join(b.dir, name) }

// mkdir makes a directory of the bench.
func (b *bench) mkdir(name string) string { return lab.Subdir(b.t, b.dir, name, 0o755) }

// env is the environment of all programs: nothing of who runs the test, and kmsfs in the PATH.
func (b *bench) env() []string {
	return append(os.Environ(), "HOME="+b.dir, "PATH="+filepath.Dir(b.program)+":"+os.Getenv("PATH"), "LC_ALL=C",
		"RESTIC_PASSWORD=secret", "RESTIC_CACHE_DIR="+b.at("cache"), "BORG_BASE_DIR="+b.at("cache"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes",
		"BORG_RELOCATED_REPO_ACCESS_IS_OK=yes", "RCLONE_CONFIG="+b.at("rclone.conf"))
}

// run runs kmsfs.
func (b *bench) run(args ...string) (stdout string, code int, stderr string) {
	b.t.Helper()
	cmd := exec.Command(b.program, args...)
	cmd.Dir, cmd.Env = b.dir, b.env()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), cmd.ProcessState.ExitCode(), errs.String()
}

// ok runs kmsfs, which must succeed.
func (b *bench) ok(args ...string) string {
	b.t.Helper()
	out, code, stderr := b.run(args...)
	if code != 0 {
		b.t.Fatalf("kmsfs %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return out
}

// fails runs kmsfs, which must end with the code and say the words.
func (b *bench) fails(code int, words string, args ...string) {
	b.t.Helper()
	if out, got, stderr := b.run(args...); got != code || !strings.Contains(stderr, words) {
		b.t.Errorf("kmsfs %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, words, out, stderr)
	}
}

// script runs a shell script with more environment and returns what it printed.
func (b *bench) script(script string, env ...string) string {
	b.t.Helper()
	out, err := b.tryScript(script, env...)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (b *bench) tryScript(script string, env ...string) (string, error) {
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir, cmd.Env = b.dir, append(b.env(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// mount mounts a vault and returns where.
func (b *bench) mount(vault string, flags ...string) string {
	b.t.Helper()
	dir := lab.Subdir(b.t, lab.Dir(b.t), "mount", 0o755)
	b.t.Cleanup(func() {
		if out, code, stderr := b.run("umount", dir); code != 0 && code != 23 {
			b.t.Errorf("umount: exit code %d\n%s%s", code, out, stderr)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	b.ok(append(append([]string{"mount", "--log-file", dir + ".log"}, flags...), vault, dir)...)
	return dir
}

// umount ends a mount, whose daemon must have had nothing to say.
func (b *bench) umount(dir string) {
	b.t.Helper()
	b.ok("umount", dir)
	if log, err := os.ReadFile(dir + ".log"); err != nil || len(log) > 0 {
		b.t.Errorf("the daemon's log: %v\n%s", err, log)
	}
}

// json reads JSON.
func (b *bench) json(text string, v any) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		b.t.Fatalf("%v: %s", err, text)
	}
}

// describe says what stands at path, as far as every tool must keep it: kind and content.
func describe(path string) (string, error) {
	i, err := os.Lstat(path)
	switch {
	case err != nil:
		return "", err
	case i.Mode().Type() == fs.ModeSymlink:
		target, err := os.Readlink(path)
		return "-> " + target, err
	case i.IsDir():
		return "directory", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%d bytes %s", len(b), hex.EncodeToString(sum[:8])), nil
}

// contents describes all below dir, by path. Each error goes to failed, which may be nil where none is allowed.
func contents(t *testing.T, dir string, failed func(path string, err error)) map[string]string {
	t.Helper()
	all := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		var text string
		if err == nil {
			text, err = describe(path)
		}
		rel, _ := filepath.Rel(dir, path)
		if err != nil {
			if failed == nil {
				t.Errorf("%s: %v", rel, err)
			} else {
				failed(rel, err)
			}
			return nil
		}
		all[rel] = text
		return nil
	})
	return all
}

// compare reports what is not in got as it is in want.
func compare(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if got[path] != want[path] {
			t.Errorf("%s: %s: got %q, want %q", what, path, got[path], want[path])
		}
	}
	for path := range got {
		if want[path] == "" {
			t.Errorf("%s: %s is there and should not", what, path)
		}
	}
}
