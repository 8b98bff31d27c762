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
