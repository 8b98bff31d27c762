package reverse_test

import (
	"errors"
	"syscall"
	"testing"

	"kmsfs/fs/vault"
	"kmsfs/fs/vault/reverse"
)

// TestPunched: once a hole was made in a file with holes, an open handle shows no group as a hole that has a presence bit, or was
// shown otherwise, before: the copy would not open. That mtime was set back does not hide it.
func TestPunched(t *testing.T) {
	const punch = 3 // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	write(t, top, "sparse", content(1, 3*4096), 2*63*4096)
	write(t, top, "sparse", content(2, 4096), 9*63*4096)
	v := b.open(reverse.Options{CacheBytes: 1})
	defer v.Close()
	n := find(t, v, b.keys(), "sparse")
	h, _, err := v.Open(n)
	must(t, err)
	defer h.Close()
	p := make([]byte, 64*4096)
	for g := range int64(2) { // the presence bits of all
		_, err := h.Read(t.Context(), p, g*64*4096)
		must(t, err)
	}
	st, err := top.StatAt("sparse")
	must(t, err)
	f, err := top.Open("sparse", syscall.O_RDWR, 0)
	must(t, err, f.Allocate(punch, 2*63*4096, 63*4096), f.Close(), top.UtimesAt("sparse", st.Atim, st.Mtim))
	if _, err := h.Read(t.Context(), p, 2*64*4096); !errors.Is(err, reverse.ErrChanged) {
		t.Errorf("a group that is a hole now: %v", err)
	}
	if at, err := h.Seek(64*4096, 3); !errors.Is(err, reverse.ErrChanged) {
		t.Errorf("SEEK_DATA finds %d, %v", at, err)
	}
}

// TestSizeHeld: for as long as a file is open its attributes have the size that is read; who opens it then with another size
// has to look it up anew, for a kernel has one size of a node.
func TestSizeHeld(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	write(t, top, "log", content(1, 5000), 0)
	v := b.open(reverse.Options{})
	defer v.Close()
	n := find(t, v, b.keys(), "log")
	was, err := v.Attr(n)
	must(t, err)
	h, _, err := v.Open(n)
	must(t, err)
	if h.Unforeseen() {
		t.Error("the size was told")
	}
	for _, size := range []int64{9000, 10} {
		truncate(t, top, "log", size)
		if st, err := v.Attr(n); err != nil || st.Size != was.Size {
			t.Errorf("now of %d bytes: size %d, %v, want %d", size, st.Size, err, was.Size)
		}
		if _, _, err := v.Open(n); !errors.Is(err, vault.ErrStale) {
			t.Errorf("now of %d bytes: opened again: %v", size, err)
		}
		if again := find(t, v, b.keys(), "log"); again == n {
			t.Errorf("now of %d bytes: looked up again it is the same node", size)
		} else {
			read(t, v, again)
		}
	}
	h.Close()
	if st, err := v.Attr(n); err != nil || st.Size != 138 {
		t.Errorf("closed: size %d, %v", st.Size, err)
	}
	truncate(t, top, "log", 5000)
	h, _, err = v.Open(n)
	must(t, err)
	defer h.Close()
	if !h.Unforeseen() {
		t.Error("another size was told")
	}
}
