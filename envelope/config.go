package envelope

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Limits of the config (FORMAT.md, Limits).
const (
	// ConfigMax is the largest size of vault.json.
	ConfigMax = 64 << 10
	// ConfigStringMax is the largest length of the keysource and of the key.
	ConfigStringMax = 2048
)

// FeatureZones is the feature of a vault that has, or had, encryption zones.
const FeatureZones = "zones"

// Config is vault.json (FORMAT.md, Config).
type Config struct {
	Volume    VolumeID
	Features  []string  // FeatureZones or nothing
	ChunkSize int       // bytes
	Keysource string    // URL
	Key       string    // alias, id or ARN that new data keys are asked of
	Created   time.Time // whole seconds
	Wrappings []Wrapping

	commitment [32]byte
	mac        [TagSize]byte
}

// configJSON is the file: the members in their order.
type configJSON struct {
	Format     int            `json:"format"`
	Volume     string         `json:"volume_id"`
	Features   []string       `json:"features"`
	ChunkSize  int            `json:"chunk_size"`
	Keysource  string         `json:"keysource"`
	Key        string         `json:"key"`
	Created    string         `json:"created"`
	Commitment string         `json:"commitment"`
	Wrappings  []wrappingJSON `json:"wrappings"`
	MAC        string         `json:"mac"`
}

type wrappingJSON struct {
	KeyARN         string `json:"key_arn"`
	KeyMaterialID  string `json:"key_material_id"`
	ContextVersion int    `json:"context_version"`
	Blob           string `json:"ciphertext_blob"`
}

// check returns an error for a config that the format cannot hold.
func (c *Config) check() error {
	for i, f := range c.Features {
		if f != FeatureZones || i > 0 {
			return unsupported("config: feature %q", f)
		}
	}
	if _, err := NewGeometry(c.ChunkSize); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	for _, s := range []string{c.Keysource, c.Key} {
		if s == "" || len(s) > ConfigStringMax || !utf8.ValidString(s) {
			return errors.New("config: keysource and key are 1 to 2048 bytes of UTF-8")
		}
	}
	if y := c.Created.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("config: created in the year %d", y)
	}
	if err := checkWrappings(c.Wrappings); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	for _, w := range c.Wrappings {
		if !utf8.ValidString(w.KeyARN) {
			return errors.New("config: ARN that is not UTF-8")
		}
	}
	return nil
}

// Marshal seals the config under the volume key and returns the file. It fails
// for values that the format cannot hold.
func (c *Config) Marshal(vk *VolumeKeys) ([]byte, error) {
	c.commitment = vk.commitment
	c.mac = c.computeMAC(vk)
	return c.Remarshal()
}

// Remarshal returns the file with the commitment and MAC that the config was
// parsed or last marshaled with: for a rewrap of the volume key, which replaces
// Wrappings and needs no volume key. Where anything else was changed, the file
// will not verify.
func (c *Config) Remarshal() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	j := configJSON{
		Format: 1, Volume: c.Volume.String(), Features: append([]string{}, c.Features...), ChunkSize: c.ChunkSize,
		Keysource: c.Keysource, Key: c.Key, Created: c.created(),
		Commitment: hex.EncodeToString(c.commitment[:]), MAC: hex.EncodeToString(c.mac[:]),
	}
	for _, w := range c.Wrappings {
		j.Wrappings = append(j.Wrappings, wrappingJSON{
			w.KeyARN, w.KeyMaterialID, int(w.ContextVersion), base64.StdEncoding.EncodeToString(w.Blob),
		})
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(&j); err != nil {
		return nil, err
	}
	if buf.Len() > ConfigMax {
		return nil, fmt.Errorf("config of %d bytes, of at most %d", buf.Len(), ConfigMax)
	}
	return buf.Bytes(), nil
}

func (c *Config) created() string { return c.Created.UTC().Format(time.RFC3339) }

// computeMAC is over the members but mac and wrappings, each with its length.
func (c *Config) computeMAC(vk *VolumeKeys) (mac [TagSize]byte) {
	var b []byte
	member := func(s string) {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	member(formatVersion)
	member(c.Volume.String())
	for _, f := range c.Features {
		member(f)
	}
	member(strconv.Itoa(c.ChunkSize))
	member(c.Keysource)
	member(c.Key)
	member(c.created())
	member(hex.EncodeToString(c.commitment[:]))
	vk.config.sum(mac[:], b, nil)
	return mac
}

// Verify checks the config against the volume key: ErrWrongKey where it commits
// to another key, ErrCorrupt where it was edited. The wrappings are not covered.
func (c *Config) Verify(vk *VolumeKeys) error {
	mac := c.computeMAC(vk)
	switch {
	case subtle.ConstantTimeCompare(c.commitment[:], vk.commitment[:]) != 1:
		return fmt.Errorf("config: %w", ErrWrongKey)
	case subtle.ConstantTimeCompare(c.mac[:], mac[:]) != 1:
		return corrupt("config: it was edited: the MAC does not match")
	}
	return nil
}
