// Package crash_test kills the daemon with SIGKILL under load, again and again, and holds that nothing is lost that a
// program was told is safe, that nothing else has changed, and that everything can be read.
package crash_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
	"kmsfs/tests/internal/posix"
)

const (
	childEnv   = "KMSFS_TEST_CHILD"
	workers    = 4
	versions   = 1_000_000 // how far apart the rounds' version numbers begin
	defaultRun = 25
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "worker" {
		if err := work(os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestKill kills the daemon KMSFS_TEST_KILLS times (25) in each mode. A long run:
//
//	KMSFS_TEST_KILLS=500 go test -timeout 0 ./tests/crash
func TestKill(t *testing.T) {
	kills := defaultRun
	if s := os.Getenv("KMSFS_TEST_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("KMSFS_TEST_KILLS: %v", err)
		}
		kills = n
	}
	if os.Getenv("KMSFS_TEST_FS") == "plain" {
		t.Skip("a plain directory has no daemon to kill")
	}
	for name, shared := range map[string]bool{"exclusive": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			run := &run{m: lab.MountNew(t, lab.Options{Shared: shared}), ledger: newLedger(shared)}
			run.prepare(t)
			for round := range kills {
				run.round(t, round)
				if t.Failed() {
					t.Fatalf("in round %d of %d; the vault was in %s", round+1, kills, run.m.Backing)
				}
			}
			t.Logf("%d kills, %d slots with versions", kills, len(run.ledger.allowed))
		})
	}
}

type run struct {
	m      *lab.Mount
	ledger *ledger
	still  posix.Tree // files that nobody writes

	meanwhile func(t *testing.T) // is called while the workers write; nil: they write for a moment
	unmounted func(t *testing.T) // is called when the daemon was killed; may be nil
}

const stillDir = "still"

// prepare makes the files that nobody will write.
func (r *run) prepare(t *testing.T) {
	t.Helper()
	dir := lab.Subdir(t, r.m.Dir, stillDir, 0o755)
	for i := range 40 {
		sub := filepath.Join(dir, strconv.Itoa(i%4))
		if err := errors.Join(os.MkdirAll(sub, 0o755),
			os.WriteFile(filepath.Join(sub, fmt.Sprint("file", i)), bytes.Repeat([]byte("still "), i*i*i), 0o644),
			os.Symlink(fmt.Sprint("target", i), filepath.Join(sub, fmt.Sprint("link", i)))); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if r.still, err = posix.Snapshot(posix.NewDir(dir), posix.Options{}); err != nil {
		t.Fatal(err)
	}
}

// round lets the workers write, kills the daemon, mounts again and checks.
func (r *run) round(t *testing.T, round int) {
	t.Helper()
	journals := lab.Dir(t)
	var children []*exec.Cmd
	var outputs []*bytes.Buffer
	for id := range workers {
		out := &bytes.Buffer{}
		c := exec.Command("/proc/self/exe", journal(journals, id), strconv.Itoa(id), strconv.Itoa((round+1)*versions))
		c.Env = append(os.Environ(), childEnv+"=worker")
		c.Dir, c.Stdout, c.Stderr = r.m.Dir, out, out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		children, outputs = append(children, c), append(outputs, out)
	}
	time.Sleep(20*time.Millisecond + rand.N(500*time.Millisecond))
	if r.meanwhile != nil {
		r.meanwhile(t)
	}
	for id := range workers {
		if err := os.WriteFile(journal(journals, id)+killedMark, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.m.Kill(); err != nil {
		t.Errorf("kill: %v", err)
	}
	for id, c := range children {
		if err := c.Wait(); err != nil {
			t.Errorf("worker %d: %v\n%s", id, err, outputs[id])
		}
		if err := r.ledger.read(journal(journals, id)); err != nil {
			t.Errorf("worker %d: %v", id, err)
		}
	}
	if r.unmounted != nil {
		r.unmounted(t)
	}
	if err := r.m.Start(); err != nil {
		t.Fatalf("mounting again: %v", err)
	}
	if wrong := r.ledger.check(r.m.Dir); len(wrong) > 0 {
		t.Errorf("%d slots are wrong:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
	still, err := posix.Snapshot(posix.NewDir(filepath.Join(r.m.Dir, stillDir)), posix.Options{})
	if err != nil {
		t.Errorf("files that nobody wrote: %v", err)
	}
	if d := r.still.Diff(still); len(d) > 0 {
		t.Errorf("files that nobody wrote have changed:\n%s", strings.Join(d, "\n"))
	}
	if _, err := posix.Snapshot(posix.NewDir(r.m.Dir), posix.Options{}); err != nil {
		t.Errorf("reading everything: %v", err)
	}
}

func journal(dir string, id int) string { return filepath.Join(dir, strconv.Itoa(id)) }
