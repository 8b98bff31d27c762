package crash_test

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
)

// record names one piece of content; the same record at another version holds other bytes.
type record struct {
	file    string
	index   int
	version int
}

// content is what a record holds: a line that says what it is, then noise, the same for the same record. No byte is 0,
// so that what was never written is told from what was. Version 0 is nothing written: zeros.
func (r record) content(size int) []byte {
	b := make([]byte, size)
	if r.version == 0 {
		return b
	}
	head := fmt.Sprintf("file %s record %d version %d ", r.file, r.index, r.version)
	sum := crc32.ChecksumIEEE([]byte(head))
	_, _ = rand.NewChaCha8([32]byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)}).Read(b) // never fails
	for i := range b {
		b[i] |= 1
	}
	copy(b, fmt.Sprintf("%schecksum %08x\n", head, crc32.ChecksumIEEE(b)))
	return b
}

// recordSize is the size of the records in the n-th file of a worker: below and above blocks, chunks and the small form.
func recordSize(n int) int {
	sizes := []int{100, 512, 1000, 3967, 4096, 5000, 70_000}
	return sizes[n%len(sizes)]
}

const (
	filesEach   = 7  // files with records, per worker
	recordsEach = 25 // records per file
	wholesEach  = 4  // files that are replaced as a whole, per worker
	linksEach   = 8  // names of symbolic links, per worker
)

// wholeSize is the size of a replaced file, which changes with its version.
func wholeSize(version int) int {
	const most = 400_000
	v := version % most // the square of a late version is no int
	return 1 + v*v%most*7919%most
}

func recordFile(worker, n int) string { return fmt.Sprintf("records-%d-%d", worker, n) }
func wholeFile(worker, n int) string  { return fmt.Sprintf("whole-%d-%d", worker, n) }
func linkName(worker, n int) string   { return fmt.Sprintf("link-%d-%d", worker, n) }
