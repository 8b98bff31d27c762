package fsck

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// control looks for what is left over in .kmsfs.
func (f *finder) control(ctl backing.Dir) error {
	if isFile(ctl, "vault.json.new") {
		f.add(Finding{Kind: Leftover, Stored: envelope.ControlDir + "/vault.json.new", What: "a change of the config did not get to its end"})
	}
	if err := f.journal(ctl); err != nil {
		return err
	}
	keys, err := ctl.OpenDir("keys")
	if errors.Is(err, syscall.ENOENT) {
		f.add(Finding{Kind: Damaged, Stored: envelope.ControlDir + "/keys", What: "it is missing, and all data keys with it", Err: vault.ErrCorrupt})
		return nil
	}
	if err != nil {
		return err
	}
	defer keys.Close()
	return keys.ReadDir(func(e backing.Entry) bool {
		if id, ok := strings.CutSuffix(e.Name, ".new"); ok {
			if _, ok := envelope.ParseTableName(id); ok && isFile(keys, e.Name) && isFile(keys, id) { // else it may be all that there is
				f.add(Finding{Kind: Leftover, Stored: envelope.ControlDir + "/keys/" + e.Name, What: "a rewrap did not get to its end"})
			}
		}
		return true
	})
}

// journalMost is how much of a journal file is read: more than a mount writes.
const journalMost = 64 << 20

// journal notes the files that the journal has changes of: one that is being reencrypted may have a record that the journal alone names.
func (f *finder) journal(ctl backing.Dir) error {
	d, err := ctl.OpenDir("journal")
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	var names []string
	if err := d.ReadDir(func(e backing.Entry) bool {
		names = append(names, e.Name)
		return true
	}); err != nil {
		return err
	}
	for _, name := range names {
		b, err := readFile(d, name, journalMost)
		if err != nil {
			f.trouble(envelope.ControlDir+"/journal/"+name, "", err)
			continue
		}
		for id := range envelope.PeekJournalFiles(b) {
			f.doubt[id] = true
		}
	}
	return nil
}

// readFile reads the first most bytes of a file.
func readFile(d backing.Dir, name string, most int64) ([]byte, error) {
	bf, st, err := d.OpenStat(name, syscall.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer bf.Close()
	b := make([]byte, min(st.Size, most))
	n, err := bf.ReadAt(b, 0)
	return b[:n], err
}

// isFile says whether name is a regular file.
func isFile(d backing.Dir, name string) bool {
	st, err := d.StatAt(name)
	return err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG
}

// tables looks for records of no file, and for tables whose header is damaged.
func (f *finder) tables() error {
	if len(f.used) == 0 {
		f.unsure("no file here names a record")
	}
	return f.sc.Scan(f.ctx, sidecar.ScanOptions{}, func(p *sidecar.Part) error {
		stored := envelope.ControlDir + "/keys/" + envelope.TableName(p.Table)
		if p.Err != nil {
			n, err := f.sc.Mendable(p.Table)
			if err == nil && n > 0 {
				f.add(Finding{Kind: TableHeader, Stored: stored, What: fmt.Sprintf("its header is damaged; %d records in it are not", n), table: p.Table})
			} else {
				f.trouble(stored, "", p.Err)
			}
			return nil
		}
		x := Finding{Kind: OrphanRecords, Stored: stored, table: p.Table}
		bits := Finding{Kind: RecordBit, Stored: stored, table: p.Table}
		for e := range p.Entries() {
			f.res.Records++
			switch {
			case errors.Is(e.Err, envelope.ErrCorrupt) && !f.used[p.Table][e.Loc.Slot] && erased(e.Raw):
				x.slots = append(x.slots, e.Loc.Slot)
			case errors.Is(e.Err, envelope.ErrCorrupt) && f.used[p.Table][e.Loc.Slot] && f.flipped(e, &bits):
			case e.Err != nil:
				f.trouble(stored, "", fmt.Errorf("slot %d: %w", e.Loc.Slot, e.Err))
			case f.used[p.Table][e.Loc.Slot], f.doubt[e.Record.ID]:
			case !f.o.Now.IsZero() && f.o.Now.UnixNano()-e.Record.Created < int64(spare):
			default:
				x.slots = append(x.slots, e.Loc.Slot)
			}
		}
		if len(bits.records) > 0 {
			bits.What = fmt.Sprintf("%d records of files have one bit wrong, which their checksums tell", len(bits.records))
			f.add(bits)
		}
		if len(x.slots) > 0 && f.res.Unsure == "" {
			x.What = fmt.Sprintf("%d records of no file", len(x.slots))
			f.add(x)
		}
		return nil
	})
}

// flippedMost is how many records of a table are looked at for one wrong bit: more of them are damage of another kind.
const flippedMost = 32

// flipped notes the record that a damaged slot held before one bit of it changed, where it is that of a file that names the slot.
func (f *finder) flipped(e sidecar.Entry, bits *Finding) bool {
	if bits.tried++; bits.tried > flippedMost {
		return false
	}
	slot := slices.Clone(e.Raw)
	if !envelope.MendRecord(slot) {
		return false
	}
	r, err := envelope.ParseRecord(slot)
	if err != nil || !f.doubt[r.ID] {
		return false
	}
	bits.records = append(bits.records, sidecar.Found{Slot: e.Loc.Slot, Record: r})
	return true
}

// erased says whether what stands in a slot is what a power cut has left of an erased record: its first or last sector is zeros, which
// in no record they are.
func erased(slot []byte) bool {
	const sector = 512
	n := min(sector, len(slot))
	return envelope.IsZero(slot[:n]) || envelope.IsZero(slot[len(slot)-n:])
}

// remove removes an empty or left-over file of the vault.
func remove(top backing.Dir, stored string) error {
	up, name := walk.Split(stored)
	d, err := walk.Open(top, up)
	if err != nil {
		return gone(err) // it was moved by what was mended before
	}
	defer d.Close()
	return gone(d.Unlink(name))
}
