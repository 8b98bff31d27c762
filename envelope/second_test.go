package envelope_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/zeebo/blake3"
)

// A second implementation of what opens, from FORMAT.md alone: it does not import
// the package. That it opens every vector shows that the document suffices.

var errRefused = errors.New("refused")

var le = binary.LittleEndian

func derive(context string, material []byte) []byte {
	out := make([]byte, 32)
	blake3.DeriveKey(context, material, out)
	return out
}

func prf(key, x []byte, n int) []byte {
	h, err := blake3.NewKeyed(key)
	if err != nil {
		panic(err)
	}
	h.Write(x)
	out := make([]byte, n)
	h.Digest().Read(out)
	return out
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func u64(n uint64) []byte { return le.AppendUint64(nil, n) }

func gcmOpen(key, nonce, ciphertext, tag, aad []byte) ([]byte, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	return g.Open(nil, nonce, join(ciphertext, tag), aad)
}

// second holds the keys of the vector file.
type second struct{ volumeKey, dataKey, fileID []byte }

func (s *second) volume(what string) []byte { return derive("kmsfs 2026 v1 "+what, s.volumeKey) }
func (s *second) data(what string) []byte   { return derive("kmsfs 2026 v1 "+what, s.dataKey) }
func (s *second) group(n uint64) []byte {
	return derive("kmsfs 2026 v1 group key", join(s.dataKey, u64(n)))
}

func decode64(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

func (s *second) name(dir []byte, entry, long string) (string, error) {
	sealed := append(decode64(entry), decode64(long)...)
	if len(sealed) < 32 {
		return "", errRefused
	}
	tag, c := sealed[:16], sealed[16:]
	name := bytes.TrimRight(xor(c, prf(s.volume("name stream"), tag, len(c))), "\x00")
	if !bytes.Equal(prf(s.volume("name tag"), join(dir, name), 16), tag) {
		return "", errRefused
	}
	return string(name), nil
}

func (s *second) target(stored string) (string, error) {
	b := decode64(stored)
	if len(b) < 33 {
		return "", errRefused
	}
	text := xor(b[32:], prf(s.volume("symlink stream"), b[:32], len(b)-32))
	if !bytes.Equal(prf(s.volume("symlink tag"), join(b[:16], text), 16), b[16:32]) {
		return "", errRefused
	}
	return string(text), nil
}

func (s *second) xattr(owner, b []byte) (name string, value []byte, err error) {
	plain := xor(b[16:], prf(s.volume("xattr stream"), join(owner, b[:16]), len(b)-16))
	if !bytes.Equal(prf(s.volume("xattr tag"), join(owner, plain), 16), b[:16]) {
		return "", nil, errRefused
	}
	n := int(plain[0])
	return string(plain[1 : 1+n]), plain[1+n:], nil
}

func (s *second) header(b []byte) map[string]string {
	return map[string]string{
		"log2": strconv.Itoa(int(b[5])), "flags": strconv.Itoa(int(b[6])), "id": hex.EncodeToString(b[12:28]),
		"group": strconv.FormatUint(le.Uint64(b[28:]), 10), "size": strconv.FormatUint(le.Uint64(b[48:]), 10),
		"table": hex.EncodeToString(binary.BigEndian.AppendUint64(nil, le.Uint64(b[36:]))),
		"slot":  strconv.Itoa(int(le.Uint32(b[44:]))),
	}
}

func (s *second) index(b []byte, group uint64) (map[string]string, error) {
	for sector := range 8 {
		x := b[sector*512:][:512]
		if !bytes.Equal(derive("kmsfs 2026 v1 index seal", join(s.dataKey, u64(group), []byte{byte(sector)}, x[:496]))[:16], x[496:]) {
			return nil, errRefused
		}
	}
	m := s.header(b)
	entry := func(what string, i int, e []byte) {
		if !bytes.Equal(e, make([]byte, 30)) {
			m[what+" "+strconv.Itoa(i)] = hex.EncodeToString(e[:12]) + " " + hex.EncodeToString(e[12:28]) + " " +
				strconv.Itoa(int(le.Uint16(e[28:]))+1)
		}
	}
	for i := range 63 {
		p := i + 1
		at := p/8*512 + p%8*60
		entry("current", i, b[at:at+30])
		entry("previous", i, b[at+30:at+60])
		if b[p/8*512+480]>>(p%8)&1 == 1 {
			m["unsettled "+strconv.Itoa(i)] = "yes"
		}
	}
	for k := range 960 {
		if b[k/120*512+481+k%120/8]>>(k%8)&1 == 1 {
			m["present "+strconv.Itoa(k)] = "yes"
		}
	}
	return m, nil
}

func (s *second) record(b []byte) (map[string]string, error) {
	sum := blake3.Sum256(b[:len(b)-16])
	mac := derive("kmsfs 2026 v1 record mac", join(s.dataKey, b[0:6], b[8:68]))[:16]
	if !bytes.Equal(sum[:16], b[len(b)-16:]) || !bytes.Equal(mac, b[68:84]) || !bytes.Equal(b[36:68], s.data("data key commitment")) {
		return nil, errRefused
	}
	m := map[string]string{"id": hex.EncodeToString(b[12:28]), "commitment": hex.EncodeToString(b[36:68]),
		"created": strconv.FormatInt(int64(le.Uint64(b[28:])), 10)}
	w := b[88:le.Uint16(b[6:])]
	for i := range int(b[84]) {
		arn, blob := int(le.Uint16(w[2:])), int(le.Uint16(w[4:]))
		p := "wrapping " + strconv.Itoa(i) + " "
		m[p+"material"] = ""
		if !bytes.Equal(w[6:38], make([]byte, 32)) {
			m[p+"material"] = hex.EncodeToString(w[6:38])
		}
		m[p+"arn"], m[p+"blob"] = string(w[38:38+arn]), hex.EncodeToString(w[38+arn:][:blob])
		w = w[38+arn+blob:]
	}
	return m, nil
}

func (s *second) config(b []byte) (map[string]string, error) {
	var c struct {
		Format     int
		Volume     string `json:"volume_id"`
		Features   []string
		ChunkSize  int `json:"chunk_size"`
		Keysource  string
		Key        string
		Created    string
		Commitment string
		MAC        string
		Wrappings  []struct {
			ARN      string `json:"key_arn"`
			Material string `json:"key_material_id"`
			Blob     []byte `json:"ciphertext_blob"`
		}
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	var x []byte
	members := append([]string{strconv.Itoa(c.Format), c.Volume}, c.Features...)
	for _, m := range append(members, strconv.Itoa(c.ChunkSize), c.Keysource, c.Key, c.Created, c.Commitment) {
		x = join(x, le.AppendUint32(nil, uint32(len(m))), []byte(m))
	}
	if hex.EncodeToString(prf(s.volume("config mac"), x, 16)) != c.MAC || hex.EncodeToString(s.volume("volume commitment")) != c.Commitment {
		return nil, errRefused
	}
	m := map[string]string{"volume": c.Volume, "chunk_size": strconv.Itoa(c.ChunkSize), "keysource": c.Keysource,
		"key": c.Key, "created": c.Created}
	for i, w := range c.Wrappings {
		p := "wrapping " + strconv.Itoa(i) + " "
		m[p+"arn"], m[p+"material"], m[p+"blob"] = w.ARN, w.Material, hex.EncodeToString(w.Blob)
	}
	return m, nil
}

func (s *second) open(kind string, args map[string]string, b []byte) (map[string]string, error) {
	number := func(name string) uint64 { n, _ := strconv.ParseUint(args[name], 10, 64); return n }
	id := func(name string) []byte { b, _ := hex.DecodeString(args[name]); return b }
	switch kind {
	case "name":
		name, err := s.name(id("dir"), string(b), args["long"])
		return map[string]string{"name": name}, err
	case "companion":
		return map[string]string{"tag": string(b[12:34]), "part": string(b[35:36]), "piece": string(b[37:])}, nil
	case "target":
		target, err := s.target(string(b))
		return map[string]string{"target": target, "size": strconv.Itoa(len(target))}, err
	case "xattr":
		name, value, err := s.xattr(id("owner"), b)
		stored := "user.k." + base64.RawURLEncoding.EncodeToString(prf(s.volume("xattr name"), join(id("owner"), []byte(name)), 16))
		return map[string]string{"name": name, "value": hex.EncodeToString(value), "stored": stored}, err
	case "dirfile":
		if !bytes.Equal(prf(s.volume("directory mac"), b[:48], 16), b[48:]) {
			return nil, errRefused
		}
		return map[string]string{"dir": hex.EncodeToString(b[8:24])}, nil
	case "header":
		return s.header(b), nil
	case "chunk":
		n, e := number("chunk"), id("entry")
		aad := join(s.fileID, u64(n), []byte{1, 12, 0, 0})
		plain, err := gcmOpen(s.group(n/63), e[:12], b[:int(le.Uint16(e[28:]))+1], e[12:28], aad)
		return map[string]string{"plain": base64.StdEncoding.EncodeToString(plain)}, err
	case "inline":
		m := s.header(b)
		plain, err := gcmOpen(s.group(0), b[60:72], b[128:128+le.Uint64(b[48:])], b[72:88], b[:60])
		m["plain"] = base64.StdEncoding.EncodeToString(plain)
		return m, err
	case "index":
		return s.index(b, number("group"))
	case "table":
		z := le.Uint32(b[4:])
		sum := blake3.Sum256(b[:z-16])
		if !bytes.Equal(sum[:16], b[z-16:z]) {
			return nil, errRefused
		}
		return map[string]string{"slot_size": strconv.Itoa(int(z)), "volume": hex.EncodeToString(b[16:32]),
			"id":      hex.EncodeToString(binary.BigEndian.AppendUint64(nil, le.Uint64(b[8:]))),
			"created": strconv.FormatInt(int64(le.Uint64(b[36:])), 10)}, nil
	case "record":
		return s.record(b)
	case "config":
		return s.config(b)
	}
	return nil, errors.New("unknown kind")
}

func TestSecondImplementation(t *testing.T) {
	raw, err := os.ReadFile("testdata/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		VolumeKey, DataKey, FileID string
		Derived                    map[string]string
		Vectors                    []struct {
			Name, Kind, Data, Error string
			Args, Want              map[string]string
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	s := &second{}
	for to, from := range map[*[]byte]string{&s.volumeKey: file.VolumeKey, &s.dataKey: file.DataKey, &s.fileID: file.FileID} {
		if *to, err = hex.DecodeString(from); err != nil {
			t.Fatal(err)
		}
	}
	for context, want := range file.Derived {
		got := [][]byte{derive(context, s.volumeKey), derive(context, s.dataKey), s.group(1)}
		ok := false
		for _, k := range got {
			ok = ok || hex.EncodeToString(k) == want
		}
		if !ok {
			t.Errorf("key %q is none of %x, but %s", context, got, want)
		}
	}
	for _, v := range file.Vectors {
		if v.Error != "" {
			continue
		}
		data := []byte(v.Data)
		switch v.Kind {
		case "name", "target", "config", "companion":
		default:
			if data, err = base64.StdEncoding.DecodeString(v.Data); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.open(v.Kind, v.Args, data)
		if err != nil || !maps.Equal(got, v.Want) {
			t.Errorf("%s: got %v, %v\nwant %v", v.Name, got, err, v.Want)
		}
	}
}

// TestSecondJournal reads the journal of the vectors from FORMAT.md alone.
func TestSecondJournal(t *testing.T) {
	text, err := os.ReadFile("testdata/journal-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		VolumeKey string `json:"volume_key"`
		VolumeID  string `json:"volume_id"`
		Epoch     uint64 `json:"epoch"`
		File      string `json:"file"`
		Kinds     []int
		Names     []string
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	volumeKey, _ := hex.DecodeString(v.VolumeKey)
	b, err := hex.DecodeString(v.File)
	if err != nil {
		t.Fatal(err)
	}
	key := derive("kmsfs 2026 v1 journal mac", volumeKey)
	if string(b[:4]) != "KMJ1" || le.Uint64(b[8:]) != v.Epoch || hex.EncodeToString(b[16:32]) != v.VolumeID ||
		!bytes.Equal(prf(key, b[:496], 16), b[496:512]) {
		t.Fatal("the header does not open")
	}
	var kinds []int
	for at, seq := 512, uint64(0); at < len(b); {
		r := b[at:]
		used := int(le.Uint32(r[16:]))
		if !bytes.Equal(prf(key, join(u64(v.Epoch), u64(uint64(at)), r[16:used]), 16), r[:16]) || le.Uint64(r[24:]) <= seq {
			t.Fatalf("the record at %d does not open", at)
		}
		seq = le.Uint64(r[24:])
		kinds = append(kinds, int(r[20]))
		if r[20] == 3 {
			var names []string
			for body := r[64:used]; len(body) > 0; body = body[1+body[0]:] {
				names = append(names, string(body[1:1+body[0]]))
			}
			if !slices.Equal(names, v.Names) {
				t.Errorf("place %q, want %q", names, v.Names)
			}
		}
		at += (used + 511) / 512 * 512
	}
	if !slices.Equal(kinds, v.Kinds) {
		t.Errorf("kinds %v, want %v", kinds, v.Kinds)
	}
}
