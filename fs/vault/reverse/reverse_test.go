package reverse_test

import (
	"testing"

	"kmsfs/fs/vault/reverse"
)

// TestCopyOpens: a copy of the view is a vault that holds what the source holds; every byte of it is authentic.
func TestCopyOpens(t *testing.T) {
	for _, chunk := range []int{4096, 16384} {
		b := newBench(t, chunk)
		b.fill(chunk)
		v := b.open(reverse.Options{})
		got := opened(t, copied(t, v), b.ks)
		d := b.src.Root()
		want := describe(t, d)
		for _, path := range differences(want, got) {
			t.Errorf("chunks of %d, %s:\ngot  %s\nwant %s", chunk, path, got[path], want[path])
		}
		if len(want) < 30 {
			t.Fatalf("the source has %d files only", len(want))
		}
		must(t, d.Close(), v.Close())
	}
}
