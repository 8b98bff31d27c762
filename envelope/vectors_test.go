package envelope

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// vectorFile is written once per version of the format (generate_test.go) and
// never again.
const vectorFile = "testdata/v1.json"

// vectors is the file. A vector that must be refused is often given as another
// one with an edit: Data of Base, XORed at At, then cut to Cut bytes, then with
// Add appended.
type vectors struct {
	Comment   string
	VolumeKey string // hex, as all keys and ids
	VolumeID  string
	DataKey   string
	FileID    string
	DirID     string
	ChunkSize int
	Derived   map[string]string // the keys, by their context
	Vectors   []vector
}

type vector struct {
	Name  string
	Kind  string
	Args  map[string]string `json:",omitempty"`
	Data  string            `json:",omitempty"` // base64; of texts, the text
	Want  map[string]string `json:",omitempty"` // what it opens as
	Base  string            `json:",omitempty"`
	At    int               `json:",omitempty"`
	XOR   string            `json:",omitempty"` // hex
	Cut   int               `json:",omitempty"`
	Add   string            `json:",omitempty"` // hex
	Error string            `json:",omitempty"` // what it is refused as
}

var textKinds = []string{"name", "target", "config", "companion"}

func unhexT(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// bytes returns the data of a vector, edits applied.
func (v *vectors) bytes(t testing.TB, c vector) []byte {
	t.Helper()
	base := c
	if c.Base != "" {
		i := slices.IndexFunc(v.Vectors, func(o vector) bool { return o.Name == c.Base })
		if i < 0 {
			t.Fatalf("%s: no base %q", c.Name, c.Base)
		}
		base = v.Vectors[i]
	}
	b := []byte(base.Data)
	if !slices.Contains(textKinds, c.Kind) {
		var err error
		if b, err = base64.StdEncoding.DecodeString(base.Data); err != nil {
			t.Fatal(err)
		}
	}
	for i, x := range unhexT(t, c.XOR) {
		b[c.At+i] ^= x
	}
	if c.Cut > 0 {
		b = b[:c.Cut]
	}
	return append(b, unhexT(t, c.Add)...)
}

// opener opens vectors with the package.
type opener struct {
	vk *VolumeKeys
	fk *FileKey
}

func newOpener(t testing.TB, v *vectors) *opener {
	t.Helper()
	vk, err := NewVolumeKeys(unhexT(t, v.VolumeKey))
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGeometry(v.ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	fk, err := NewFileKey(unhexT(t, v.DataKey), FileID(unhexT(t, v.FileID)), g)
	if err != nil {
		t.Fatal(err)
	}
	return &opener{vk, fk}
}

func (o *opener) open(t testing.TB, c vector, data []byte) (want map[string]string, err error) {
	t.Helper()
	arg := func(name string) string { return c.Args[name] }
	num := func(name string) uint64 {
		n, err := strconv.ParseUint(arg(name), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	switch c.Kind {
	case "name":
		name, err := o.vk.OpenName(DirID(unhexT(t, arg("dir"))), string(data), arg("long"))
		return map[string]string{"name": name}, err
	case "companion":
		tag, part, piece, ok := ParseCompanion(string(data))
		if !ok {
			err = ErrCorrupt
		}
		return map[string]string{"tag": tag, "part": strconv.Itoa(part), "piece": piece}, err
	case "target":
		target, err := o.vk.OpenTarget(string(data))
		return map[string]string{"target": target, "size": strconv.FormatInt(PlainTargetSize(int64(len(data))), 10)}, err
	case "xattr":
		owner := [16]byte(unhexT(t, arg("owner")))
		name, value, err := o.vk.OpenXattr(owner, data)
		return map[string]string{"name": name, "value": hex.EncodeToString(value), "stored": o.vk.XattrName(owner, name)}, err
	case "dirfile":
		id, _, err := o.vk.ParseDirFile(data)
		return map[string]string{"dir": id.String()}, err
	case "header":
		h, err := ParseHeader(data)
		return headerMap(h), err
	case "chunk":
		gk, err := o.fk.Group(num("chunk") / ChunksPerGroup)
		if err != nil {
			t.Fatal(err)
		}
		var e Entry
		e.unmarshal(unhexT(t, arg("entry")))
		dst := make([]byte, max(int(e.Length), 1))
		err = gk.OpenChunk(dst, append(data, make([]byte, TagSize)...)[:len(data)], e, num("chunk"), new(Scratch))
		return map[string]string{"plain": base64.StdEncoding.EncodeToString(dst)}, err
	case "inline":
		gk, err := o.fk.Group(0)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, InlineMax)
		h, n, err := OpenInline(gk, data, dst, new(Scratch))
		m := headerMap(h)
		m["plain"] = base64.StdEncoding.EncodeToString(dst[:n])
		return m, err
	case "index":
		if len(data) != BlockSize {
			return nil, ErrCorrupt
		}
		b := (*IndexBlock)(data)
		return indexMap(b), b.Verify(o.fk, num("group"))
	case "table":
		h, err := ParseTableHeader(data)
		return map[string]string{"slot_size": strconv.Itoa(int(h.SlotSize)), "id": TableName(h.ID),
			"volume": h.Volume.String(), "created": strconv.FormatInt(h.Created, 10)}, err
	case "record":
		r, err := ParseRecord(data)
		if err != nil {
			return nil, err
		}
		return recordMap(r), r.Verify(o.fk)
	case "config":
		cfg, err := ParseConfig(data)
		if err != nil {
			return nil, err
		}
		return configMap(cfg), cfg.Verify(o.vk)
	}
	t.Fatalf("%s: kind %q", c.Name, c.Kind)
	return nil, nil
}

func headerMap(h Header) map[string]string {
	return map[string]string{"log2": strconv.Itoa(int(h.Log2)), "flags": strconv.Itoa(int(h.Flags)), "id": h.ID.String(),
		"group": strconv.FormatUint(h.Group, 10), "table": TableName(h.Loc.Table),
		"slot": strconv.Itoa(int(h.Loc.Slot)), "size": strconv.FormatUint(h.Size, 10)}
}

// indexMap lists what is set in an index block.
func indexMap(b *IndexBlock) map[string]string {
	h, _ := b.Header()
	m := headerMap(h)
	entry := func(key string, e Entry) {
		if !e.IsZero() {
			m[key] = hex.EncodeToString(e.Nonce[:]) + " " + hex.EncodeToString(e.Tag[:]) + " " + strconv.Itoa(int(e.Length))
		}
	}
	for i := range ChunksPerGroup {
		cur, prev := b.Slot(i)
		entry("current "+strconv.Itoa(i), cur)
		entry("previous "+strconv.Itoa(i), prev)
		if b.Unsettled(i) {
			m["unsettled "+strconv.Itoa(i)] = "yes"
		}
	}
	for k := range PresenceFanout {
		if b.Presence(k) {
			m["present "+strconv.Itoa(k)] = "yes"
		}
	}
	return m
}

func wrappingsMap(m map[string]string, ws []Wrapping) map[string]string {
	for i, w := range ws {
		p := "wrapping " + strconv.Itoa(i) + " "
		m[p+"arn"], m[p+"material"], m[p+"blob"] = w.KeyARN, w.KeyMaterialID, hex.EncodeToString(w.Blob)
	}
	return m
}

func recordMap(r *Record) map[string]string {
	return wrappingsMap(map[string]string{"id": r.ID.String(), "created": strconv.FormatInt(r.Created, 10),
		"commitment": hex.EncodeToString(r.Commitment[:])}, r.Wrappings)
}

func configMap(c *Config) map[string]string {
	return wrappingsMap(map[string]string{"volume": c.Volume.String(), "chunk_size": strconv.Itoa(c.ChunkSize),
		"keysource": c.Keysource, "key": c.Key, "created": c.created()}, c.Wrappings)
}

var errorNames = map[string]error{"corrupt": ErrCorrupt, "unsupported": ErrUnsupported, "wrong key": ErrWrongKey, "erased": ErrErased}

func TestVectors(t *testing.T) {
	v := loadVectors(t)
	o := newOpener(t, v)
	opened, refused := 0, 0
	for _, c := range v.Vectors {
		t.Run(strings.ReplaceAll(c.Kind+"/"+c.Name, " ", "_"), func(t *testing.T) {
			got, err := o.open(t, c, v.bytes(t, c))
			if c.Error != "" {
				refused++
				if !errors.Is(err, errorNames[c.Error]) {
					t.Fatalf("got %v, want an error that is %q", err, c.Error)
				}
				for name, other := range errorNames {
					if name != c.Error && errors.Is(err, other) {
						t.Errorf("%v is %q too", err, name)
					}
				}
				return
			}
			opened++
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, c.Want) {
				t.Errorf("got  %v\nwant %v", got, c.Want)
			}
		})
	}
	if refused <= opened {
		t.Errorf("%d vectors must open and %d be refused: the second number must be larger", opened, refused)
	}
}
