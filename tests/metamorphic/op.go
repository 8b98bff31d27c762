// Package metamorphic plays one random list of file operations on several trees and compares every answer and the
// trees that result.
//
// Start with [Generate], which makes a list from a seed, and [Arena.Run], which plays it. Where the trees differ,
// [Arena.Shrink] looks for a shorter list that still differs, and [Save] writes it; lists kept in testdata are played
// again by the tests for ever.
//
// What is compared is what a program can rely on: errnos, counts, bytes, modes, owners, sizes, link counts of files,
// attributes, targets, and times that somebody set. Not inode numbers, block counts, ctime, atime or anything of a
// directory that file systems choose freely.
package metamorphic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"kmsfs/tests/internal/posix"
)

// Op is one operation. Do names it; which other fields count depends on it. FD and FD2 are slots of the player, not
// descriptors of the system.
type Op struct {
	Do     string      `json:"do"`
	FD     int         `json:"fd,omitempty"`
	FD2    int         `json:"fd2,omitempty"`
	Path   Name        `json:"path,omitempty"`
	Path2  Name        `json:"path2,omitempty"`
	Attr   string      `json:"attr,omitempty"`
	Flags  int         `json:"flags,omitempty"`
	Mode   uint32      `json:"mode,omitempty"`
	Dev    uint64      `json:"dev,omitempty"`
	Off    int64       `json:"off,omitempty"`
	Off2   int64       `json:"off2,omitempty"`
	Len    int64       `json:"len,omitempty"`
	Seed   uint64      `json:"seed,omitempty"`
	UID    int         `json:"uid,omitempty"`
	GID    int         `json:"gid,omitempty"`
	Atime  *posix.Time `json:"atime,omitempty"`
	Mtime  *posix.Time `json:"mtime,omitempty"`
	Repeat int         `json:"repeat,omitempty"` // of Path, for long symlink targets
}

// Name is a path or a link target. Names of Linux are bytes, JSON strings are not: it is written with Go's escapes.
type Name string

// MarshalText writes n with Go's escapes.
func (n Name) MarshalText() ([]byte, error) {
	q := strconv.QuoteToASCII(string(n))
	return []byte(q[1 : len(q)-1]), nil
}

// UnmarshalText reads what MarshalText wrote.
func (n *Name) UnmarshalText(b []byte) error {
	s, err := strconv.Unquote(`"` + string(b) + `"`)
	*n = Name(s)
	return err
}

// String is the operation as one line of JSON.
func (o Op) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // Op holds nothing that JSON cannot.
	}
	return string(b)
}

// Save writes ops to file, one JSON object a line.
func Save(file string, ops []Op) error {
	var b bytes.Buffer
	for _, op := range ops {
		fmt.Fprintln(&b, op)
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// Load reads what Save wrote.
func Load(file string) ([]Op, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ops []Op
	for d := json.NewDecoder(f); d.More(); {
		var op Op
		if err := d.Decode(&op); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		ops = append(ops, op)
	}
	return ops, nil
}
