package envelope

import (
	"encoding/base64"
	"fmt"
)

// VolumeKeys is the volume key of a vault, as the keys that are derived from it
// (FORMAT.md, Keys): for names, symlinks, extended attributes, directory ids and
// the config. Safe for concurrent use, save that nothing may follow Wipe.
type VolumeKeys struct {
	config, directory     *prf
	nameTag, nameStream   *prf
	linkTag, linkStream   *prf
	xattrName             *prf
	xattrTag, xattrStream *prf
	journal               *prf
	reverse               *prf
	manifest              [KeySize]byte // seed of the key that signs manifests
	root                  DirID
	commitment            [32]byte
	b64                   *base64.Encoding
}

// NewVolumeKeys derives the keys; volumeKey must have [KeySize] bytes and is not
// kept.
func NewVolumeKeys(volumeKey []byte) (*VolumeKeys, error) {
	if len(volumeKey) != KeySize {
		return nil, fmt.Errorf("volume key of %d bytes, not %d", len(volumeKey), KeySize)
	}
	root := derive(ctxRootDirectory, volumeKey)
	return &VolumeKeys{
		config:      newPRF(derive(ctxConfigMAC, volumeKey)),
		directory:   newPRF(derive(ctxDirectoryMAC, volumeKey)),
		nameTag:     newPRF(derive(ctxNameTag, volumeKey)),
		nameStream:  newPRF(derive(ctxNameStream, volumeKey)),
		linkTag:     newPRF(derive(ctxSymlinkTag, volumeKey)),
		linkStream:  newPRF(derive(ctxSymlinkStream, volumeKey)),
		xattrName:   newPRF(derive(ctxXattrName, volumeKey)),
		xattrTag:    newPRF(derive(ctxXattrTag, volumeKey)),
		xattrStream: newPRF(derive(ctxXattrStream, volumeKey)),
		journal:     newPRF(derive(ctxJournalMAC, volumeKey)),
		reverse:     newPRF(derive(ctxReverseID, volumeKey)),
		manifest:    derive(ctxManifestSigning, volumeKey),
		root:        DirID(root[:16]),
		commitment:  derive(ctxVolumeCommitment, volumeKey),
		b64:         newBase64(),
	}, nil
}

// RootDir returns the id of the root directory, which has no id file.
func (k *VolumeKeys) RootDir() DirID { return k.root }

// Commitment returns what the config holds to name its volume key.
func (k *VolumeKeys) Commitment() [32]byte { return k.commitment }

// Wipe clears the keys, as [FileKey.Wipe] does; what is called after it panics.
func (k *VolumeKeys) Wipe() {
	for _, p := range []*prf{k.config, k.directory, k.nameTag, k.nameStream, k.linkTag,
		k.linkStream, k.xattrName, k.xattrTag, k.xattrStream, k.journal, k.reverse} {
		p.wipe()
	}
	clear(k.manifest[:])
}

// Format prints no key bytes, whatever the verb.
func (k *VolumeKeys) Format(f fmt.State, _ rune) { redact(f, "VolumeKeys") }
