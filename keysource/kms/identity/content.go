package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"kmsfs/keysource/local"
)

// content is the document: all principals.
type content struct {
	Principals []Principal `json:"principals"`
}

// parseContent reads the document. Unknown fields are refused: they would be lost at the next change.
func parseContent(b []byte) (*content, error) {
	c := &content{}
	if len(b) == 0 {
		return c, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("users: %w: %w", local.ErrDamaged, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("users: %w: more than one document", local.ErrDamaged)
	}
	return c, c.validate()
}

// validate refuses what would make a lookup ambiguous.
func (c *content) validate() error {
	names, ids := map[string]bool{}, map[string]bool{}
	for i := range c.Principals {
		p := &c.Principals[i]
		name := string(p.Kind) + "/" + p.Name
		if p.Kind != User && p.Kind != Role || !nameForm.MatchString(p.Name) || names[name] {
			return fmt.Errorf("users: %w: principal %q", local.ErrDamaged, name)
		}
		names[name] = true
		for j := range p.AccessKeys {
			k := &p.AccessKeys[j]
			if ids[k.ID] || k.ID == "" || k.Secret == "" {
				return fmt.Errorf("users: %w: access key %q", local.ErrDamaged, k.ID)
			}
			ids[k.ID] = true
		}
	}
	return nil
}

// find returns a principal, or nil.
func (c *content) find(kind Kind, name string) *Principal {
	i := slices.IndexFunc(c.Principals, func(p Principal) bool { return p.Kind == kind && p.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Principals[i]
}
