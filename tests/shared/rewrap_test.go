package shared_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"kmsfs/tests/internal/lab"
)

// rewrapMeanwhile rotates the CMK and rewraps the vault while both sides make and overwrite files, and verifies that the old
// key material is not needed any more.
func rewrapMeanwhile(t *testing.T, p *pair, dir string) {
	bin := lab.Binary(t, "cmd/kmsfs")
	kmsfs := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(bin, args...)
		cmd.Env = append(os.Environ(), "HOME="+p.mounts[0].Keys())
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kmsfs %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
		}
		return strings.TrimSpace(string(out))
	}
	fill(t, p.path(0, dir, "file"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.load(t, 2, func(side, id int, going func() bool) error {
			w := overwriter{r: newRand(id), id: id, writes: id < 2}
			for n := 0; going(); n++ {
				if err := w.once(p.path(side, dir, "file"), n); err != nil {
					return err
				}
				if err := os.WriteFile(p.path(side, dir, strings.Repeat("n", id+1)+string(rune('a'+n%20))), []byte("new"), 0o600); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	old := keyMaterial(kmsfs("info", p.mounts[0].Backing))
	kmsfs("key", "rotate", "--key-store", p.mounts[0].Keys(), "alias/aws/kmsfs")
	kmsfs("rewrap", p.mounts[0].Backing)
	<-done
	kmsfs("rewrap", p.mounts[1].Backing)
	kmsfs("verify", "--key-unused", old, p.mounts[1].Backing)
	for side := range p.mounts {
		checkBlocks(t, p.path(side, dir, "file"))
		check(t, os.WriteFile(p.path(side, dir, "after"), []byte("after"), 0o600))
	}
}

// keyMaterial finds the id in what kmsfs info prints.
func keyMaterial(info string) string {
	for _, line := range strings.Split(info, "\n") {
		if _, id, ok := strings.Cut(line, "key material id"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}
