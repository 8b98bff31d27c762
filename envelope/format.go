package envelope

// The sizes of the format (FORMAT.md; format_test.go holds each against the
// text). All are bytes unless said otherwise.
const (
	// BlockSize is the size of an index block, and the alignment of chunks.
	BlockSize = 4096
	// SectorSize is the unit of an index block that is sealed by itself.
	SectorSize = 512
	// SectorsPerBlock is the number of sectors of an index block.
	SectorsPerBlock = BlockSize / SectorSize
	// ChunksPerGroup is the number of chunks, and of slots, in a group.
	ChunksPerGroup = 63
	// InlineMax is the largest plaintext of the inline form.
	InlineMax = 3968
	// InlineOverhead is what stands before the ciphertext of the inline form.
	InlineOverhead = 128
	// HeaderSize is the size of the header of an index block or inline block.
	HeaderSize = 60
	// EntrySize is the size of one entry of a slot.
	EntrySize = 30
	// KeySize is the size of data keys, volume keys and all derived keys.
	KeySize = 32
	// NonceSize is the size of the nonce of AES-256-GCM.
	NonceSize = 12
	// TagSize is the size of tags, seals, MACs and ids.
	TagSize = 16
	// PresenceFanout is the number of groups whose presence one group keeps.
	PresenceFanout = 960
	// LongNameMin is the length of the shortest plaintext name that needs
	// companions.
	LongNameMin = 161
	// NameMax is the length of the longest plaintext name, also that of an
	// extended attribute.
	NameMax = 255
	// TargetMax is the length of the longest plaintext symlink target.
	TargetMax = 3039
	// DirFileSize is the size of a directory's id file.
	DirFileSize = 64
	// MaxPlain is the largest plaintext size of a file. Below it, no offset
	// and no size of this package overflows an int64.
	MaxPlain = 1 << 60
	// Suite numbers the algorithms: AES-256-GCM and BLAKE3.
	Suite = 1
)

// Names that kmsfs keeps for itself in the vault (FORMAT.md, Vault layout).
const (
	// ControlDir is the control directory in the root of the vault.
	ControlDir = ".kmsfs"
	// DirFileName is the file with the id of the directory that it stands in.
	DirFileName = ".kmsfs.dir"
	// CompanionPrefix begins the names of the companions of long names.
	CompanionPrefix = ".kmsfs.long."
	// XattrPrefix begins the names of sealed extended attributes.
	XattrPrefix = "user.k."
)

// Derivation contexts (FORMAT.md, Keys).
const (
	ctxConfigMAC        = "kmsfs 2026 v1 config mac"
	ctxDirectoryMAC     = "kmsfs 2026 v1 directory mac"
	ctxNameTag          = "kmsfs 2026 v1 name tag"
	ctxNameStream       = "kmsfs 2026 v1 name stream"
	ctxSymlinkTag       = "kmsfs 2026 v1 symlink tag"
	ctxSymlinkStream    = "kmsfs 2026 v1 symlink stream"
	ctxXattrName        = "kmsfs 2026 v1 xattr name"
	ctxXattrTag         = "kmsfs 2026 v1 xattr tag"
	ctxXattrStream      = "kmsfs 2026 v1 xattr stream"
	ctxJournalMAC       = "kmsfs 2026 v1 journal mac"
	ctxManifestSigning  = "kmsfs 2026 v1 manifest signing"
	ctxRootDirectory    = "kmsfs 2026 v1 root directory"
	ctxVolumeCommitment = "kmsfs 2026 v1 volume commitment"
	ctxGroupKey         = "kmsfs 2026 v1 group key"
	ctxIndexSeal        = "kmsfs 2026 v1 index seal"
	ctxRecordMAC        = "kmsfs 2026 v1 record mac"
	ctxDataCommitment   = "kmsfs 2026 v1 data key commitment"
	ctxPreviousKey      = "kmsfs 2026 v1 previous data key"
	ctxReverseID        = "kmsfs 2026 v1 reverse id"
	ctxReverseNonce     = "kmsfs 2026 v1 reverse nonce"
)
