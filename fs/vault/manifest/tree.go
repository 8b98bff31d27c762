package manifest

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
)

// hashing says what hashDirs does with the hashes.
type hashing uint8

const (
	setHashes     hashing = iota // of directories, with the number of their entries
	compareHashes                // with those that are there
)

// openDir is a directory whose entries are coming.
type openDir struct {
	e *Entry
	n int64
	h *blake3.Hasher
}

// hashDirs computes the hashes of directories from entries, which are in the order of comparePaths and begin with the vault
// itself. Each is derive_key(dirContext) over its entries by their names: u8 kind, u32 length of the name, name, u64 size, hash.
func hashDirs(entries []Entry, how hashing) error {
	if len(entries) == 0 || entries[0].Kind != Dir || entries[0].Path != "" {
		return malformed("the vault itself is missing")
	}
	var open []openDir
	// end ends the last directory, and adds it to the one that it is in.
	end := func() error {
		d := open[len(open)-1]
		open = open[:len(open)-1]
		var h Hash
		d.h.Digest().Read(h[:])
		if how == compareHashes && (d.e.Hash != h || d.e.Size != d.n) {
			return malformed("the hash of the directory %s", quotePath(d.e.Path))
		}
		d.e.Hash, d.e.Size = h, d.n
		if len(open) > 0 {
			open[len(open)-1].add(d.e)
		}
		return nil
	}
	for i := range entries {
		e := &entries[i]
		for len(open) > 0 && !e.in(open[len(open)-1].e) {
			if err := end(); err != nil {
				return err
			}
		}
		if len(open) == 0 && i > 0 {
			return malformed("%s is in no directory", quotePath(e.Path))
		}
		if e.Kind == Dir {
			open = append(open, openDir{e: e, h: blake3.NewDeriveKey(dirContext)})
		} else {
			open[len(open)-1].add(e)
		}
	}
	for len(open) > 0 {
		if err := end(); err != nil {
			return err
		}
	}
	return nil
}

// in says whether e is an entry of directory d.
func (e *Entry) in(d *Entry) bool {
	rest, ok := e.Path, d.Path == ""
	if !ok {
		rest, ok = strings.CutPrefix(e.Path, d.Path+"/")
	}
	return ok && rest != "" && !strings.Contains(rest, "/")
}

func (d *openDir) add(e *Entry) {
	name := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
	b := append(make([]byte, 0, 64+len(name)), byte(e.Kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Size))
	d.h.Write(append(b, e.Hash[:]...))
	d.n++
}

// find returns the entry at path, nil where there is none.
func (m *Manifest) find(path string) *Entry {
	i, ok := slices.BinarySearchFunc(m.Entries, path, func(e Entry, path string) int { return comparePaths(e.Path, path) })
	if !ok {
		return nil
	}
	return &m.Entries[i]
}
