package shared_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// appendLines is another process: it appends lines to a file until its input ends, each under a lock of the given kind, and
// prints how many it was told are written.
func appendLines(args []string) error {
	kind, path, id := args[0], args[1], args[2]
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is closed
		close(stop)
	}()
	lock := func(typ int16) error {
		switch kind {
		case "flock":
			how := map[int16]int{unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[typ]
			return unix.Flock(int(f.Fd()), how)
		case "fcntl":
			return unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: typ})
		case "ofd":
			return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: typ})
		}
		return nil
	}
	n := 0
	for {
		select {
		case <-stop:
			fmt.Println(n)
			return f.Close()
		default:
		}
		if err := lock(unix.F_WRLCK); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		line := fmt.Sprintf("%s %d %s\n", id, n, strings.Repeat("x", rand.IntN(6000)>>rand.IntN(10)))
		half := len(line) / 2
		if kind == "none" {
			half = 0 // one write is one line
		} else if _, err := io.WriteString(f, line[:half]); err != nil {
			return err
		}
		if _, err := io.WriteString(f, line[half:]); err != nil {
			return err
		}
		n++
		if err := lock(unix.F_UNLCK); err != nil {
			return fmt.Errorf("unlock: %w", err)
		}
	}
}

// appends has programs on both sides append lines to one file under each kind of lock: all lines are whole, in the order of
// each program, and none is lost. Half a line is written at a time.
func appends(t *testing.T, p *pair, dir string) {
	for _, kind := range []string{"flock", "fcntl", "ofd"} {
		t.Run(kind, func(t *testing.T) { appendBy(t, p, dir, kind) })
	}
}

// appendsUnlocked is the same without locks: one write(2) with O_APPEND is one line.
func appendsUnlocked(t *testing.T, p *pair, dir string) { appendBy(t, p, dir, "none") }

func appendBy(t *testing.T, p *pair, dir, kind string) {
	check(t, os.WriteFile(p.path(0, dir, kind), nil, 0o600))
	programs := 2 * len(p.mounts)
	told := make([]int, programs)
	p.load(t, 2, func(side, id int, going func() bool) error {
		cmd := exec.Command("/proc/self/exe", kind, p.path(side, dir, kind), fmt.Sprint(id))
		cmd.Env = append(os.Environ(), childEnv+"=appender")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		for going() {
			pause()
		}
		_ = in.Close() // tells it to end
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, out.Bytes())
		}
		told[id], err = strconv.Atoi(strings.TrimSpace(out.String()))
		return err
	})
	for side := range p.mounts {
		b, err := os.ReadFile(p.path(side, dir, kind))
		check(t, err)
		next := make([]int, programs)
		for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
			var id, n int
			rest := ""
			if got, _ := fmt.Sscanf(line, "%d %d %s", &id, &n, &rest); got < 2 || id >= programs || strings.Trim(rest, "x") != "" || n != next[id] {
				t.Fatalf("side %d, line %d: %.60q: not a whole line, or not the next one (%v)", side, i, line, next)
			}
			next[id]++
		}
		if !slices.Equal(next, told) {
			t.Fatalf("side %d has %v lines, the programs have written %v", side, next, told)
		}
	}
	total := 0
	for _, n := range told {
		total += n
	}
	t.Logf("%d lines", total)
	if total < programs {
		t.Errorf("only %v lines: nothing was tried", told)
	}
}

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
