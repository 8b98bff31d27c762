package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"kmsfs/keysource"
)

// tailSize is how much of the end is read when a log is opened: some lines of the largest size.
const tailSize = 4 * MaxRecordSize

// torn is what a crash left of a last line.
type torn struct {
	bytes int64
	hash  [hashSize]byte
}

// resume finds the end of the chain and cuts off what a crash left of a line.
func (l *Log) resume() (*torn, error) {
	size, err := l.f.Size()
	if err != nil {
		return nil, err
	}
	if size == 0 {
		l.good, err = l.rotatedHead()
		l.head = l.good
		return nil, err
	}
	head, end, err := readEnd(l.f, size)
	if err != nil {
		return nil, keysource.WithHint(fmt.Errorf("%s: %w", l.cfg.Path, err),
			"kmsfs kms audit verify "+l.cfg.Path+" says more; move the file away to begin a new log")
	}
	l.good, l.head, l.size, l.allocated = head, head, end, end
	if end == size {
		return nil, nil
	}
	t := &torn{bytes: size - end}
	b := make([]byte, min(t.bytes, tailSize))
	if _, err := l.f.ReadAt(b, end); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	t.hash = blake3.Sum256(b)
	if err := l.f.Truncate(end); err != nil {
		return nil, err
	}
	if end == 0 {
		l.good, err = l.rotatedHead()
		l.head = l.good
	}
	return t, err
}

// readEnd returns the head of the log in f, and where its last whole line ends.
func readEnd(f file, size int64) (Head, int64, error) {
	base := max(0, size-tailSize)
	b := make([]byte, size-base)
	if _, err := f.ReadAt(b, base); err != nil && !errors.Is(err, io.EOF) {
		return Head{}, 0, err
	}
	end := bytes.LastIndexByte(b, '\n') + 1
	for {
		if end == 0 && base == 0 {
			return Head{}, 0, nil // nothing but a line that was cut short
		}
		if end == 0 {
			return Head{}, 0, fmt.Errorf("the last line is longer than any that is written: %w", ErrBroken)
		}
		begin := bytes.LastIndexByte(b[:end-1], '\n') + 1
		line := b[begin : end-1]
		sequence, previous, ok := parseLine(line)
		if ok && json.Valid(line) {
			if err := checkBefore(b[:begin], base, sequence, previous); err != nil {
				return Head{}, 0, err
			}
			return Head{sequence, blake3.Sum256(line)}, base + int64(end), nil
		}
		// A file system may give a file its size before its content: zeros are a line cut short, all else is not.
		if bytes.IndexByte(line, 0) < 0 {
			return Head{}, 0, fmt.Errorf("the last line is not a record: %w", ErrBroken)
		}
		end = begin
	}
}

// checkBefore holds the last line against the one before, which is at the end of b; b begins at base in the file.
func checkBefore(b []byte, base int64, sequence uint64, previous [hashSize]byte) error {
	if len(b) == 0 && base == 0 {
		return nil
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	line := b[bytes.LastIndexByte(b, '\n')+1:]
	before, _, ok := parseLine(line)
	if !ok || before != sequence-1 || blake3.Sum256(line) != previous {
		return fmt.Errorf("the last line does not follow the one before: %w", ErrBroken)
	}
	return nil
}

// recordTorn writes that a line was cut off.
func (l *Log) recordTorn(t *torn) error {
	r, err := l.Reserve(MaxRecordSize)
	if err != nil {
		return err
	}
	return r.Append(&Record{
		EventName: "AuditLogTruncated", EventType: "AwsServiceEvent", EventTime: Time(l.cfg.Clock.Now()),
		UserIdentity: &UserIdentity{Type: "AWSService", InvokedBy: "kmsfs"},
		EventID:      NewID(),
		ServiceEventDetails: map[string]any{
			"reason": "the last line was cut short by a crash", "bytes": t.bytes, "blake3": fmt.Sprintf("%x", t.hash),
		},
	})
}
