package keyfile

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
)

// Exported is what Export has written.
type Exported struct {
	Head             // Tables and Records are what the file holds
	Bytes   int64    // of the file
	Damaged []Damage // tables that are not in it or not wholly, and records that are in it as they are: damaged
}

// exporter writes one key file.
type exporter struct {
	tw   *tar.Writer
	sc   *sidecar.Sidecar
	now  time.Time
	done Exported
}

// Export writes the sidecar of the vault in top to w. The vault may be mounted: a key table is taken as it stands at one time,
// one after the other, so that of what is made meanwhile some is in it and some is not. It writes nothing to the vault.
func Export(ctx context.Context, top backing.Dir, w io.Writer, now time.Time) (*Exported, error) {
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return nil, err
	}
	config, err := cfg.Remarshal()
	if err != nil {
		return nil, err
	}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	sc, err := sidecar.Open(ctl, cfg.Volume)
	if err != nil {
		return nil, err
	}
	defer sc.Close()
	c := &counter{w: w}
	e := &exporter{tw: tar.NewWriter(c), sc: sc, now: now.UTC().Truncate(time.Second)}
	e.done.Volume, e.done.Created = cfg.Volume, e.now
	head, err := e.count(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.object(headName, head); err != nil {
		return nil, err
	}
	if err := e.member(configName, config); err != nil {
		return nil, err
	}
	ids, err := sc.Tables()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := e.table(ctx, id); err != nil {
			return nil, err
		}
	}
	if err := e.object(endName, endJSON{e.done.Tables, e.done.Records}); err != nil {
		return nil, err
	}
	err = e.tw.Close()
	e.done.Bytes = c.n
	return &e.done, err
}

// count makes the first member.
func (e *exporter) count(ctx context.Context) (headJSON, error) {
	h := headJSON{Format: format, Volume: e.done.Volume.String(), Created: e.now.Format(time.RFC3339)}
	err := e.sc.Scan(ctx, sidecar.ScanOptions{}, func(p *sidecar.Part) error {
		if p.Last && p.Err == nil {
			h.Tables++
		}
		for entry := range p.Entries() {
			if entry.Err == nil {
				h.Records++
			}
		}
		return nil
	})
	return h, err
}

// table writes one table. One that is gone meanwhile is left out: none of its records was in use.
func (e *exporter) table(ctx context.Context, id uint64) error {
	name := tablePrefix + envelope.TableName(id)
	var b []byte
	records := int64(0)
	damaged := func(err error) { e.done.Damaged = append(e.done.Damaged, Damage{Path: name, What: err.Error()}) }
	if err := e.sc.ScanTable(ctx, id, func(p *sidecar.Part) error {
		if p.Err != nil {
			damaged(p.Err)
			return nil
		}
		if len(b)+len(p.Raw()) > tableMax {
			return fmt.Errorf("key table %s is larger than a key file can hold: %w", name, envelope.ErrUnsupported)
		}
		b = append(b, p.Raw()...)
		for entry := range p.Entries() {
			if entry.Err != nil {
				damaged(fmt.Errorf("slot %d: %w", entry.Loc.Slot, entry.Err))
				continue
			}
			records++
		}
		return nil
	}); err != nil || len(b) == 0 {
		return err
	}
	e.done.Tables++
	e.done.Records += records
	return e.member(name, b)
}

// object writes a member that is JSON.
func (e *exporter) object(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return e.member(name, append(b, '\n'))
}

func (e *exporter) member(name string, b []byte) error {
	err := e.tw.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, Mode: 0o600,
		Size: int64(len(b)), ModTime: e.now})
	if err == nil {
		_, err = e.tw.Write(b)
	}
	return err
}

// counter counts what goes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
