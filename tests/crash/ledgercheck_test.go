package crash_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestLedger shows that the check sees what it must and passes what it may: it is what the kills stand on.
func TestLedger(t *testing.T) {
	const file = "records-0-6" // records of 70000 bytes: several pages
	old, young := record{file, 0, 1}.content(recordSize(6)), record{file, 0, 2}.content(recordSize(6))
	mix := append(bytes.Clone(young[:page]), old[page:]...)
	torn := append(bytes.Clone(young[:100]), old[100:]...)
	whole1, whole2 := record{"whole-0-0", 0, 1}.content(wholeSize(1)), record{"whole-0-0", 0, 2}.content(wholeSize(2))
	const synced = "write " + file + " 0 1\nreturned " + file + " 0 1\nsynced " + file + "\n"
	const second = "write " + file + " 0 2\n"
	const returned = "returned " + file + " 0 2\n"
	for _, c := range []struct {
		name, journal, path string
		content             []byte
		sure, good          bool
	}{
		{"confirmed and there", synced, file, old, false, true},
		{"confirmed and gone", synced, "other", old, false, false},
		{"confirmed and cut off", synced, file, old[:60_000], false, false},
		{"confirmed and one bit wrong", synced, file, append([]byte{old[0] ^ 2}, old[1:]...), false, false},
		{"begun, old", synced + second, file, old, false, true},
		{"begun, new", synced + second, file, young, false, true},
		{"begun, mixed by pages", synced + second, file, mix, false, true},
		{"begun, torn in a page", synced + second, file, torn, false, false},
		{"begun, zeros", synced + second, file, make([]byte, len(old)), false, false},
		{"returned but cached, old", synced + second + returned, file, old, false, true},
		{"returned and uncached, old", synced + second + returned, file, old, true, false},
		{"replaced, old", "replace whole-0-0 1\nreplaced whole-0-0 1\nreplace whole-0-0 2\nreplaced whole-0-0 2\n", "whole-0-0", whole1, false, false},
		{"replacing, old", "replace whole-0-0 1\nreplaced whole-0-0 1\nreplace whole-0-0 2\n", "whole-0-0", whole1, false, true},
		{"replacing, part", "replace whole-0-0 2\n", "whole-0-0", whole2[:len(whole2)/2], false, false},
		{"moving, at neither name", "link a 1\nlinked a 1\nmove a b 1\n", "c", nil, false, false},
		{"linked, gone", "link a 1\nlinked a 1\n", "c", nil, false, false},
		{"removing, gone", "link a 1\nlinked a 1\nremove a\n", "c", nil, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, l := t.TempDir(), newLedger(c.sure)
			if err := os.WriteFile(filepath.Join(dir, "journal"), []byte(c.journal), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, c.path), c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := l.read(filepath.Join(dir, "journal")); err != nil {
				t.Fatal(err)
			}
			if wrong := l.check(dir); (len(wrong) == 0) != c.good {
				t.Errorf("found %q, want good: %v", wrong, c.good)
			}
		})
	}
}
