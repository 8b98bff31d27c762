// Package shared_test holds that several hosts can work on one vault at once: two mounts with --shared, each with a daemon of
// its own, of one vault on a local file system and on a replicated GlusterFS volume that each daemon reaches by a client of
// its own. Programs on both sides see each other's files, names and locks; one daemon is killed; keys are rewrapped meanwhile.
package shared_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// childEnv names the part that this test program plays when a test starts it again as another process.
const childEnv = "KMSFS_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "locker":
		lab.Locker()
		return
	case "appender":
		if err := appendLines(os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// pair is two mounts of one vault.
type pair struct {
	mounts []*lab.Mount
}

// scenarios are what each kind of storage must bear. Each gets a directory of its own.
var scenarios = []struct {
	name string
	test func(t *testing.T, p *pair, dir string)
}{
	{"close to open", closeToOpen},
	{"names", namesSeen},
	{"append", appends},
	{"append without locks", appendsUnlocked},
	{"overwrite", overwrites},
	{"rename and link", renames},
	{"deleted while open", deletedOpen},
	{"mkdir -p", mkdirAll},
	{"locks", locks},
	{"lock lists", lockLists},
	{"waiting for locks", lockWaits},
	{"crowd", crowd},
	{"exclusive creates", exclusiveCreates},
	{"creates", creates},
	{"directories", directories},
	{"stopped", stopped},
	{"sqlite", databases},
	{"git", repository},
	{"any side", alternation},
	{"rewrap", rewrapMeanwhile},
	{"kill", killed},
}

// TestLocal runs the scenarios on two mounts of a vault on the file system of the temporary files.
func TestLocal(t *testing.T) {
	if !lab.IsKMSFS() {
		t.Skip("two mounts of one vault are about kmsfs: unset KMSFS_TEST_FS")
	}
	a := lab.MountNew(t, lab.Options{Shared: true})
	run(t, &pair{[]*lab.Mount{a, lab.MountBeside(t, a, "", lab.Options{Shared: true})}})
}

// TestThree runs those that have everybody at work at once on three mounts.
func TestThree(t *testing.T) {
	if !lab.IsKMSFS() {
		t.Skip("mounts of one vault are about kmsfs: unset KMSFS_TEST_FS")
	}
	p := &pair{[]*lab.Mount{lab.MountNew(t, lab.Options{Shared: true})}}
	for range 2 {
		p.mounts = append(p.mounts, lab.MountBeside(t, p.mounts[0], "", lab.Options{Shared: true}))
	}
	run(t, p, "append", "append without locks", "overwrite", "rename and link", "exclusive creates", "creates", "directories", "lock lists", "any side", "sqlite")
}

// run runs the named scenarios, or all.
func run(t *testing.T, p *pair, names ...string) {
	t.Helper()
	for _, s := range scenarios {
		if names != nil && !slices.Contains(names, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			dir := strings.ReplaceAll(s.name, " ", "-")
			if err := os.Mkdir(p.path(0, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			s.test(t, p, dir)
		})
	}
}

// path is where side sees what is at the given place in the vault.
func (p *pair) path(side int, parts ...string) string {
	return filepath.Join(append([]string{p.mounts[side].Dir}, parts...)...)
}

// seconds is how long a load goes on: KMSFS_TEST_SECONDS, or a moment.
func seconds(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("KMSFS_TEST_SECONDS")
	if s == "" {
		return time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("KMSFS_TEST_SECONDS: %v", err)
	}
	return time.Duration(n) * time.Second
}

// load runs workers on each side until the time is over, or one has failed.
func (p *pair) load(t *testing.T, workers int, work func(side, id int, going func() bool) error) {
	t.Helper()
	end := time.Now().Add(seconds(t))
	var failed sync.Once
	stop := make(chan struct{})
	going := func() bool {
		select {
		case <-stop:
			return false
		default:
			return time.Now().Before(end)
		}
	}
	var wg sync.WaitGroup
	for id := range workers * len(p.mounts) {
		wg.Go(func() {
			if err := work(id%len(p.mounts), id, going); err != nil {
				t.Errorf("worker %d, side %d: %v", id, id%len(p.mounts), err)
				failed.Do(func() { close(stop) })
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// check fails the test at once on an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
