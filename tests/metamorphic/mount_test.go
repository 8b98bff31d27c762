package metamorphic_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/metamorphic"
)

// config is one way to mount, and the backing file system that serves as the model at the same time.
type config struct {
	name    string
	backing string
	options lab.Options
	as      int // who makes the calls
	limits  metamorphic.Limits
}

func configs() []config {
	user := metamorphic.Limits{Unprivileged: true}
	return []config{
		{name: "ext4", backing: "ext4", options: lab.Options{AllowOther: true}},
		{name: "ext4 shared", backing: "ext4", options: lab.Options{AllowOther: true, Shared: true}},
		{name: "ext4 other user", backing: "ext4", options: lab.Options{AllowOther: true}, as: lab.Nobody, limits: user},
		{name: "ext4 own user", backing: "ext4", options: lab.Options{UID: lab.Nobody}, as: lab.Nobody, limits: user},
		{name: "xfs", backing: "xfs", limits: metamorphic.Limits{MaxSymlink: 700}},
		{name: "btrfs", backing: "btrfs"},
		{name: "tmpfs", backing: "tmpfs", limits: metamorphic.Limits{NoZeroRange: true}},
		{name: "tmpfs shared", backing: "tmpfs", options: lab.Options{Shared: true}, limits: metamorphic.Limits{NoZeroRange: true}},
	}
}

// arena mounts c and sets it against a plain directory on the same file system.
func (c config) arena(t *testing.T) *metamorphic.Arena {
	dir := lab.Backing(t, c.backing)
	c.options.Vault = dir
	m := lab.MountNew(t, c.options)
	beside := lab.Subdir(t, dir, "plain", 0o755)
	a := &metamorphic.Arena{
		Remount:     m.Remount,
		Contestants: []metamorphic.Contestant{plain("plain", beside, nil), plain("mount", m.Dir, nil)},
	}
	if c.as == 0 {
		return a
	}
	a.As = func(f func()) { lab.As(c.as, f) }
	owned := []string{beside}
	if c.options.UID == 0 { // otherwise it is the user's already, and closed to root
		owned = append(owned, m.Dir)
	}
	for _, dir := range owned {
		if err := os.Chown(dir, c.as, c.as); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// TestMount plays lists on the mount and on a plain directory beside the vault. KMSFS_TEST_LISTS says how many lists
// per configuration (2), KMSFS_TEST_SEED where the seeds begin (1): for a long run, something like
//
//	KMSFS_TEST_LISTS=500 KMSFS_TEST_SEED=$RANDOM go test -timeout 0 -run TestMount ./tests/metamorphic
func TestMount(t *testing.T) {
	const length = 800
	lab.NeedRoot(t)
	lists, first := number(t, "KMSFS_TEST_LISTS", 2), number(t, "KMSFS_TEST_SEED", 1)
	for _, c := range configs() {
		t.Run(c.name, func(t *testing.T) {
			a := c.arena(t)
			for seed := first; seed < first+lists; seed++ {
				if err := a.Run(metamorphic.Generate(seed, length, c.limits)); err != nil {
					keep(t, a, fmt.Sprintf("%s-%d", c.name, seed), err)
				}
			}
			t.Logf("seeds %d to %d, %d operations each", first, first+lists-1, length)
		})
	}
}

// keep shrinks a list that made a difference on kmsfs and writes it to testdata, where TestKept plays it from then on.
func keep(t *testing.T, a *metamorphic.Arena, name string, err error) {
	var d *metamorphic.Divergence
	if !errors.As(err, &d) {
		t.Fatalf("%s: %v", name, err)
	}
	if !lab.IsKMSFS() {
		t.Fatalf("%s: %v", name, err)
	}
	d = a.Shrink(d, time.Minute)
	file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".json")
	if err := metamorphic.Save(file, d.Ops); err != nil {
		t.Error(err)
	}
	t.Fatalf("%s: kept in %s\n%v\nall of it: %v", name, file, d, d.Ops)
}

// TestKept plays every list that once made a difference, in every configuration that can.
func TestKept(t *testing.T) {
	lab.NeedRoot(t)
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("testdata holds no list")
	}
	for _, c := range append(configs()[:2:2], configs()[3]) {
		t.Run(c.name, func(t *testing.T) {
			a := c.arena(t)
			for _, file := range files {
				ops, err := metamorphic.Load(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := a.Run(ops); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		})
	}
}

// number reads a count from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
