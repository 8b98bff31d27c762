package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"kmsfs/fs/vault/tree"
)

// blockLen is the size of a block of an archive.
const blockLen = 512

// writeSparse writes the headers and the map of a file with holes, GNU sparse format 1.0, of which archive/tar reads but does not
// write: an extended header whose records say so, the header, and the map as text in the first blocks of what follows. It
// returns how many bytes of data are to follow. What the archive/tar.Writer has not written yet is flushed before.
func writeSparse(w io.Writer, h *tar.Header, extents []tree.Extent) (data int64, err error) {
	if n := len(extents); n == 0 || extents[n-1].Off+extents[n-1].Len < h.Size {
		extents = append(extents, tree.Extent{Off: h.Size}) // the end, where the file ends in a hole
	}
	list := strconv.Itoa(len(extents)) + "\n"
	for _, x := range extents {
		list += fmt.Sprintf("%d\n%d\n", x.Off, x.Len)
		data += x.Len
	}
	list += strings.Repeat("\x00", -len(list)&(blockLen-1))

	inner := *h
	inner.Size = data + int64(len(list))
	dir, base := path.Split(h.Name)
	inner.Name = path.Join(dir, "GNUSparseFile.0", base) // what a reader that knows no holes makes
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(h.Size, 10),
	}
	for name, value := range h.PAXRecords {
		records[name] = value
	}
	blocks, err := headerBlocks(&inner, records)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(blocks); err != nil {
		return 0, err
	}
	_, err = io.WriteString(w, list)
	return data, err
}

// headerBlocks are the blocks that archive/tar makes of h, with more records in the extended header.
func headerBlocks(h *tar.Header, records map[string]string) ([]byte, error) {
	var b bytes.Buffer
	plain := *h
	plain.PAXRecords = nil
	if err := tar.NewWriter(&b).WriteHeader(&plain); err != nil {
		return nil, err
	}
	made := b.Bytes()
	body := ""
	if made[typeflagAt] == tar.TypeXHeader { // there is one already: for its times, and where its name or size needs it
		size, err := strconv.ParseInt(strings.Trim(string(made[sizeAt:sizeAt+12]), " \x00"), 8, 64)
		if err != nil {
			return nil, err
		}
		body = string(made[blockLen : blockLen+size])
		made = made[len(made)-blockLen:]
	}
	for _, name := range sortedNames(records) {
		body += paxRecord(name, records[name])
	}
	x := tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders.0/sparse", Mode: 0o600, Size: int64(len(body)), Format: tar.FormatUSTAR}
	var ext bytes.Buffer
	if err := tar.NewWriter(&ext).WriteHeader(&x); err != nil {
		return nil, err
	}
	head := ext.Bytes()
	head[typeflagAt] = tar.TypeXHeader
	setChecksum(head)
	out := append(append([]byte{}, head...), body...)
	out = append(out, make([]byte, -len(body)&(blockLen-1))...)
	return append(out, made...), nil
}

// Places in a header block (ustar, POSIX.1-1988).
const (
	sizeAt     = 124
	checksumAt = 148
	typeflagAt = 156
)

// setChecksum makes the checksum of a header block right.
func setChecksum(b []byte) {
	copy(b[checksumAt:], "        ")
	sum := 0
	for _, c := range b[:blockLen] {
		sum += int(c)
	}
	copy(b[checksumAt:], fmt.Sprintf("%06o\x00 ", sum))
}

// paxRecord is "LENGTH name=value\n", where the length counts itself.
func paxRecord(name, value string) string {
	rest := len(name) + len(value) + 3
	n := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(n)) > len(strconv.Itoa(rest)) {
		n++
	}
	return fmt.Sprintf("%d %s=%s\n", n, name, value)
}

func sortedNames(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
