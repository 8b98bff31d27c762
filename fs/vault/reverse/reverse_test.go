package reverse_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/reverse"
	"kmsfs/fs/vault/rewrap"
)

// TestCopyOpens: a copy of the view is a vault that holds what the source holds; every byte of it is authentic.
func TestCopyOpens(t *testing.T) {
	for _, chunk := range []int{4096, 16384, 65536} {
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

// TestStable: a new view of the same source shows the same bytes, and what changes in the source changes what belongs to it.
func TestStable(t *testing.T) {
	b := newBench(t, 4096)
	b.fill(4096)
	first := b.shown()
	if d := differences(first, b.shown()); len(d) > 0 {
		t.Fatalf("a second view differs at %v", d)
	}
	top := b.src.Root()
	defer top.Close()
	write(t, top, "one more", content(50, 5000), 0)
	second := b.shown()
	var changed []string
	for _, path := range differences(first, second) {
		if first[path] != "" && !strings.HasPrefix(path, "/.kmsfs") {
			t.Errorf("a new file changes %s", path)
		}
		changed = append(changed, path)
	}
	if len(changed) != 2 { // the file and a table
		t.Errorf("a new file changes %q", changed)
	}

	d := b.state.Root()
	defer d.Close()
	_, err := rewrap.Run(t.Context(), d, b.ks, rewrap.Options{Force: true})
	must(t, err)
	for _, path := range differences(second, b.shown()) {
		if !strings.HasPrefix(path, "/.kmsfs") {
			t.Errorf("a rewrap changes %s", path)
		}
	}
}

// TestSmallChange: four kilobytes written into a large file change a chunk and its index block, and nothing else; written
// back, it is as before.
func TestSmallChange(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	old := content(1, 64<<20)
	write(t, top, "large", old, 0)
	show := func() []byte {
		v := b.open(reverse.Options{})
		defer v.Close()
		return read(t, v, find(t, v, b.keys(), "large"))
	}
	before := show()
	const at = 40<<20 + 4096*3
	write(t, top, "large", content(2, 4096), at)
	after := show()
	var blocks []int
	for i := 0; i < len(before); i += 4096 {
		if !bytes.Equal(before[i:min(i+4096, len(before))], after[i:min(i+4096, len(after))]) {
			blocks = append(blocks, i/4096)
		}
	}
	chunk := at / 4096
	if want := []int{chunk / 63 * 64, chunk/63*64 + 1 + chunk%63}; len(before) != len(after) || !slices.Equal(blocks, want) {
		t.Errorf("%d blocks differ: %v, want %v", len(blocks), blocks, want)
	}
	index := func(stored []byte) envelope.Entry {
		cur, _ := (*envelope.IndexBlock)(stored[chunk/63*64*4096:]).Slot(chunk % 63)
		return cur
	}
	if a, b := index(before), index(after); a.Nonce == b.Nonce || a.IsZero() || b.IsZero() {
		t.Errorf("other plaintext has the nonce %x, %x before", b.Nonce, a.Nonce)
	}
	write(t, top, "large", old[at:at+4096], at)
	if !bytes.Equal(before, show()) {
		t.Error("what was written back is not as before")
	}
}

// TestPresenceTree: a hole without data below it in the tree of presence bits is zeros; one with data is an index block that
// has the bit of that data.
func TestPresenceTree(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	write(t, top, "sparse", content(1, 4096), 1000*63*4096+5*4096)
	v := b.open(reverse.Options{})
	defer v.Close()
	stored := read(t, v, find(t, v, b.keys(), "sparse"))
	for group, want := range map[int]bool{0: true, 1: true, 2: false, 999: false, 1000: true} {
		index := (*envelope.IndexBlock)(stored[group*64*4096:])
		if index.IsZero() == want {
			t.Errorf("group %d: present %v, want %v", group, !want, want)
		}
		if got, want := index.Presence(0), group == 0; got != want && !index.IsZero() {
			t.Errorf("group %d: presence bit 0 is %v", group, got)
		}
	}
	if !(*envelope.IndexBlock)(stored[64*4096:]).Presence(1000 - 961) {
		t.Error("group 1 has no presence bit of group 1000")
	}
}

// TestLinked: all names of a file show one stored file.
func TestLinked(t *testing.T) {
	b := newBench(t, 4096)
	b.fill(4096)
	v := b.open(reverse.Options{})
	defer v.Close()
	vk := b.keys()
	one := find(t, v, vk, "two names")
	for _, path := range [][]string{{"a directory", "the other"}, {"a directory", "b", "c", "the third"}} {
		if n := find(t, v, vk, path...); n.Ino() != one.Ino() || !bytes.Equal(read(t, v, n), read(t, v, one)) {
			t.Errorf("%v is another file", path)
		}
	}
}

// TestLocked: a state has one view.
func TestLocked(t *testing.T) {
	b := newBench(t, 4096)
	v := b.open(reverse.Options{})
	if _, err := reverse.Open(t.Context(), b.src.Root(), b.state.Root(), b.ks, reverse.Options{}); !errors.Is(err, vault.ErrLocked) {
		t.Errorf("a second view: %v", err)
	}
	must(t, v.Close())
	must(t, b.open(reverse.Options{}).Close())
	if _, err := reverse.Open(t.Context(), b.src.Root(), b.src.Root(), b.ks, reverse.Options{}); !errors.Is(err, vault.ErrNotVault) {
		t.Errorf("without a state: %v", err)
	}
}

// TestForeignNames: whatever is asked for, what is not in the view is not there.
func TestForeignNames(t *testing.T) {
	b := newBench(t, 4096)
	b.fill(4096)
	top := b.src.Root()
	defer top.Close()
	mkdir(t, top, reverse.StateName)
	write(t, top, ".kmsfs", nil, 0) // a name as any other
	v := b.open(reverse.Options{})
	defer v.Close()
	vk := b.keys()
	state, err := vk.SealName(vk.RootDir(), reverse.StateName)
	must(t, err)
	other, err := vk.SealName(vk.ReverseDirID("a directory"), "size 1")
	must(t, err)
	long, err := vk.SealName(vk.RootDir(), strings.Repeat("no", 100))
	must(t, err)
	for _, name := range append(long.Companions, "x", ".kmsfs.dir", ".kmsfs.long.x", ".kmsfs.else", "size 1", state.Entry, other.Entry, long.Entry,
		strings.Repeat("A", 22), strings.Repeat("A", 43), strings.Repeat("A", 300), "\xff") {
		if _, _, err := v.Lookup(v.Root(), name); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%q: %v", name, err)
		}
	}
	entries, err := v.List(t.Context(), v.Root())
	must(t, err)
	if slices.ContainsFunc(entries, func(e reverse.Entry) bool { return e.Name == state.Entry }) {
		t.Error("the state is listed")
	}
	control, _, err := v.Lookup(v.Root(), ".kmsfs")
	must(t, err)
	for _, name := range []string{"lock", "tmp", "keys.lock", "vault.json.new"} {
		if _, _, err := v.Lookup(control, name); !errors.Is(err, syscall.ENOENT) {
			t.Errorf(".kmsfs/%s: %v", name, err)
		}
	}
}

// TestReaders: many readers at once, who do not fit into the cache together, read what one does.
func TestReaders(t *testing.T) {
	b := newBench(t, 4096)
	b.fill(4096)
	v := b.open(reverse.Options{CacheBytes: 1})
	defer v.Close()
	vk := b.keys()
	n := find(t, v, vk, fmt.Sprintf("size %d", 200*4096+77))
	want := read(t, v, n)
	shared, _, err := v.Open(n)
	must(t, err)
	defer shared.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			h := shared
			for round := range 50 {
				if round%10 == 5 && i%2 == 0 {
					own, _, err := v.Open(n)
					if err != nil {
						t.Error(err)
						return
					}
					defer own.Close()
					h = own
				}
				off := rng.IntN(len(want))
				p := make([]byte, 1+rng.IntN(400000))
				got, err := h.Read(t.Context(), p, int64(off))
				if err != nil || !bytes.Equal(p[:got], want[off:min(off+len(p), len(want))]) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, got, err)
				}
				if _, err := v.List(t.Context(), v.Root()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
