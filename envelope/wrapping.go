package envelope

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Limits of a wrapping (FORMAT.md, Key tables).
const (
	// WrappingsMax is the largest number of wrappings of one key.
	WrappingsMax = 8
	// KeyARNMax is the largest length of the ARN of a CMK.
	KeyARNMax = 512
	// BlobMax is the largest size of a wrapped key, that of AWS KMS.
	BlobMax = 6144

	// KindKeysource is the kind of a wrapping made by the keysource itself.
	KindKeysource = 0
	// KindPrevious is the kind of the wrapping of a file's previous data key under its new one, in the record of a file
	// that is being reencrypted ([FileKey.WrapPrevious]). It stands last, once, and never alone.
	KindPrevious = 1
	// ContextVersion numbers the encryption contexts of this format.
	ContextVersion = 1

	wrappingHead = 38
	materialSize = 32
)

// Wrapping is a key as one CMK wrapped it.
type Wrapping struct {
	Kind           uint8  // KindKeysource or KindPrevious
	ContextVersion uint8  // ContextVersion; of KindPrevious 0
	KeyARN         string // of the CMK, as resolved by the keysource; of KindPrevious ""
	KeyMaterialID  string // 64 lower-case hex digits, "" where the keysource has none
	Blob           []byte // the wrapped key
}

// check returns an error for a wrapping that the format cannot hold.
func (w *Wrapping) check() error {
	switch {
	case w.Kind == KindPrevious:
		return w.checkPrevious()
	case w.Kind != KindKeysource:
		return unsupported("wrapping of kind %d", w.Kind)
	case w.ContextVersion != ContextVersion:
		return unsupported("wrapping with context version %d", w.ContextVersion)
	case len(w.KeyARN) == 0 || len(w.KeyARN) > KeyARNMax:
		return fmt.Errorf("wrapping: ARN of %d bytes", len(w.KeyARN))
	case len(w.Blob) == 0 || len(w.Blob) > BlobMax:
		return fmt.Errorf("wrapping: blob of %d bytes", len(w.Blob))
	}
	if w.KeyMaterialID == "" {
		return nil
	}
	id, err := hex.DecodeString(w.KeyMaterialID)
	if err != nil || len(id) != materialSize || IsZero(id) || hex.EncodeToString(id) != w.KeyMaterialID {
		return fmt.Errorf("wrapping: key material id %q", w.KeyMaterialID)
	}
	return nil
}

func checkWrappings(ws []Wrapping) error {
	if len(ws) == 0 || len(ws) > WrappingsMax {
		return fmt.Errorf("%d wrappings", len(ws))
	}
	for i := range ws {
		if err := ws[i].check(); err != nil {
			return err
		}
		if ws[i].Kind == KindPrevious && (i == 0 || i != len(ws)-1) {
			return unsupported("wrapping of kind %d that is not the last of several", KindPrevious)
		}
	}
	return nil
}

func (w *Wrapping) marshaledSize() int { return wrappingHead + len(w.KeyARN) + len(w.Blob) }

// appendTo appends the binary form; check must have passed.
func (w *Wrapping) appendTo(b []byte) []byte {
	b = append(b, w.Kind, w.ContextVersion)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(w.KeyARN)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(w.Blob)))
	var material [materialSize]byte
	hex.Decode(material[:], []byte(w.KeyMaterialID))
	b = append(b, material[:]...)
	b = append(b, w.KeyARN...)
	return append(b, w.Blob...)
}

// parseWrapping takes a wrapping off the front of b.
func parseWrapping(b []byte) (w Wrapping, rest []byte, err error) {
	if len(b) < wrappingHead {
		return w, nil, corrupt("wrapping: %d bytes", len(b))
	}
	arn, blob := int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint16(b[4:]))
	if len(b) < wrappingHead+arn+blob {
		return w, nil, corrupt("wrapping: %d bytes", len(b))
	}
	w = Wrapping{
		Kind:           b[0],
		ContextVersion: b[1],
		KeyARN:         string(b[wrappingHead:][:arn]),
		Blob:           append([]byte(nil), b[wrappingHead+arn:][:blob]...),
	}
	if material := b[6:][:materialSize]; !IsZero(material) {
		w.KeyMaterialID = hex.EncodeToString(material)
	}
	return w, b[wrappingHead+arn+blob:], asCorrupt(w.check())
}
