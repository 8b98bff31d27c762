package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"

	"github.com/zeebo/blake3"
)

// shorten replaces *members by a copy in which no value takes more than limit bytes of JSON: a larger one is what digest
// makes of it. Members stay, and so does what is small inside a large one.
func shorten(members *map[string]any, limit int) error {
	if *members == nil {
		return nil
	}
	b, err := encode(*members)
	if err != nil {
		return err
	}
	in := json.NewDecoder(bytes.NewReader(b))
	in.UseNumber()
	plain := map[string]any{} // whatever types the values had
	if err := in.Decode(&plain); err != nil {
		return err
	}
	for name, value := range plain {
		if plain[name], err = shortened(value, limit); err != nil {
			return err
		}
	}
	*members = plain
	return nil
}

// shortened is a decoded value in at most about limit bytes of JSON.
func shortened(value any, limit int) (any, error) {
	b, err := encode(value)
	if err != nil || len(b) <= limit {
		return value, err
	}
	whole := digest(value, b)
	members, ok := value.(map[string]any)
	if !ok {
		return whole, nil
	}
	for name, member := range members {
		if members[name], err = shortened(member, limit); err != nil {
			return nil, err
		}
	}
	if b, err = encode(members); err != nil || len(b) <= limit {
		return members, err
	}
	return whole, nil
}

// digest stands for a value that is too large: the size and BLAKE3 of a text itself, of anything else of its JSON.
func digest(value any, encoded []byte) map[string]any {
	if text, ok := value.(string); ok {
		encoded = []byte(text)
	}
	sum := blake3.Sum256(encoded)
	return map[string]any{"bytes": len(encoded), "blake3": hex.EncodeToString(sum[:])}
}
