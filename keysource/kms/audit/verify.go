package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

// ErrBroken: a log is not what was written.
var ErrBroken = errors.New("audit log was changed")

// LineError is an ErrBroken with its place.
type LineError struct {
	// Line counts the lines of one file from 1.
	Line int64
	// Reason is what is wrong.
	Reason string
}

// Error says where and what.
func (e *LineError) Error() string {
	return fmt.Sprintf("line %d: %s: %v", e.Line, e.Reason, ErrBroken)
}

// Unwrap is ErrBroken.
func (e *LineError) Unwrap() error { return ErrBroken }

// Summary is what Verify found.
type Summary struct {
	// First is the number of the first line; more than 1 where the log was rotated.
	First uint64
	// Head is the end of the chain.
	Head Head
	// Lines is how many lines were verified.
	Lines int64
	// TornBytes is the length of a last line without an end: what a crash, or a server that is just writing, leaves.
	TornBytes int64
}

// Verify checks the chain in r. after is the end of the log before, where it was rotated, and zero where r is looked at
// alone: then its first line may have any number. Each head is given to seen, where that is not nil. A *LineError names
// the first bad line.
func Verify(r io.Reader, after Head, seen func(Head)) (Summary, error) {
	s := Summary{Head: after}
	in := bufio.NewReaderSize(r, 2*MaxRecordSize)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			s.TornBytes = int64(len(line))
			return s, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return s, err
		}
		bad := func(reason string) (Summary, error) { return s, &LineError{s.Lines + 1, reason} }
		if err != nil {
			return bad("it is longer than any that is written")
		}
		line = line[:len(line)-1]
		sequence, previous, ok := parseLine(line)
		switch {
		case !ok || !json.Valid(line):
			return bad("it is not a record")
		case s.Lines == 0 && after == (Head{}):
			s.First = sequence
			if sequence == 1 && previous != ([hashSize]byte{}) {
				return bad("it is the first, and names one before")
			}
		case sequence != s.Head.Sequence+1:
			return bad(fmt.Sprintf("it has number %d and follows number %d", sequence, s.Head.Sequence))
		case previous != s.Head.Hash:
			return bad(fmt.Sprintf("it does not follow line %d as that is now", s.Lines))
		}
		if s.First == 0 {
			s.First = sequence
		}
		s.Lines++
		s.Head = Head{sequence, blake3.Sum256(line)}
		if seen != nil {
			seen(s.Head)
		}
	}
}
