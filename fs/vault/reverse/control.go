package reverse

import (
	"context"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// listTables lists .kmsfs/keys, with the records of all files that there are.
func (v *View) listTables(ctx context.Context, n *Node) ([]Entry, error) {
	if err := v.Prepare(ctx); err != nil {
		return nil, err
	}
	ids, err := v.sidecar.Tables()
	if err != nil {
		return nil, err
	}
	all := make([]Entry, 0, len(ids))
	for _, id := range ids {
		all = append(all, v.made(keyTable, envelope.TableName(id), n))
	}
	return all, nil
}

// statTable returns the attributes of a key table.
func (v *View) statTable(name string) (backing.Stat, error) {
	d, err := v.ctl.OpenDir(keysName)
	if err != nil {
		return backing.Stat{}, err
	}
	defer d.Close()
	return d.StatAt(name)
}

// openControl opens a file of the state.
func (v *View) openControl(n *Node) (backing.File, error) {
	if n.role == config {
		return v.ctl.Open(configName, 0, 0)
	}
	d, err := v.ctl.OpenDir(keysName)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Open(n.name, 0, 0)
}
