package shared_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// lockLists has processes on all sides lock and unlock at random, each kind of lock and range, and beside them as many processes
// do the same to a file of a plain directory: the answers are the same.
func lockLists(t *testing.T, p *pair, dir string) {
	const programs = 4
	plain := filepath.Join(lab.Dir(t), "file")
	for _, path := range []string{plain, p.path(0, dir, "file")} {
		check(t, os.WriteFile(path, []byte("something"), 0o666))
	}
	var ask, want [programs]func(string) string
	for i := range programs {
		ask[i] = lab.StartLocker(t, p.path(i%len(p.mounts), dir, "file"), childEnv+"=locker")
		want[i] = lab.StartLocker(t, plain, childEnv+"=locker")
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	steps, refused := 0, 0
	for end := time.Now().Add(seconds(t)); time.Now().Before(end); steps++ {
		// flock(2) on a mount is not kept apart from fcntl(2): one kind excludes only itself, as on a local disk.
		var what string
		switch kind := r.IntN(3); kind {
		case 0:
			what = "flock " + []string{"sh", "ex", "un", "un"}[r.IntN(4)]
		default:
			what = fmt.Sprintf("%s %s %d %d", []string{"fcntl", "ofd"}[kind-1], []string{"rd", "wr", "un", "un"}[r.IntN(4)], r.IntN(30), r.IntN(20))
		}
		who := r.IntN(programs)
		a, b := ask[who](what), want[who](what)
		if a != b {
			t.Fatalf("seed %d, step %d: program %d, %s: %s, on a plain directory %s", seed, steps, who, what, a, b)
		}
		if a != "ok" {
			refused++
		}
	}
	t.Logf("%d steps, %d refused", steps, refused)
}
