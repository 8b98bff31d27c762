package main

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/survey"
	"kmsfs/keysource"
)

// surveyInfo is what of a vault stands under which CMK and key material, in the output of status.
type surveyInfo struct {
	Keys       []surveyKey  `json:"keys"`
	Zones      []surveyZone `json:"zones"`
	VolumeKey  []surveyKey  `json:"volume_key"`
	Records    int64        `json:"records"`
	Files      int64        `json:"files"`
	Bytes      int64        `json:"bytes"`
	Behind     *int64       `json:"records_behind"` // null where it cannot be told
	OutOfZone  *int64       `json:"files_out_of_zone"`
	Empty      int64        `json:"empty_files"`
	Spare      *int64       `json:"spare_records"`
	Missing    int64        `json:"files_without_record"`
	Damaged    int64        `json:"damaged_records"`
	Unread     int64        `json:"not_readable"`
	BranchKeys int          `json:"branch_keys"`
	Tables     int          `json:"key_tables"`
	Problems   []string     `json:"problems,omitempty"`
	Unknown    []string     `json:"unknown,omitempty"` // why it cannot be told what is behind
}

// surveyKey is one CMK and key material.
type surveyKey struct {
	CMK           string `json:"cmk"`
	KeyMaterialID string `json:"key_material_id"`
	Position      string `json:"position"`        // primary, or additional
	Branch        bool   `json:"branch_key"`      // by branch keys that it wraps
	State         string `json:"state,omitempty"` // current or behind, and the CMK's where it is not enabled
	Records       int64  `json:"records"`
	Files         int64  `json:"files"`
	Bytes         int64  `json:"bytes"`
}

// surveyZone is one encryption zone.
type surveyZone struct {
	Path      string `json:"stored_path"` // "" for the root
	Key       string `json:"key"`
	CMK       string `json:"cmk,omitempty"`
	Files     int64  `json:"files"`
	Bytes     int64  `json:"bytes"`
	OutOfZone int64  `json:"files_out_of_zone"`
	Behind    int64  `json:"files_behind"`
}

// surveyor asks the keysource about each CMK once.
type surveyor struct {
	ks    keysource.Keysource // nil: offline
	known map[string]described
	info  *surveyInfo
}

// described is what a keysource says of a CMK; arn is "" where it says nothing.
type described struct{ arn, current, state string }

func (s *surveyor) describe(ctx context.Context, key string) described {
	if d, ok := s.known[key]; ok || s.ks == nil {
		return d
	}
	var d described
	m, err := s.ks.DescribeKey(ctx, keysource.KeyRef(key))
	if err != nil {
		s.info.Unknown = append(s.info.Unknown, fmt.Sprintf("%s: %v", key, err))
	} else {
		d = described{m.ARN, m.CurrentKeyMaterialID, string(m.KeyState)}
		if m.Enabled {
			d.state = ""
		}
		s.known[m.ARN] = d
	}
	s.known[key] = d
	return d
}

// state says whether a wrapping is by the current material of its CMK.
func (s *surveyor) state(ctx context.Context, arn, material string) string {
	d := s.describe(ctx, arn)
	var words []string
	switch {
	case d.arn == "":
		return ""
	case d.current == "" || material == "":
	case d.current == material:
		words = append(words, "current")
	default:
		words = append(words, "behind")
	}
	if d.state != "" {
		words = append(words, d.state)
	}
	return strings.Join(words, ", ")
}

// surveyVault surveys the vault in top. ks is nil where nothing is to be asked.
func surveyVault(ctx context.Context, top backing.Dir, scope survey.Scope, ks keysource.Keysource) (*surveyInfo, error) {
	r, err := survey.Run(ctx, top, scope)
	if err != nil {
		return nil, err
	}
	info := &surveyInfo{Empty: r.Empty, Missing: r.Missing, Damaged: r.Damaged, Unread: r.Unread, BranchKeys: r.BranchKeys, Tables: r.Tables}
	s := &surveyor{ks: ks, known: map[string]described{}, info: info}
	if scope == survey.Everything {
		info.Spare = &r.Spare
	}
	for _, p := range r.Problems {
		info.Problems = append(info.Problems, p.Path+": "+p.What)
	}
	info.Keys = s.keys(ctx, r.Classes)
	for i, w := range r.Config.Wrappings {
		info.VolumeKey = append(info.VolumeKey, surveyKey{CMK: w.KeyARN, KeyMaterialID: w.KeyMaterialID, Position: position(i),
			Branch: isBranch(w.Blob), State: s.state(ctx, w.KeyARN, w.KeyMaterialID)})
	}
	for _, c := range r.Classes {
		info.Records += c.Records
	}
	s.zones(ctx, r, scope)
	for _, z := range info.Zones {
		info.Files += z.Files
		info.Bytes += z.Bytes
	}
	return info, nil
}

func isBranch(blob []byte) bool {
	_, ok := keysource.BranchOf(blob)
	return ok
}

func position(i int) string {
	if i == 0 {
		return "primary"
	}
	return "additional"
}

// keys adds classes up by CMK, key material and position.
func (s *surveyor) keys(ctx context.Context, classes []survey.Class) []surveyKey {
	type name struct {
		arn, material, position string
		branch                  bool
	}
	sums := map[name]*surveyKey{}
	for _, c := range classes {
		for i, w := range c.Wrappings {
			n := name{w.KeyARN, w.KeyMaterialID, position(i), w.Branch}
			k := sums[n]
			if k == nil {
				k = &surveyKey{CMK: n.arn, KeyMaterialID: n.material, Position: n.position, Branch: n.branch, State: s.state(ctx, n.arn, n.material)}
				sums[n] = k
			}
			k.Records += c.Records
			k.Files += c.Files
			k.Bytes += c.Bytes
		}
	}
	list := []surveyKey{}
	for _, k := range sums {
		list = append(list, *k)
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if a.Position != b.Position {
			return a.Position > b.Position
		}
		if a.Records != b.Records {
			return a.Records > b.Records
		}
		return a.CMK+a.KeyMaterialID < b.CMK+b.KeyMaterialID
	})
	return list
}

// zones fills in the zones, and what is behind or out of its zone.
func (s *surveyor) zones(ctx context.Context, r *survey.Result, scope survey.Scope) {
	info := s.info
	tell := s.ks != nil
	var behind, out int64
	named := map[int]bool{} // classes that a zone has counted
	for _, z := range r.Zones {
		target := s.describe(ctx, z.Key)
		tell = tell && target.arn != ""
		zone := surveyZone{Path: z.Path, Key: z.Key, CMK: target.arn, Files: z.Files, Bytes: z.Bytes}
		for k, n := range z.Classes {
			named[k] = true
			w := r.Classes[k].Wrappings[0]
			switch {
			case target.arn == "":
			case w.KeyARN != target.arn:
				zone.OutOfZone += n.Files
			case target.current != "" && w.KeyMaterialID != target.current:
				zone.Behind += n.Files
			}
		}
		behind += zone.Behind + zone.OutOfZone
		out += zone.OutOfZone
		info.Zones = append(info.Zones, zone)
	}
	if scope == survey.TablesOnly { // all records are taken for those of the root's zone, unless there are others
		target := s.describe(ctx, r.Config.Key)
		for _, c := range r.Classes {
			w := c.Wrappings[0]
			if target.arn != w.KeyARN || target.current != "" && target.current != w.KeyMaterialID {
				behind += c.Records
			}
		}
		tell = tell && len(r.Config.Features) == 0
	}
	if tell {
		info.Behind = &behind
		if scope == survey.Everything {
			info.OutOfZone = &out
		}
	}
}

// write prints the survey for people.
func (info *surveyInfo) write(a *app) error {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	optional := func(n *int64) string {
		if n == nil {
			return "not known"
		}
		return number(*n)
	}
	fields := []string{"records", number(info.Records), "behind", optional(info.Behind)}
	if info.Spare != nil {
		fields = append(fields, "files", number(info.Files), "bytes", number(info.Bytes), "empty files", number(info.Empty),
			"out of zone", optional(info.OutOfZone), "spare records", number(*info.Spare))
	}
	for _, f := range []struct {
		name string
		n    int64
	}{{"without record", info.Missing}, {"damaged records", info.Damaged}, {"not readable", info.Unread}, {"branch keys", int64(info.BranchKeys)}} {
		if f.n > 0 {
			fields = append(fields, f.name, number(f.n))
		}
	}
	if err := writeFields(a.stdout, fields...); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	row := func(what string, k surveyKey) []string {
		if k.Branch {
			what += ", branch key"
		}
		return []string{what, k.CMK, shortMaterial(k.KeyMaterialID), k.State, number(k.Records), number(k.Files), number(k.Bytes)}
	}
	var rows [][]string
	for _, k := range info.Keys {
		rows = append(rows, row(k.Position, k))
	}
	for _, k := range info.VolumeKey {
		k.Records = 1
		rows = append(rows, row("volume key", k))
	}
	if err := writeTable(a.stdout, []string{"WRAPPING", "CMK", "MATERIAL", "STATE", "RECORDS", "FILES", "BYTES"}, rows); err != nil {
		return err
	}
	if len(info.Zones) > 1 {
		rows = nil
		for _, z := range info.Zones {
			path := z.Path
			if path == "" {
				path = "/"
			}
			rows = append(rows, []string{path, z.Key, number(z.Files), number(z.Bytes), number(z.Behind), number(z.OutOfZone)})
		}
		fmt.Fprintln(a.stdout)
		if err := writeTable(a.stdout, []string{"ZONE (STORED PATH)", "KEY", "FILES", "BYTES", "BEHIND", "OUT OF ZONE"}, rows); err != nil {
			return err
		}
	}
	for _, why := range info.Unknown {
		fmt.Fprintf(a.stderr, "kmsfs: warning: what is behind cannot be told: %s\n", oneLine(why))
	}
	for i, p := range info.Problems {
		if i == 20 {
			fmt.Fprintf(a.stderr, "kmsfs: warning: and %d more; --json has them\n", len(info.Problems)-i)
			break
		}
		fmt.Fprintf(a.stderr, "kmsfs: warning: %s\n", oneLine(p))
	}
	return nil
}

// shortMaterial is enough of a key material id to tell one from another.
func shortMaterial(id string) string { return id[:min(len(id), 12)] }
