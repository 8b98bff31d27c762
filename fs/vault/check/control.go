package check

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// journalMost bounds what is read of one journal file.
const journalMost = 1 << 30

// control opens the key tables, and reads of the journal which files it has changes of. The config has been read.
func (c *checker) control() error {
	ctl, err := c.top.OpenDir(envelope.ControlDir)
	if err != nil {
		return err
	}
	defer ctl.Close()
	keys := place{stored: envelope.ControlDir + "/keys"}
	if c.keys, err = sidecar.Open(ctl, c.cfg.Volume); errors.Is(err, syscall.ENOENT) {
		c.add(Finding{Kind: Table, Stored: keys.stored, What: "it is missing, and all keys with it", Err: vault.ErrCorrupt})
	} else if err != nil {
		c.fault(Table, keys, err)
	}
	if c.v == nil { // else it was read with the vault
		c.journal(ctl)
	}
	return nil
}

// tables looks at every record.
func (c *checker) tables() error {
	if c.keys == nil {
		return nil
	}
	return c.keys.Scan(c.ctx, sidecar.ScanOptions{Parallel: runtime.GOMAXPROCS(0)}, c.table)
}

// table looks at the records of a part of a key table.
func (c *checker) table(p *sidecar.Part) error {
	at := place{stored: tablePath(p.Table)}
	if p.Err != nil {
		c.fault(Table, at, p.Err)
		return nil
	}
	n := int64(0)
	for e := range p.Entries() {
		n++
		if e.Err == nil {
			continue
		}
		f := finding(Record, at, e.Err)
		f.slot, f.slotSize, f.What = e.Loc.Slot, p.SlotSize, fmt.Sprintf("slot %d: %v", e.Loc.Slot, e.Err)
		c.add(f)
	}
	c.mu.Lock()
	c.res.Records += n
	c.mu.Unlock()
	return nil
}

// tablesAgain looks again at the key tables that findings are about.
func (c *checker) tablesAgain(findings []Finding) error {
	seen := map[uint64]bool{}
	for _, f := range findings {
		_, name := walk.Split(f.Stored)
		id, ok := envelope.ParseTableName(name)
		if c.keys == nil || !ok || seen[id] || f.Stored != tablePath(id) {
			continue
		}
		seen[id] = true
		if err := c.keys.ScanTable(c.ctx, id, c.table); err != nil {
			return err
		}
	}
	return nil
}

// tablePath is the path of a key table in the vault.
func tablePath(id uint64) string { return envelope.ControlDir + "/keys/" + envelope.TableName(id) }

// journal notes which files the journal has changes of, and what of it no mount will read. A header that a crash tore is
// as good as none: that is no damage.
func (c *checker) journal(ctl backing.Dir) {
	const name = "journal"
	at := place{stored: envelope.ControlDir + "/" + name}
	d, err := ctl.OpenDir(name)
	if err != nil {
		c.fault(Unread, at, err)
		return
	}
	defer d.Close()
	if err := d.ReadDir(func(e backing.Entry) bool {
		c.journalFile(d, e.Name, place{stored: walk.Join(at.stored, e.Name)})
		return true
	}); err != nil {
		c.fault(Unread, at, err)
	}
}

func (c *checker) journalFile(d backing.Dir, name string, at place) {
	f, err := d.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		c.fault(Unread, at, err)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		c.fault(Unread, at, err)
		return
	}
	b := make([]byte, min(st.Size, journalMost))
	n, err := f.ReadAt(b, 0)
	if err != nil {
		c.fault(Unread, at, err)
		return
	}
	b = b[:n]
	if envelope.IsZero(b[:min(n, envelope.JournalHeaderSize)]) {
		return
	}
	h, err := envelope.PeekJournalHeader(b)
	switch {
	case errors.Is(err, envelope.ErrUnsupported):
		c.fault(Unread, at, err)
	case err != nil || h.Volume != c.cfg.Volume:
		c.add(Finding{Kind: Note, Stored: at.stored, What: "no journal file of this vault: no mount reads it"})
	default:
		for id := range envelope.PeekJournalFiles(b) {
			c.inLog[id] = true
		}
	}
}
