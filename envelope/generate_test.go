package envelope

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// generator builds the vectors of this version.
type generator struct {
	t *testing.T
	v vectors
	o *opener
}

// TestGenerateVectors writes testdata/v1.json where it does not exist and the
// variable is set. Vectors are not written again: a format that no longer opens
// them is another version.
func TestGenerateVectors(t *testing.T) {
	if os.Getenv("KMSFS_WRITE_VECTORS") == "" {
		t.Skip("KMSFS_WRITE_VECTORS=1 writes " + vectorFile + " where it does not exist")
	}
	g := &generator{t: t, v: vectors{
		Comment:   "kmsfs vault format 1. Data is base64, of names, targets, companions and configs the text.",
		VolumeKey: hex.EncodeToString(pattern(1, 32)), VolumeID: hex.EncodeToString(pattern(2, 16)),
		DataKey: hex.EncodeToString(pattern(3, 32)), FileID: hex.EncodeToString(pattern(4, 16)),
		DirID: hex.EncodeToString(pattern(5, 16)), ChunkSize: 4096, Derived: map[string]string{},
	}}
	g.o = newOpener(t, &g.v)
	g.derived()
	g.names()
	g.targets()
	g.xattrs()
	g.dirFiles()
	g.headers()
	g.contents()
	g.indexBlocks()
	g.sidecar()
	g.configs()
	f, err := os.OpenFile(vectorFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	e := json.NewEncoder(f)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := errors.Join(e.Encode(&g.v), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// pattern returns n bytes that look random and depend on seed.
func pattern(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x >> 11)
	}
	return b
}

// accept adds a vector that opens, as what the package opens it as.
func (g *generator) accept(name, kind string, data []byte, args map[string]string) {
	c := vector{Name: name, Kind: kind, Args: args, Data: string(data)}
	if kind != "name" && kind != "target" && kind != "config" && kind != "companion" {
		c.Data = base64.StdEncoding.EncodeToString(data)
	}
	want, err := g.o.open(g.t, c, data)
	if err != nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	c.Want = want
	g.v.Vectors = append(g.v.Vectors, c)
}

// refuse adds a vector that is base with an edit, of base's kind and arguments
// unless c has its own.
func (g *generator) refuse(base, name, as string, c vector) {
	for _, b := range g.v.Vectors {
		if b.Name == base {
			if c.Kind = b.Kind; c.Args == nil {
				c.Args = b.Args
			}
		}
	}
	c.Base, c.Name, c.Error = base, base+", "+name, as
	g.v.Vectors = append(g.v.Vectors, c)
}

// refuseText adds a vector of its own text.
func (g *generator) refuseText(name, kind, as, data string, args map[string]string) {
	g.v.Vectors = append(g.v.Vectors, vector{Name: name, Kind: kind, Data: data, Args: args, Error: as})
}

func (g *generator) refuseBytes(name, kind, as string, data []byte, args map[string]string) {
	g.refuseText(name, kind, as, base64.StdEncoding.EncodeToString(data), args)
}

func (g *generator) derived() {
	volume, data := unhexT(g.t, g.v.VolumeKey), unhexT(g.t, g.v.DataKey)
	for _, c := range []string{ctxConfigMAC, ctxDirectoryMAC, ctxNameTag, ctxNameStream, ctxSymlinkTag, ctxSymlinkStream,
		ctxXattrName, ctxXattrTag, ctxXattrStream, ctxRootDirectory, ctxVolumeCommitment} {
		k := derive(c, volume)
		g.v.Derived[c] = hex.EncodeToString(k[:])
	}
	for _, c := range []string{ctxIndexSeal, ctxRecordMAC, ctxDataCommitment} {
		k := derive(c, data)
		g.v.Derived[c] = hex.EncodeToString(k[:])
	}
	k := derive(ctxGroupKey, append(data, 1, 0, 0, 0, 0, 0, 0, 0))
	g.v.Derived[ctxGroupKey+" 1"] = hex.EncodeToString(k[:])
}
