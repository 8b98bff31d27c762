package keyfile

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"kmsfs/envelope"
	"kmsfs/fs/vault/sidecar"
)

// Reader reads a key file from its beginning to its end. Nothing in it is trusted.
type Reader struct {
	Head   Head
	Config *envelope.Config // of the vault, not verified; its volume is that of Head

	under *watched
	tr    *tar.Reader
}

// Table is a key table from somewhere.
type Table struct {
	Header envelope.TableHeader // with Err, its ID alone
	// Part is the table, or a part of one.
	Part *sidecar.Part
	Err  error // why it cannot be read; there is then nothing else
}

// watched keeps the error that its source has ended with, so that it is told from damage.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// NewReader reads what stands before the tables. It fails with envelope.ErrCorrupt, envelope.ErrUnsupported, or as r does.
func NewReader(r io.Reader) (*Reader, error) {
	k := &Reader{under: &watched{r: r}}
	k.tr = tar.NewReader(k.under)
	b, err := k.expect(headName, jsonMax)
	if err != nil {
		return nil, err
	}
	if k.Head, err = parseHead(b); err != nil {
		return nil, err
	}
	if b, err = k.expect(configName, envelope.ConfigMax); err != nil {
		return nil, err
	}
	if k.Config, err = envelope.ParseConfig(b); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if k.Config.Volume != k.Head.Volume {
		return nil, fmt.Errorf("%w: key file: two volume ids", envelope.ErrCorrupt)
	}
	return k, nil
}

// expect reads the next member, which is to have that name.
func (k *Reader) expect(name string, most int64) ([]byte, error) {
	h, err := k.next()
	if err == io.EOF {
		return nil, k.cutShort()
	}
	if err != nil {
		return nil, err
	}
	if h.Name != name {
		return nil, fmt.Errorf("%w: key file: %q stands where %s does in one that kmsfs keys export has written", envelope.ErrCorrupt, h.Name, name)
	}
	return k.read(h, most)
}

// next goes to the next member, a file; io.EOF where there is none.
func (k *Reader) next() (*tar.Header, error) {
	h, err := k.tr.Next()
	if err == io.EOF && k.under.err == nil {
		return nil, io.EOF
	}
	if err != nil {
		return nil, k.damaged(err)
	}
	for name := range h.PAXRecords {
		if strings.HasPrefix(name, "GNU.sparse") { // a few bytes that would be read as many
			return nil, fmt.Errorf("%w: key file: a sparse member", envelope.ErrCorrupt)
		}
	}
	if h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: key file: a member that is no file", envelope.ErrCorrupt)
	}
	return h, nil
}

// damaged is an error of the source as it is, and one of the archive as damage.
func (k *Reader) damaged(err error) error {
	if k.under.err != nil {
		return k.under.err
	}
	return fmt.Errorf("%w: key file: %w", envelope.ErrCorrupt, err)
}

func (k *Reader) cutShort() error {
	return fmt.Errorf("%w: the key file is cut short", envelope.ErrCorrupt)
}

// read reads the content of a member. What is kept grows with what is there, not with what the header says.
func (k *Reader) read(h *tar.Header, most int64) ([]byte, error) {
	if h.Size > most {
		return nil, fmt.Errorf("%w: key file: a member of %d bytes", envelope.ErrCorrupt, h.Size)
	}
	b, err := io.ReadAll(k.tr)
	if err != nil {
		return nil, k.damaged(err)
	}
	return b, nil
}

// Tables calls f for each table, whole. A table that does not open is told in Table.Err and ends nothing. It ends with the
// first error of f, that of ctx, or envelope.ErrCorrupt where the file is damaged or cut short: what came before was whole.
func (k *Reader) Tables(ctx context.Context, f func(Table) error) error {
	seen := map[uint64]struct{}{}
	var got endJSON
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := k.next()
		if err == io.EOF {
			return k.cutShort()
		}
		if err != nil {
			return err
		}
		if h.Name == endName {
			return k.end(h, got)
		}
		hex, ok := strings.CutPrefix(h.Name, tablePrefix)
		id, named := envelope.ParseTableName(hex)
		if _, twice := seen[id]; !ok || !named || twice || len(seen) >= tablesMax {
			return fmt.Errorf("%w: key file: a member %q that does not belong there", envelope.ErrCorrupt, h.Name)
		}
		seen[id] = struct{}{}
		b, err := k.read(h, tableMax)
		if err != nil {
			return err
		}
		t := k.table(id, b)
		got.Tables++
		if t.Err == nil {
			for e := range t.Part.Entries() {
				if e.Err == nil {
					got.Records++
				}
			}
		}
		if err := f(t); err != nil {
			return err
		}
	}
}

// table reads one table.
func (k *Reader) table(id uint64, b []byte) Table {
	h, err := envelope.ParseTableHeader(b[:min(len(b), envelope.MaxSlotSize)])
	if err == nil && (h.ID != id || h.Volume != k.Head.Volume) {
		err = fmt.Errorf("%w: it is another vault's table or another table's copy", envelope.ErrCorrupt)
	}
	if err != nil {
		return Table{Header: envelope.TableHeader{ID: id}, Err: err}
	}
	return Table{Header: h, Part: sidecar.NewPart(h, 0, b)}
}

// end reads the last member, and that nothing follows it. got is what the tables before it were.
func (k *Reader) end(h *tar.Header, got endJSON) error {
	b, err := k.read(h, jsonMax)
	if err != nil {
		return err
	}
	var said endJSON
	if err := strict(b, &said); err != nil {
		return err
	}
	if said != got {
		return fmt.Errorf("%w: key file: it holds %d whole records in %d tables and says %d in %d", envelope.ErrCorrupt, got.Records, got.Tables, said.Records, said.Tables)
	}
	if _, err := k.next(); err != io.EOF {
		return errors.Join(err, fmt.Errorf("%w: key file: something follows its end", envelope.ErrCorrupt))
	}
	return nil
}
