// Package keyfile is the sidecar of a vault as one portable file (envelope/FORMAT.md, "Portable key file"): it writes it, puts
// a vault right from it whose .kmsfs was lost or is older than its data, and compares the two. It needs no key and asks no
// keysource.
//
// Start with [Export], [Import] and [Compare]; [NewReader] reads the file.
//
// It guarantees that what is read of a key file is bounded and checked, that no name in it is used as a path, and that an
// import puts in no record but those that a file of the vault names and has not, each table old or new as a whole, so that it
// may be killed and repeated. It does not guarantee that a record is authentic: whoever opens the file finds that out.
package keyfile

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/vault/survey"
)

// Names of the members of the archive, in this order; the tables are those with tablePrefix.
const (
	headName    = "kmsfs-keys.json"
	configName  = envelope.ControlDir + "/vault.json"
	tablePrefix = envelope.ControlDir + "/keys/"
	endName     = "kmsfs-keys.end.json"
)

// Bounds of what is read.
const (
	jsonMax   = 4096
	tableMax  = 64 << 20 // kmsfs makes none of more than 16 MiB
	tablesMax = 1 << 22
)

// format is the version of the archive.
const format = 1

// ErrOtherVault is returned by Import and Compare for the key file of another vault, or where nothing says that it is this one's.
var ErrOtherVault = errors.New("keyfile: the keys of another vault")

// Head is what a key file says of itself.
type Head struct {
	Volume  envelope.VolumeID
	Created time.Time
	Tables  int64 // that there were when it was begun
	Records int64 // whole ones in them
}

// headJSON is the first member.
type headJSON struct {
	Format  int    `json:"format"`
	Volume  string `json:"volume_id"`
	Created string `json:"created"`
	Tables  int64  `json:"tables"`
	Records int64  `json:"records"`
}

// endJSON is the last member: what the file holds, which tells that it is whole.
type endJSON struct {
	Tables  int64 `json:"tables"`
	Records int64 `json:"records"`
}

// parseHead reads the first member.
func parseHead(b []byte) (h Head, err error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return h, fmt.Errorf("%w: %s: %w", envelope.ErrCorrupt, headName, err)
	}
	if version.Format != format {
		return h, fmt.Errorf("%w: key file of format %d", envelope.ErrUnsupported, version.Format)
	}
	var j headJSON
	if err := strict(b, &j); err != nil {
		return h, err
	}
	id, err := hex.DecodeString(j.Volume)
	if err != nil || len(id) != len(h.Volume) || j.Tables < 0 || j.Records < 0 {
		return h, fmt.Errorf("%w: %s", envelope.ErrCorrupt, headName)
	}
	created, err := time.Parse(time.RFC3339, j.Created)
	if err != nil {
		return h, fmt.Errorf("%w: %s: %w", envelope.ErrCorrupt, headName, err)
	}
	return Head{envelope.VolumeID(id), created, j.Tables, j.Records}, nil
}

// strict reads a JSON object that has no other members than those of to.
func strict(b []byte, to any) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil && d.More() {
		err = errors.New("something follows the object")
	}
	if err != nil {
		return fmt.Errorf("%w: key file: %w", envelope.ErrCorrupt, err)
	}
	return nil
}

// Damage is what a table or a file could not be read for.
type Damage = survey.Problem
