package backing_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"kmsfs/fs/backing/backingtest"
	"kmsfs/fs/backing/memfs"
)

var (
	compareSeed = flag.Uint64("compare.seed", 0, "first seed of the comparison with memfs; 0 is the time")
	compareRuns = flag.Int("compare.runs", 4, "how many seeds to run")
	compareOps  = flag.Int("compare.ops", 3000, "operations for each seed")
)

// compare runs memfs against directories that newDir makes.
func compare(t *testing.T, newDir func() string, o backingtest.Options) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, as memfs has no permission checks: run go test as root")
	}
	seed := *compareSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("from seed %d", seed)
	for i := range uint64(*compareRuns) {
		dir := newDir()
		backingtest.Compare(t, seed+i, *compareOps, memfs.New(memfs.Config{}).Root(), openDir(t, dir), o)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompare(t *testing.T) {
	compare(t, t.TempDir, backingtest.Options{})
}

func TestCompareTmpfs(t *testing.T) {
	compare(t, within(t, mountTmpfs(t)), backingtest.Options{NoZeroRange: true})
}
