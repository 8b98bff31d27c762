// Package mount_test does real work on the mount and on a plain directory and compares the two, and tries what a
// program may expect of a Linux file system: locks, permissions, ACLs, capabilities, mappings, sparse files.
package mount_test

import (
	"os"
	"strings"
	"testing"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
)

// childEnv names the part that this test program plays when a test starts it again as another process.
const childEnv = "KMSFS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "locker" {
		lab.Locker()
		return
	}
	os.Exit(m.Run())
}

// modes runs the test on the two ways to mount: alone on the vault, and beside other hosts. Where root mounts, for all.
// The vaults are below dir, or in a place of their own if it is empty.
func modes(t *testing.T, dir string, test func(t *testing.T, m *lab.Mount)) {
	for name, shared := range map[string]bool{"exclusive": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			o := lab.Options{Shared: shared, AllowOther: os.Geteuid() == 0}
			if dir != "" {
				o.Vault = lab.Subdir(t, dir, "vault-"+name, 0o755)
			}
			test(t, lab.MountNew(t, o))
		})
	}
}

// same fails the test where the trees below the two directories differ.
func same(t *testing.T, want, got string, o posix.Options) {
	t.Helper()
	w, err := posix.Snapshot(posix.NewDir(want), o)
	if err != nil {
		t.Fatalf("reading %s: %v", want, err)
	}
	g, err := posix.Snapshot(posix.NewDir(got), o)
	if err != nil {
		t.Fatalf("reading %s: %v", got, err)
	}
	if len(w) < 2 {
		t.Fatalf("%s is empty: nothing was compared", want)
	}
	if d := w.Diff(g); len(d) > 0 {
		t.Fatalf("%d paths differ:\n%s", len(d), strings.Join(d[:min(len(d), 20)], "\n"))
	}
}

// check fails the test at once on an error.
func check(t *testing.T, err error, what string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// sameText fails the test where two outputs differ, and shows from where on.
func sameText(t *testing.T, what, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] || i == min(len(w), len(g))-1 && len(w) != len(g) {
			from := max(i-8, 0)
			t.Errorf("%s, line %d. On the plain directory:\n%s\non the mount:\n%s", what, i+1,
				strings.Join(w[from:min(i+4, len(w))], "\n"), strings.Join(g[from:min(i+4, len(g))], "\n"))
			return
		}
	}
}
