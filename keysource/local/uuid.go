package local

import (
	"encoding/hex"
	"io"
)

// uuid is the id of a CMK, a random UUID (RFC 9562, version 4).
type uuid [16]byte

// uuidTextSize is the length of the text form.
const uuidTextSize = 36

// newUUID makes a uuid from rand.
func newUUID(rand io.Reader) (id uuid, err error) {
	_, err = io.ReadFull(rand, id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id, err
}

// String is the form with four hyphens.
func (u uuid) String() string {
	b := make([]byte, uuidTextSize)
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b)
}

// parseUUID reads what String wrote, and nothing else.
func parseUUID(s string) (u uuid, ok bool) {
	if len(s) != uuidTextSize {
		return u, false
	}
	digits := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(u[:], []byte(digits)); err != nil {
		return uuid{}, false
	}
	return u, u.String() == s
}
