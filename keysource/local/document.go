package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// The layout of a document, version 1; see PROTOCOL.md, "Documents". Numbers are big-endian.
const (
	documentMagic   = "kmsfs-kd"
	documentVersion = 1

	offDocVersion    = len(documentMagic)
	offDocFeatures   = offDocVersion + 2
	offDocStoreID    = offDocFeatures + 2
	offDocGeneration = offDocStoreID + 16
	offDocSalt       = offDocGeneration + 8
	documentHeader   = offDocSalt + saltSize
)

// MaxDocumentSize is the largest content of a Document in bytes.
const MaxDocumentSize = 16 << 20

// contextDocument is of BLAKE3 derive_key, part of the format.
const contextDocument = "kmsfs 2026-01-01 local key store: document v1"

// Document is a further file in the directory of a key store, sealed under its store key: what opens the store opens
// it. It is for small secrets that belong to the store, as access keys of a server do. Changes are made as the store
// makes its own: under its lock, aside, durable and read back before they take the place of the old content.
//
// It is safe for concurrent use, also beside other processes.
type Document struct {
	s    *Store
	name string
	path string
}

// Revision tells one content of a Document from every other. The zero value is that of no content at all.
type Revision struct {
	generation uint64
	salt       [saltSize]byte
}

// Document returns the document of that name, which need not exist yet. The name is a file name in the store's directory
// and not one of the store's own.
func (s *Store) Document(name string) (*Document, error) {
	switch name {
	case "", ".", "..", StoreName, KeyFileName, LockName, UsageName:
		return nil, errValue("Document", "name", "a name that the key store does not use")
	}
	if filepath.Base(name) != name || filepath.Ext(name) == newSuffix {
		return nil, errValue("Document", "name", "a file name")
	}
	return &Document{s, name, filepath.Join(s.cfg.Dir, name)}, nil
}

// Path is where the document is.
func (d *Document) Path() string { return d.path }

// Read returns the content and its revision; where the revision is have, the content is not read and nil. A document
// that does not exist has no content and the zero Revision. One that went back to before have, or that vanished, is
// ErrDamaged. The caller wipes the content.
func (d *Document) Read(have Revision) (content []byte, now Revision, err error) {
	b, err := d.readFile(documentHeader)
	if errors.Is(err, fs.ErrNotExist) {
		if have != (Revision{}) {
			return nil, have, fmt.Errorf("%s: %w", d.path, damaged("the file is gone"))
		}
		return nil, Revision{}, nil
	}
	if err != nil {
		return nil, have, err
	}
	if now, err = d.parse(b); err != nil || now == have {
		return nil, have, err
	}
	content, now, err = d.read()
	if err == nil && now != have && now.generation <= have.generation {
		clear(content)
		return nil, have, fmt.Errorf("%s: %w", d.path, damaged("it went back from generation %d to %d", have.generation, now.generation))
	}
	return content, now, err
}

// Update replaces the content by what change makes of it; old is nil where there is none. When it returns nil the new
// content is durable; after an error the old one stands, but for ErrNotDurable. change must not keep old.
func (d *Document) Update(ctx context.Context, change func(old []byte) ([]byte, error)) error {
	key, id, err := d.s.copyStoreKey()
	if err != nil {
		return err
	}
	defer clear(key[:])
	lock, err := lockFile(ctx, d.s.cfg.fsys, filepath.Join(d.s.cfg.Dir, LockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	how, owner := replaceOld, d.path
	old, revision, err := d.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		how, owner, old = createNew, d.s.path, nil
	case err != nil:
		return err
	}
	defer clear(old)
	content, err := change(old)
	if err != nil {
		return err
	}
	defer clear(content)
	revision.generation++
	sealed, err := d.seal(content, revision.generation, &key, id)
	if err != nil {
		return err
	}
	if err := writeDurableFor(d.s.cfg.fsys, d.path, owner, sealed, how); err != nil {
		return fmt.Errorf("write %s: %w", d.path, err)
	}
	return nil
}

// seal returns the file that holds content.
func (d *Document) seal(content []byte, generation uint64, storeKey *[secretSize]byte, id [16]byte) ([]byte, error) {
	if len(content) > MaxDocumentSize {
		return nil, fmt.Errorf("%s would be over %d bytes", d.name, MaxDocumentSize)
	}
	head := make([]byte, documentHeader, documentHeader+len(content)+tagSize)
	copy(head, documentMagic)
	binary.BigEndian.PutUint16(head[offDocVersion:], documentVersion)
	copy(head[offDocStoreID:], id[:])
	binary.BigEndian.PutUint64(head[offDocGeneration:], generation)
	if _, err := io.ReadFull(d.s.cfg.Rand, head[offDocSalt:]); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	key := derive(contextDocument, storeKey[:], head[offDocSalt:])
	defer clear(key[:])
	return sealOnce(&key, head, content, d.aad(head)), nil
}

// aad is what the content is bound to: the header and the name.
func (d *Document) aad(head []byte) []byte {
	return append(bytes.Clone(head[:documentHeader]), d.name...)
}

// read reads and opens the whole file, and makes sure that it is durable before anybody uses it.
func (d *Document) read() ([]byte, Revision, error) {
	b, err := d.readFile(documentHeader + MaxDocumentSize + tagSize)
	if err != nil {
		return nil, Revision{}, err
	}
	if err := d.s.cfg.fsys.SyncDir(d.s.cfg.Dir); err != nil {
		return nil, Revision{}, fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	revision, err := d.parse(b)
	if err != nil {
		return nil, Revision{}, err
	}
	storeKey, id, err := d.s.copyStoreKey()
	if err != nil {
		return nil, Revision{}, err
	}
	defer clear(storeKey[:])
	if !bytes.Equal(id[:], b[offDocStoreID:offDocGeneration]) {
		return nil, Revision{}, fmt.Errorf("%s: %w", d.path, damaged("it belongs to another key store"))
	}
	key := derive(contextDocument, storeKey[:], revision.salt[:])
	defer clear(key[:])
	content, err := openOnce(&key, make([]byte, 0, len(b)), b[documentHeader:], d.aad(b))
	if err != nil {
		return nil, Revision{}, fmt.Errorf("%s: %w", d.path, damaged("the file was changed"))
	}
	return content, revision, nil
}

// parse reads the header at the beginning of b.
func (d *Document) parse(b []byte) (Revision, error) {
	var r Revision
	var err error
	switch {
	case len(b) < documentHeader:
		err = damaged("the file is cut short: %d bytes", len(b))
	case string(b[:offDocVersion]) != documentMagic:
		err = damaged("the file is not a document of a key store")
	case binary.BigEndian.Uint16(b[offDocVersion:]) != documentVersion || binary.BigEndian.Uint16(b[offDocFeatures:]) != 0:
		err = newer("a document of version %d", binary.BigEndian.Uint16(b[offDocVersion:]))
	default:
		r.generation = binary.BigEndian.Uint64(b[offDocGeneration:])
		copy(r.salt[:], b[offDocSalt:])
		if r.generation == 0 {
			err = damaged("the file has no generation")
		}
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", d.path, err)
	}
	return r, nil
}

// readFile reads the file, at most the first limit bytes of it.
func (d *Document) readFile(limit int) ([]byte, error) {
	f, err := d.s.cfg.fsys.Open(d.path, refuseLinks)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.mode.IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", d.path)
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}
