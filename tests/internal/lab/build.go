package lab

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Binary builds the command in the module's directory pkg ("cmd/kmsfs") and returns its path. It lies in the temporary
// directory and is kept: go build leaves it alone while the sources are the same, so that the packages of one test run
// link it once.
func Binary(t testing.TB, pkg string) string {
	t.Helper()
	root := ModuleRoot(t)
	touchSources(t, root)
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("kmsfs-bin-%d-%x", os.Geteuid(), sha256.Sum256([]byte(root)))[:40]+raceSuffix)
	if err := ownDir(dir); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(dir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, filepath.Base(pkg))
	args := []string{"build", "-o", bin}
	if raceSuffix != "" {
		args = append(args, "-race")
	}
	Run(t, root, "go", append(args, "./"+pkg)...)
	return bin
}

// ownDir makes dir, or makes sure that it is ours: the temporary directory is open to all.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() || st.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s is not a directory of this user; remove it", dir)
	}
	return os.Chmod(dir, 0o755)
}

// ModuleRoot is the directory of go.mod.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == "/" {
			t.Fatal("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// touchSources looks at every source file, so that go test knows that the result depends on them and does not answer
// from its cache: it sees what the test itself opens, not what the go build below it reads.
func touchSources(t testing.TB, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (strings.HasPrefix(e.Name(), ".") && path != root || e.Name() == "testdata"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go"):
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Copy copies a program to where every user can run it.
func Copy(t testing.TB, program, to string) {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}
