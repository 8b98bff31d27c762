package local

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"kmsfs/keysource"
)

// killDirVariable tells the test binary to be the process that is killed, and where its store is.
const killDirVariable = "KMSFS_TEST_KILL_DIR"

// TestKilledProcess is not a test of its own: TestKill9 runs it.
func TestKilledProcess(t *testing.T) {
	dir := os.Getenv(killDirVariable)
	if dir == "" {
		t.Skip("is run by TestKill9")
	}
	s, err := Open(t.Context(), Config{Dir: dir})
	if errors.Is(err, fs.ErrNotExist) {
		s, err = Create(t.Context(), Config{Dir: dir})
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		md, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{})
		if err == nil {
			md, err = s.RotateKeyOnDemand(t.Context(), keysource.KeyRef(md.ARN))
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(os.Stdout, "done "+md.ARN+" "+md.CurrentKeyMaterialID+"\n")
	}
}

// TestKill9 kills, again and again, a process that changes a store. What it had confirmed must be there.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	var confirmed []string
	deadline := time.Now().Add(2 * time.Second)
	if testing.Short() {
		deadline = time.Now()
	}
	rounds := 0
	for ; rounds == 0 || time.Now().Before(deadline); rounds++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), killDirVariable+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(10+rand.IntN(60))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line, ok := strings.CutPrefix(lines.Text(), "done ")
			if !ok {
				t.Error(lines.Text())
				continue
			}
			confirmed = append(confirmed, line)
		}
		if err := cmd.Wait(); err == nil || timer.Stop() {
			t.Fatalf("the process ended by itself: %v", err)
		}
		s, err := Open(t.Context(), Config{Dir: dir})
		if errors.Is(err, fs.ErrNotExist) && len(confirmed) == 0 {
			continue
		}
		if err != nil {
			t.Fatalf("round %d: %v", rounds, err)
		}
		have := state(t, s)
		for _, line := range confirmed {
			if !slices.Contains(have, line) {
				t.Fatalf("round %d: lost %s", rounds, line)
			}
		}
		_ = s.Close()
	}
	t.Logf("killed %d times, %d rotations confirmed", rounds, len(confirmed))
}
