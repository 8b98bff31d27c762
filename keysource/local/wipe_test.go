package local

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// copiesInMemory counts how often secret, which is in the heap, stands in that part of the heap.
func copiesInMemory(t *testing.T, secret []byte) int {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Skip(err, ": needs /proc")
	}
	defer maps.Close()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Skip(err, ": needs /proc/self/mem")
	}
	defer mem.Close()
	const size, overlap = 1 << 20, secretSize - 1
	// Outside of the heap, or the search would find itself.
	b, err := unix.Mmap(-1, 0, size+overlap, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	count, here := 0, int64(uintptr(unsafe.Pointer(&secret[0])))
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var perm string
		_, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &perm)
		if err != nil || !strings.HasPrefix(perm, "rw") || here < from || here >= to {
			continue
		}
		for at := from; at < to; at += size {
			n, err := mem.ReadAt(b[:min(size+overlap, to-at)], at)
			if err != nil {
				t.Fatal(err)
			}
			count += bytes.Count(b[:n], secret)
		}
	}
	return count
}

// TestNoCopiesOfSecrets has key material stand in memory in the present snapshot, and in no more for each change or reading.
func TestNoCopiesOfSecrets(t *testing.T) {
	dir := t.TempDir()
	s := create(t, Config{Dir: dir})
	secret := func() []byte { return s.snap.materials()[0].secret[:] }
	check := func(after string) {
		t.Helper()
		if n := copiesInMemory(t, secret()); n > 2 { // one may be left on a stack
			t.Errorf("after %s there are %d copies", after, n)
		}
	}
	for range 4 {
		mustCreateKey(t, s)
	}
	check("changes")
	old, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	mustCreateKey(t, s)
	if err := os.WriteFile(s.path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := s.reload(); err == nil {
			t.Fatal("an old generation was taken")
		}
	}
	check("reading an old generation")
}
