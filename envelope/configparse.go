package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// members is a JSON object, taken apart without encoding/json's leniency: it
// would match names in any case, take the last of duplicates and read null as
// anything.
type members map[string]json.RawMessage

// ParseConfig reads vault.json: exactly the members of the format, each once. The
// config is authentic after Verify. It fails with ErrUnsupported for a format or
// feature of a later version, else with ErrCorrupt.
func ParseConfig(b []byte) (*Config, error) {
	switch {
	case len(b) > ConfigMax:
		return nil, corrupt("config: %d bytes", len(b))
	case !utf8.Valid(b):
		return nil, corrupt("config: not UTF-8")
	}
	m, err := parseMembers(b)
	if err != nil {
		return nil, err
	}
	// What a later version says of itself comes before all that it may have
	// changed.
	if format, ok := m.number("format"); !ok {
		return nil, corrupt("config: no format")
	} else if format != 1 {
		return nil, unsupported("config: format %d", format)
	}
	features, ok := m.array("features")
	if !ok {
		return nil, corrupt("config: no features")
	}
	var known []string
	for i, f := range features {
		if string(f) != `"`+FeatureZones+`"` || i > 0 {
			return nil, unsupported("config: feature %.100s", f)
		}
		known = append(known, FeatureZones)
	}
	c, err := m.config()
	if err == nil {
		c.Features = known
	}
	return c, err
}

// config reads the members of a file of format 1.
func (m members) config() (*Config, error) {
	const known = 10
	c := &Config{}
	var volume, created, commitment, mac string
	size, ok := m.number("chunk_size")
	ok = ok && len(m) == known && m.text("volume_id", &volume) && m.text("keysource", &c.Keysource) &&
		m.text("key", &c.Key) && m.text("created", &created) && m.text("commitment", &commitment) &&
		m.text("mac", &mac) && unhex(c.Volume[:], volume) && unhex(c.commitment[:], commitment) &&
		unhex(c.mac[:], mac)
	if !ok {
		return nil, corrupt("config: a member is missing, unknown or malformed")
	}
	c.ChunkSize = size
	t, err := time.Parse(time.RFC3339, created)
	if c.Created = t.UTC(); err != nil || c.created() != created {
		return nil, corrupt("config: created %.40q", created)
	}
	wrappings, ok := m.array("wrappings")
	if !ok || len(wrappings) > WrappingsMax {
		return nil, corrupt("config: wrappings")
	}
	for _, raw := range wrappings {
		w, err := parseConfigWrapping(raw)
		if err != nil {
			return nil, err
		}
		c.Wrappings = append(c.Wrappings, w)
	}
	if err := asCorrupt(c.check()); err != nil {
		return nil, err
	}
	return c, nil
}

func parseConfigWrapping(raw []byte) (w Wrapping, err error) {
	m, err := parseMembers(raw)
	if err != nil {
		return w, err
	}
	var blob string
	version, ok := m.number("context_version")
	if !ok || len(m) != 4 || !m.text("key_arn", &w.KeyARN) ||
		!m.text("key_material_id", &w.KeyMaterialID) || !m.text("ciphertext_blob", &blob) {
		return w, corrupt("config: wrapping: a member is missing, unknown or malformed")
	}
	if version != ContextVersion {
		return w, unsupported("wrapping with context version %d", version)
	}
	w.ContextVersion = ContextVersion
	w.Blob, err = base64.StdEncoding.DecodeString(blob)
	if err != nil || base64.StdEncoding.EncodeToString(w.Blob) != blob {
		return w, corrupt("config: ciphertext_blob")
	}
	return w, nil
}

// parseMembers takes the one object in b apart and refuses a member given twice
// and anything but white space after the object.
func parseMembers(b []byte) (members, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, corrupt("config: not a JSON object")
	}
	m := members{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, corrupt("config: JSON")
		}
		if _, twice := m[name]; twice {
			return nil, corrupt("config: member %.40q twice", name)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, corrupt("config: member %.40q", name)
		}
		m[name] = raw
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return nil, corrupt("config: JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, corrupt("config: more than one value")
	}
	return m, nil
}

// number reads a member that is a decimal number of at most nine digits.
func (m members) number(name string) (int, bool) {
	raw := string(m[name])
	n, err := strconv.Atoi(raw)
	return n, err == nil && n >= 0 && n < 1e9 && strconv.Itoa(n) == raw
}

// text reads a member that is a string.
func (m members) text(name string, s *string) bool {
	raw := m[name]
	return len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, s) == nil
}

// array reads a member that is an array.
func (m members) array(name string) (a []json.RawMessage, ok bool) {
	raw := m[name]
	ok = len(raw) > 0 && raw[0] == '[' && json.Unmarshal(raw, &a) == nil
	return a, ok
}

// unhex fills dst from as many lower-case hex digits.
func unhex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	b, err := hex.DecodeString(s)
	return err == nil && copy(dst, b) == len(dst) && hex.EncodeToString(b) == s
}
