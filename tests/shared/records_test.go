package shared_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// recordSize is what is written at once: a chunk of the smallest size.
const recordSize = 4096

// record is a block that says who has written it, where and when, with a checksum of all.
func record(b []byte, block, id, n int) {
	r := rand.New(rand.NewPCG(uint64(id), uint64(n)))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(block))
	binary.LittleEndian.PutUint32(b[8:], uint32(id))
	binary.LittleEndian.PutUint32(b[12:], uint32(n))
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// parse returns whose record it is.
func parse(b []byte, block int) (id, n int, err error) {
	if binary.LittleEndian.Uint32(b) != crc32.ChecksumIEEE(b[4:]) || binary.LittleEndian.Uint32(b[4:]) != uint32(block) {
		return 0, 0, fmt.Errorf("block %d is none that somebody has written: %x", block, b[:32])
	}
	return int(binary.LittleEndian.Uint32(b[8:])), int(binary.LittleEndian.Uint32(b[12:])), nil
}

// blocks is how many records a file of overwrites has: more than a group.
const blocks = 100

// fill writes the first record of each block.
func fill(t *testing.T, path string) {
	t.Helper()
	b := make([]byte, blocks*recordSize)
	for i := range blocks {
		record(b[i*recordSize:][:recordSize], i, 0, 0)
	}
	check(t, os.WriteFile(path, b, 0o600))
}

// overwrites has both sides write over the same blocks of the same files while both read them: each block that is read is
// one that somebody has written whole.
func overwrites(t *testing.T, p *pair, dir string) {
	for _, name := range []string{"f0", "f1"} {
		fill(t, p.path(0, dir, name))
	}
	var mu sync.Mutex
	wrote, read := 0, 0
	p.load(t, 4, func(side, id int, going func() bool) error {
		r := rand.New(rand.NewPCG(uint64(id), 1))
		w, n := overwriter{r: r, id: id, writes: id%4 < 2}, 0
		for ; going(); n++ {
			if err := w.once(p.path(side, dir, fmt.Sprint("f", r.IntN(2))), n); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if w.writes {
			wrote += n
		} else {
			read += n
		}
		return nil
	})
	t.Logf("%d writes, %d reads", wrote, read)
	for side := range p.mounts {
		for _, name := range []string{"f0", "f1"} {
			checkBlocks(t, p.path(side, dir, name))
		}
	}
}

func checkBlocks(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	if len(b) != blocks*recordSize {
		t.Fatalf("%s has %d bytes", path, len(b))
	}
	for i := range blocks {
		_, _, err := parse(b[i*recordSize:][:recordSize], i)
		check(t, err)
	}
}

// overwriter reads or writes one to three blocks at a time.
type overwriter struct {
	r      *rand.Rand
	id     int
	writes bool
}

func (w *overwriter) once(path string, n int) error {
	flags := os.O_RDONLY
	if w.writes {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	first, count := w.r.IntN(blocks-3), 1+w.r.IntN(3)
	b := make([]byte, count*recordSize)
	if w.writes {
		for i := range count {
			record(b[i*recordSize:][:recordSize], first+i, w.id, n)
		}
		_, err := f.WriteAt(b, int64(first)*recordSize)
		return err
	}
	if _, err := f.ReadAt(b, int64(first)*recordSize); err != nil {
		return err
	}
	for i := range count {
		if _, _, err := parse(b[i*recordSize:][:recordSize], first+i); err != nil {
			return err
		}
	}
	return nil
}
