package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// defaultSoak is how long TestSoak runs unless KMSFS_TEST_SOAK says otherwise.
const defaultSoak = 20 * time.Second

// TestSoak kills the daemon under load like TestKill, for hours, and meanwhile does to the vault all that an operator may do to it: on
// the mount CMKs are rotated and keys rewrapped, data keys and files renewed, caches purged, writers frozen, all of it verified; after
// the kill it is verified, mended and copied without a mount. What was synced stays, and nothing is damaged. A long run:
//
//	KMSFS_TEST_SOAK=8h go test -v -timeout 0 -run TestSoak ./tests/crash
func TestSoak(t *testing.T) {
	length := defaultSoak
	if s := os.Getenv("KMSFS_TEST_SOAK"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatalf("KMSFS_TEST_SOAK: %v", err)
		}
	}
	if !lab.IsKMSFS() {
		t.Skip("it is about what kmsfs does to a vault: unset KMSFS_TEST_FS")
	}
	if testing.Short() {
		length /= 4
	}
	dir := lab.Dir(t)
	s := &soak{run: run{m: lab.MountNew(t, lab.Options{Vault: dir}), ledger: newLedger(false)}, program: lab.Binary(t, "cmd/kmsfs"),
		keys: filepath.Join(dir, "keys"), copies: lab.Dir(t), done: map[string]int{}}
	s.run.meanwhile, s.run.unmounted = s.operate, s.look
	s.prepare(t)
	rounds := 0
	for end := time.Now().Add(length); time.Now().Before(end); rounds++ {
		s.round(t, rounds)
		if t.Failed() {
			t.Fatalf("in round %d; the vault was in %s", rounds+1, s.m.Backing)
		}
		if rand.N(3) == 0 {
			if err := s.m.Remount(); err != nil {
				t.Fatalf("remount: %v", err)
			}
		}
	}
	t.Logf("%v, %d kills, %d slots with versions; %v", length, rounds, len(s.ledger.allowed), s.done)
}

// soak is a run with an operator.
type soak struct {
	run
	program, keys, copies string
	done                  map[string]int
	cmk                   bool // a CMK that can be rotated is there
}

// kmsfs runs a verb, whose exit code is one of those.
func (s *soak) kmsfs(t *testing.T, codes []int, args ...string) {
	t.Helper()
	s.done[args[0]]++
	c := exec.Command(s.program, args...)
	c.Env = append(os.Environ(), "HOME="+s.keys)
	out, _ := c.CombinedOutput()
	for _, code := range codes {
		if c.ProcessState.ExitCode() == code {
			return
		}
	}
	t.Errorf("kmsfs %s: exit code %d\n%s", strings.Join(args, " "), c.ProcessState.ExitCode(), out)
}

// operate does one thing to the mounted vault, while it is written to.
func (s *soak) operate(t *testing.T) {
	ok := []int{0}
	v := s.m.Backing
	switch rand.N(7) {
	case 0:
		if !s.cmk {
			s.kmsfs(t, ok, "key", "create", "--key-store", s.keys, "--alias", "alias/soak")
			s.kmsfs(t, ok, "rewrap", "--to", "alias/soak", v)
			s.cmk = true
			return
		}
		s.kmsfs(t, []int{0, 25}, "key", "rotate", "--key-store", s.keys, "alias/soak") // 25: it was rotated too often
		s.kmsfs(t, ok, "rewrap", v)
	case 1:
		s.kmsfs(t, ok, "reencrypt", v)
	case 2:
		s.kmsfs(t, ok, "ctl", "purge", v)
	case 3:
		s.kmsfs(t, ok, "freeze", "--timeout", "10s", v, "--", "sleep", fmt.Sprint(0.3*rand.Float64()))
	case 4:
		s.kmsfs(t, ok, "verify", v)
	case 5:
		s.kmsfs(t, ok, "keys", "export", "--output", filepath.Join(s.copies, "keys"), v)
	case 6:
		s.kmsfs(t, ok, "ctl", "flush", v)
	}
}

// look looks at the vault when the daemon was killed, and mends it.
func (s *soak) look(t *testing.T) {
	ok := []int{0}
	v := s.m.Backing
	for range rand.N(3) {
		switch rand.N(5) {
		case 0:
			s.kmsfs(t, ok, "verify", v)
		case 1:
			s.kmsfs(t, ok, "fsck", v)
		case 2:
			s.kmsfs(t, ok, "fsck", "--repair", v)
		case 3:
			s.kmsfs(t, ok, "verify", "--no-keys", v)
		case 4:
			plain := filepath.Join(s.copies, "plain")
			s.kmsfs(t, ok, "sync", v, plain)
			s.kmsfs(t, ok, "sync", "--checksum", "--dry-run", v, plain)
		}
	}
}
