package fsck

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// control looks for what is left over in .kmsfs.
func (f *finder) control(ctl backing.Dir) error {
	if isFile(ctl, "vault.json.new") {
		f.add(Finding{Kind: Leftover, Stored: envelope.ControlDir + "/vault.json.new", What: "a change of the config did not get to its end"})
	}
	keys, err := ctl.OpenDir("keys")
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
		for e := range p.Entries() {
			f.res.Records++
			switch {
			case e.Err != nil:
				f.trouble(stored, "", fmt.Errorf("slot %d: %w", e.Loc.Slot, e.Err))
			case f.used[p.Table][e.Loc.Slot], f.doubt[e.Record.ID]:
			case !f.o.Now.IsZero() && f.o.Now.UnixNano()-e.Record.Created < int64(spare):
			default:
				x.slots = append(x.slots, e.Loc.Slot)
			}
		}
		if len(x.slots) > 0 && f.res.Unsure == "" {
			x.What = fmt.Sprintf("%d records of no file", len(x.slots))
			f.add(x)
		}
		return nil
	})
}

// remove removes an empty or left-over file of the vault.
func remove(top backing.Dir, stored string) error {
	up, name := walk.Split(stored)
	d, err := walk.Open(top, up)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Unlink(name); err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return nil
}
