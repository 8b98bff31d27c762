package crash_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// page is what a write may be cut at: what reached the daemon is whole pages of the file.
const page = 4096

// slot is a place whose content has versions: a record of a file, a whole file (record -1), a link (record -2).
type slot struct {
	file  string
	index int
}

const (
	whole = -1
	link  = -2
)

// ledger knows, from what the workers said, which versions each slot may have: one where the last was confirmed,
// several while it was not.
type ledger struct {
	// sure is true where a write that returned survives the daemon at once, because the kernel keeps none of it.
	sure    bool
	allowed map[slot][]int
	moves   []move // the one of each worker that may not have been done
}

type move struct {
	from, to string
	version  int
}

func newLedger(sure bool) *ledger { return &ledger{sure: sure, allowed: map[slot][]int{}} }

func (l *ledger) may(s slot, version int) {
	if l.allowed[s] == nil {
		l.allowed[s] = []int{0}
	}
	if !slices.Contains(l.allowed[s], version) {
		l.allowed[s] = append(l.allowed[s], version)
	}
}

func (l *ledger) must(s slot, version int) { l.allowed[s] = []int{version} }

// read takes in one worker's journal.
func (l *ledger) read(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // killed before it began
	}
	if err != nil {
		return err
	}
	defer f.Close()
	returned := map[slot]int{} // since the last sync
	var pending *move
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		number := func(i int) int {
			n, convErr := strconv.Atoi(w[i])
			err = errors.Join(err, convErr)
			return n
		}
		switch w[0] {
		case "write":
			l.may(slot{w[1], number(2)}, number(3))
		case "returned":
			s := slot{w[1], number(2)}
			returned[s] = number(3)
			if l.sure {
				l.must(s, number(3))
			}
		case "synced":
			for s, version := range returned {
				if s.file == w[1] {
					l.must(s, version)
					delete(returned, s)
				}
			}
		case "replace":
			l.may(slot{w[1], whole}, number(2))
		case "replaced":
			l.must(slot{w[1], whole}, number(2))
		case "link":
			l.may(slot{w[1], link}, number(2))
		case "linked":
			l.must(slot{w[1], link}, number(2))
		case "remove":
			l.may(slot{w[1], link}, 0)
		case "removed":
			l.must(slot{w[1], link}, 0)
		case "move":
			pending = &move{w[1], w[2], number(3)}
			l.may(slot{w[1], link}, 0)
			l.may(slot{w[2], link}, number(3))
		case "moved":
			pending = nil
			l.must(slot{w[1], link}, 0)
			l.must(slot{w[2], link}, number(3))
		default:
			return fmt.Errorf("%s: %q", path, lines.Text())
		}
	}
	if pending != nil {
		l.moves = append(l.moves, *pending)
	}
	return errors.Join(err, lines.Err())
}

// check compares what stands in dir with what may stand there, says what is wrong, and from then on expects what it saw.
func (l *ledger) check(dir string) []string {
	var wrong []string
	files := map[string][]byte{}
	for s, versions := range l.allowed {
		var seen []int
		var err error
		switch s.index {
		case link:
			seen, err = checkLink(filepath.Join(dir, s.file), versions)
		case whole:
			seen, err = checkWhole(dir, s, versions)
		default:
			if _, ok := files[s.file]; !ok {
				files[s.file], err = readOrNothing(filepath.Join(dir, s.file))
			}
			if err == nil {
				seen, err = checkRecord(files[s.file], s, versions)
			}
		}
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s, record %d: %v", s.file, s.index, err))
			continue
		}
		l.allowed[s] = seen
	}
	for _, m := range l.moves {
		from := slices.Contains(l.allowed[slot{m.from, link}], m.version)
		if to := slices.Contains(l.allowed[slot{m.to, link}], m.version); from == to {
			wrong = append(wrong, fmt.Sprintf("moving %s to %s was not atomic: at the old name %v, at the new %v", m.from, m.to, from, to))
		}
	}
	l.moves = nil
	return wrong
}

func readOrNothing(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func checkLink(path string, versions []int) ([]int, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		target, err = "0", nil
	}
	if err != nil {
		return nil, err
	}
	version, err := strconv.Atoi(target)
	if err != nil || !slices.Contains(versions, version) {
		return nil, fmt.Errorf("the link says %q, want one of %v", target, versions)
	}
	return []int{version}, nil
}

// checkWhole wants exactly one of the versions: a file that is moved into place is never a mix.
func checkWhole(dir string, s slot, versions []int) ([]int, error) {
	b, err := readOrNothing(filepath.Join(dir, s.file))
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if v == 0 && b == nil || v != 0 && bytes.Equal(b, record{s.file, 0, v}.content(wholeSize(v))) {
			return []int{v}, nil
		}
	}
	return nil, fmt.Errorf("%d bytes, %.60q, want one of versions %v", len(b), b, versions)
}

// checkRecord wants each page's part of the record to be of one of the versions. It returns those it saw.
func checkRecord(b []byte, s slot, versions []int) ([]int, error) {
	n, err := strconv.Atoi(s.file[strings.LastIndexByte(s.file, '-')+1:])
	if err != nil {
		return nil, err
	}
	size := recordSize(n)
	start := s.index * size
	got := make([]byte, size) // what is beyond the end counts as zeros
	if start < len(b) {
		copy(got, b[start:])
	}
	var seen []int
	for at := 0; at < size; {
		end := min(size, ((start+at)/page+1)*page-start)
		i := slices.IndexFunc(versions, func(v int) bool {
			return bytes.Equal(got[at:end], record{s.file, s.index, v}.content(size)[at:end])
		})
		if i < 0 {
			return nil, fmt.Errorf("bytes %d to %d of the file (of %d) are of no version of %v: %.80q", start+at, start+end, len(b), versions, got[at:end])
		}
		if !slices.Contains(seen, versions[i]) {
			seen = append(seen, versions[i])
		}
		at = end
	}
	return seen, nil
}
