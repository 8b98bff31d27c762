// Package manifest is the signed listing of a stored vault (envelope/FORMAT.md, "Manifest"): what every file of it holds, by
// BLAKE3, so that who has no key can tell whether a copy is what was sent, and a rollback or an exchange of whole files is
// found.
//
// Start with [Create], or with [Parse] and [Manifest.Compare]. Nothing of a manifest is authentic before
// [Manifest.Verify]. It covers names and contents, not modes, owners, times and extended attributes.
package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"kmsfs/envelope"
)

// Format is the version that the head of a manifest tells.
const Format = "kmsfs manifest 1"

// FormatIndexes is what the head of a manifest of [Indexes] tells.
const FormatIndexes = "kmsfs freshness 1"

// Depth says what of a file its hash is of.
type Depth uint8

// The two depths.
const (
	// Contents: all that is stored.
	Contents Depth = iota
	// Indexes: its size and what says which versions of its chunks are valid, a sixty-fourth of a large file; a file of at most one
	// block as a whole. That tells a file that was put back from one that was not, and not damage. .kmsfs is not in it: a rewrap
	// may change it meanwhile.
	Indexes
)

// format is the Format of a depth.
func (d Depth) format() string {
	if d == Indexes {
		return FormatIndexes
	}
	return Format
}

// dirContext is the derivation context of the hash of a directory.
const dirContext = "kmsfs 2026 v1 manifest directory"

// lineMax bounds a line. Stored paths may be longer than PATH_MAX.
const lineMax = 1 << 20

// The errors that a caller decides on.
var (
	// ErrMalformed: it is no manifest, or not as kmsfs writes one.
	ErrMalformed = errors.New("manifest: malformed")
	// ErrSignature: it was changed, or is not signed by who is asked for.
	ErrSignature = errors.New("manifest: the signature does not match")
	// ErrVersion: a manifest of a later version.
	ErrVersion = errors.New("manifest: of a later version")
)

// Kind is what an entry is.
type Kind byte

// The kinds of entry.
const (
	Dir     Kind = 'D'
	File    Kind = 'F'
	Symlink Kind = 'L'
	Other   Kind = 'O' // a device, a FIFO, a socket
)

// Hash is a BLAKE3 of 32 bytes.
type Hash [32]byte

// Entry is one line. The hash of a file is the BLAKE3 of its bytes, as b3sum(1) gives it, that of a symlink of its target,
// that of a device of its type and number, that of a directory of its entries.
type Entry struct {
	Kind Kind
	Hash Hash
	Size int64  // of a file in bytes; of a directory its entries
	Path string // stored names; "" for the vault itself
}

// Head is the first line.
type Head struct {
	Format      string `json:"format"`
	VolumeID    string `json:"volume_id"`
	Created     string `json:"created"`    // RFC 3339, UTC, whole seconds
	PublicKey   string `json:"public_key"` // Ed25519, hex
	Directories int64  `json:"directories"`
	Files       int64  `json:"files"` // of all kinds but directories
	Bytes       int64  `json:"bytes"` // of files
}

// Manifest is a whole one.
type Manifest struct {
	Head      Head
	Created   time.Time
	Entries   []Entry // in the order of comparePaths
	Depth     Depth
	Signer    ed25519.PublicKey
	Signature []byte

	digest [32]byte // of all before the signature
}

// Root is the hash of all of the vault.
func (m *Manifest) Root() Hash { return m.Entries[0].Hash }

// comparePaths orders paths name by name, so that a directory comes before what is in it and that before what follows it.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			if a[i] == '/' {
				return -1
			}
			if b[i] == '/' {
				return 1
			}
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// signer signs manifests: a vault that is open.
type signer interface {
	ManifestSigner() ed25519.PublicKey
	SignManifest(digest [32]byte) []byte
}

// write writes a manifest of entries, which it sorts and of whose directories it computes the hashes, and returns it.
func write(w io.Writer, volume envelope.VolumeID, created time.Time, depth Depth, entries []Entry, s signer) (*Manifest, error) {
	slices.SortFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
	m := &Manifest{Entries: entries, Depth: depth, Signer: s.ManifestSigner(), Created: created.UTC().Truncate(time.Second)}
	m.Head = Head{Format: depth.format(), VolumeID: volume.String(), Created: m.Created.Format(time.RFC3339), PublicKey: hex.EncodeToString(m.Signer)}
	for _, e := range entries {
		if e.Kind == Dir {
			m.Head.Directories++
			continue
		}
		m.Head.Files++
		if e.Kind == File {
			m.Head.Bytes += e.Size
		}
	}
	if err := hashDirs(entries, setHashes); err != nil {
		return nil, err
	}
	sum := blake3.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<16)
	head, err := json.Marshal(m.Head)
	if err != nil {
		return nil, err
	}
	out.Write(append(head, '\n'))
	var line []byte
	for _, e := range entries {
		line = e.append(line[:0])
		out.Write(line)
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	sum.Sum(m.digest[:0])
	m.Signature = s.SignManifest(m.digest)
	_, err = fmt.Fprintf(w, "S %x\n", m.Signature)
	return m, err
}

// append adds the line of e to b.
func (e *Entry) append(b []byte) []byte {
	b = append(b, byte(e.Kind), ' ')
	b = hex.AppendEncode(b, e.Hash[:])
	b = append(b, ' ')
	b = strconv.AppendInt(b, e.Size, 10)
	b = append(b, ' ')
	return append(append(b, quotePath(e.Path)...), '\n')
}

// quotePath is a path as a line has it: in quotes as Go has them where not all of it are letters, digits, '-', '_', '.', '/',
// and "." for the vault itself.
func quotePath(path string) string {
	if path == "" {
		return "."
	}
	for i := range len(path) {
		switch c := path[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/':
		default:
			return strconv.QuoteToASCII(path)
		}
	}
	return path
}

// Parse reads a manifest, and holds it against its own rules: the order of the paths, that each stands in a directory, the
// counts, and the hashes of directories. Whose it is Verify tells. What it keeps is in proportion to what it reads.
func Parse(r io.Reader) (*Manifest, error) {
	p := &parser{in: bufio.NewReaderSize(r, lineMax), sum: blake3.New()}
	m, err := p.manifest()
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", p.line, err)
	}
	return m, nil
}

// parser is one Parse.
type parser struct {
	in   *bufio.Reader
	sum  *blake3.Hasher
	line int
}

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, a...)...)
}

// next returns the next line without its end, which is valid until the next call.
func (p *parser) next() ([]byte, error) {
	p.line++
	b, err := p.in.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return nil, malformed("it ends too early")
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, malformed("a line is too long")
	case err != nil:
		return nil, err
	}
	return b[:len(b)-1], nil
}

func (p *parser) manifest() (*Manifest, error) {
	m := &Manifest{}
	b, err := p.next()
	if err != nil {
		return nil, err
	}
	if err := m.parseHead(b); err != nil {
		return nil, err
	}
	p.write(b)
	for {
		if b, err = p.next(); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(b, []byte("S ")) {
			break
		}
		e, err := parseEntry(b)
		if err != nil {
			return nil, err
		}
		if n := len(m.Entries); n == 0 && (e.Path != "" || e.Kind != Dir) || n > 0 && comparePaths(m.Entries[n-1].Path, e.Path) >= 0 {
			return nil, malformed("the order of the paths")
		}
		m.Entries = append(m.Entries, e)
		p.write(b)
	}
	if len(m.Entries) == 0 {
		return nil, malformed("there is nothing in it")
	}
	p.sum.Sum(m.digest[:0])
	if m.Signature, err = parseHex(b[2:], ed25519.SignatureSize); err != nil {
		return nil, err
	}
	if _, err := p.in.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, malformed("something follows the signature")
	}
	return m, m.hold()
}

func (p *parser) write(line []byte) {
	p.sum.Write(line)
	p.sum.Write([]byte{'\n'})
}

// hold holds counts and hashes against the entries.
func (m *Manifest) hold() error {
	var dirs, files, size int64
	for i := range m.Entries {
		switch e := &m.Entries[i]; e.Kind {
		case Dir:
			dirs++
		case File:
			if size += e.Size; size < 0 {
				return malformed("the sum of the sizes")
			}
			fallthrough
		default:
			files++
		}
	}
	if dirs != m.Head.Directories || files != m.Head.Files || size != m.Head.Bytes {
		return malformed("the counts of the first line are not those of what follows")
	}
	return hashDirs(m.Entries, compareHashes)
}

// parseHead reads the first line, whose members are exactly those of Head.
func (m *Manifest) parseHead(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&m.Head); err != nil {
		return malformed("%v", err)
	}
	switch m.Head.Format {
	case Format:
	case FormatIndexes:
		m.Depth = Indexes
	default:
		if strings.HasPrefix(m.Head.Format, strings.TrimRight(Format, "1")) {
			return fmt.Errorf("%w: %q", ErrVersion, m.Head.Format)
		}
		return malformed("it is no manifest of kmsfs")
	}
	if again, err := json.Marshal(m.Head); err != nil || !bytes.Equal(again, b) {
		return malformed("the first line is not as it is written")
	}
	var err error
	if m.Created, err = time.Parse(time.RFC3339, m.Head.Created); err != nil || m.Created.UTC().Format(time.RFC3339) != m.Head.Created {
		return malformed("the time")
	}
	if m.Signer, err = parseHex([]byte(m.Head.PublicKey), ed25519.PublicKeySize); err != nil {
		return err
	}
	_, err = parseHex([]byte(m.Head.VolumeID), len(envelope.VolumeID{}))
	return err
}

// parseHex reads n bytes in lower-case hex.
func parseHex(b []byte, n int) ([]byte, error) {
	out := make([]byte, hex.DecodedLen(len(b)))
	if _, err := hex.Decode(out, b); err != nil || len(b) != 2*n || hex.EncodeToString(out) != string(b) {
		return nil, malformed("%d bytes in hex are wanted", n)
	}
	return out, nil
}

// parseEntry reads a line that append has written; any other form is refused.
func parseEntry(b []byte) (e Entry, err error) {
	fields := bytes.SplitN(b, []byte(" "), 4)
	if len(fields) != 4 || len(fields[0]) != 1 || strings.IndexByte("DFLO", fields[0][0]) < 0 {
		return e, malformed("no entry")
	}
	e.Kind = Kind(fields[0][0])
	h, err := parseHex(fields[1], len(e.Hash))
	if err != nil {
		return e, err
	}
	e.Hash = Hash(h)
	if e.Size, err = strconv.ParseInt(string(fields[2]), 10, 64); err != nil || e.Size < 0 {
		return e, malformed("a size")
	}
	path := string(fields[3])
	if strings.HasPrefix(path, `"`) {
		if path, err = strconv.Unquote(path); err != nil {
			return e, malformed("a path")
		}
	} else if path == "." {
		path = ""
	}
	e.Path = path
	if path != "" && slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." || s == ".." || strings.IndexByte(s, 0) >= 0 }) {
		return e, malformed("a path")
	}
	if again := e.append(nil); !bytes.Equal(again[:len(again)-1], b) {
		return e, malformed("a line that is not as it is written")
	}
	return e, nil
}

// Verify says whether the manifest is signed by want; nil stands for the key that it carries itself, which tells only that
// nobody has changed it who does not have that key.
func (m *Manifest) Verify(want ed25519.PublicKey) error {
	if want == nil {
		want = m.Signer
	}
	if !m.Signer.Equal(want) {
		return fmt.Errorf("%w: it is signed by %x, not by %x", ErrSignature, []byte(m.Signer), []byte(want))
	}
	if !envelope.VerifyManifest(want, m.digest, m.Signature) {
		return fmt.Errorf("%w: it was changed after it was signed", ErrSignature)
	}
	return nil
}
