package envelope

import "strings"

// longPiece is how many characters the first companion of a long name holds.
const longPiece = 200

// companions returns the names of the companions for a tag and a ciphertext, both
// in b64.
func companions(tag, cipher string) []string {
	return []string{
		CompanionPrefix + tag + ".0." + cipher[:longPiece],
		CompanionPrefix + tag + ".1." + cipher[longPiece:],
	}
}

// Companions is what the names of companions hold, by the entry that they belong to.
// The zero value has none.
type Companions map[string]*[2]string

// Add notes what name holds, where it is the name of a companion.
func (c *Companions) Add(name string) {
	tag, part, piece, ok := ParseCompanion(name)
	if !ok {
		return
	}
	if *c == nil {
		*c = Companions{}
	}
	if (*c)[tag] == nil {
		(*c)[tag] = new([2]string)
	}
	(*c)[tag][part] = piece
}

// Cipher returns what the companions of entry hold, for OpenName.
func (c Companions) Cipher(entry string) string {
	if pieces := c[entry]; pieces != nil {
		return pieces[0] + pieces[1]
	}
	return ""
}

// ParseCompanion takes the name of a companion apart: the entry that it belongs
// to, its number, 0 or 1, and its piece of the ciphertext. It checks the form
// alone; what the pieces say is checked by OpenName.
func ParseCompanion(name string) (tag string, part int, piece string, ok bool) {
	rest, found := strings.CutPrefix(name, CompanionPrefix)
	if !found || len(rest) < entryLong+3 || rest[entryLong] != '.' || rest[entryLong+2] != '.' {
		return "", 0, "", false
	}
	tag, part, piece = rest[:entryLong], int(rest[entryLong+1])-'0', rest[entryLong+3:]
	var buf [TagSize + 2]byte
	if _, canonical := decode64(newBase64(), buf[:], tag); !canonical || !is64(piece) {
		return "", 0, "", false
	}
	switch part {
	case 0:
		ok = len(piece) == longPiece
	case 1:
		ok = len(piece) > 0 && len(piece) <= longCipherMax-longPiece
	}
	if !ok {
		return "", 0, "", false
	}
	return tag, part, piece, true
}
