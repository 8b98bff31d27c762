package audit

import (
	"bytes"
	"encoding/hex"
	"strconv"

	"github.com/zeebo/blake3"
)

// A line is its link, {"sequence":N,"previousHash":"HEX",, and the rest of a record. The hash of a line is the BLAKE3 of
// its bytes without the line end; the first line of a log has a previous hash of zeros.
const (
	linkSequence = `{"sequence":`
	linkHash     = `,"previousHash":"`
	linkEnd      = `",`
	// linkSize is the longest link: a sequence has at most 20 digits.
	linkSize = len(linkSequence) + 20 + len(linkHash) + 2*hashSize + len(linkEnd)

	hashSize = 32
)

// Head is the end of a chain: the number of its last line and the hash of that line. The zero value is that of a log
// without lines.
type Head struct {
	// Sequence counts the lines from 1.
	Sequence uint64
	// Hash is the BLAKE3 of the last line.
	Hash [hashSize]byte
}

// String is the hash in hexadecimal.
func (h Head) String() string { return hex.EncodeToString(h.Hash[:]) }

// appendLine appends the line that follows h to dst, with a line end; record is a JSON object. It returns the new head
// too.
func (h Head) appendLine(dst, record []byte) ([]byte, Head) {
	begin := len(dst)
	dst = append(dst, linkSequence...)
	dst = strconv.AppendUint(dst, h.Sequence+1, 10)
	dst = append(dst, linkHash...)
	dst = hex.AppendEncode(dst, h.Hash[:])
	dst = append(dst, linkEnd...)
	dst = append(dst, record[1:]...)
	next := Head{h.Sequence + 1, blake3.Sum256(dst[begin:])}
	return append(dst, '\n'), next
}

// parseLine reads the link of a line without its line end: its number, and the head that it follows.
func parseLine(line []byte) (sequence uint64, previous [hashSize]byte, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(linkSequence))
	if !ok {
		return 0, previous, false
	}
	digits, rest, ok := bytes.Cut(rest, []byte(linkHash))
	if !ok || len(digits) > 20 || len(rest) < 2*hashSize {
		return 0, previous, false
	}
	sequence, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || strconv.FormatUint(sequence, 10) != string(digits) || sequence == 0 {
		return 0, previous, false
	}
	if _, err := hex.Decode(previous[:], rest[:2*hashSize]); err != nil || !bytes.HasPrefix(rest[2*hashSize:], []byte(linkEnd)) {
		return 0, previous, false
	}
	return sequence, previous, true
}
