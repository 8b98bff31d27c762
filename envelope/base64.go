package envelope

import (
	"encoding/base64"
	"strings"
)

// newBase64 returns b64 of FORMAT.md. It is made per VolumeKeys, as the strict
// form of the standard library's is a fresh object.
func newBase64() *base64.Encoding { return base64.RawURLEncoding.Strict() }

// encode64 encodes b, of at most 256 bytes, with one allocation where
// EncodeToString takes two.
func encode64(enc *base64.Encoding, b []byte) string {
	var buf [longCipherMax]byte
	n := enc.EncodedLen(len(b))
	enc.Encode(buf[:], b)
	return string(buf[:n])
}

// decode64 decodes s to dst, which has room, and refuses what encoding would not
// have given: the standard library's strict decoder still skips line breaks.
func decode64(enc *base64.Encoding, dst []byte, s string) (int, bool) {
	if strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 {
		return 0, false
	}
	var small [longCipherMax]byte
	src := append(small[:0], s...)
	n, err := enc.Decode(dst, src)
	return n, err == nil
}

// is64 reports whether s has only characters of the alphabet.
func is64(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
