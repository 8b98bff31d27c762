package local

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"time"

	"kmsfs/keysource"
)

// The body of the store file in clear: the length of a JSON document, the document, then the secrets of all key
// material in the order in which the document names them. The secrets stay out of the JSON so that encoding/json,
// which keeps its buffers, never sees them.

// bodyJSON is the document.
type bodyJSON struct {
	Account string      `json:"account"`
	Region  string      `json:"region"`
	Keys    []keyJSON   `json:"keys"`
	Aliases []aliasJSON `json:"aliases"`
}

// keyJSON is a CMK. Members that came after the first release are left out where they say nothing, so that a store
// that does not use them stays readable for who does not know them.
type keyJSON struct {
	ID          string               `json:"id"`
	Description string               `json:"description,omitempty"`
	Created     time.Time            `json:"created"`
	State       keysource.KeyState   `json:"state"`
	Origin      keysource.KeyOrigin  `json:"origin"`
	Manager     keysource.KeyManager `json:"manager"`
	Deletion    time.Time            `json:"deletion,omitzero"`
	Materials   []materialJSON       `json:"materials"`
	Pending     *materialJSON        `json:"pending,omitempty"`
	Policy      string               `json:"policy,omitempty"`
	Tags        []tagJSON            `json:"tags,omitempty"`
	Grants      []grantJSON          `json:"grants,omitempty"`
	Rotation    *rotationJSON        `json:"rotation,omitempty"`
}

// materialJSON is a key material without its secret.
type materialJSON struct {
	ID          string                 `json:"id"`
	Origin      keysource.KeyOrigin    `json:"origin"`
	Rotation    keysource.RotationType `json:"rotation,omitempty"`
	Since       time.Time              `json:"since"`
	Description string                 `json:"description,omitempty"`
	Expires     time.Time              `json:"expires,omitzero"`
	Missing     bool                   `json:"missing,omitempty"`
}

// tagJSON is a tag.
type tagJSON struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// grantJSON is a grant.
type grantJSON struct {
	ID         string            `json:"id"`
	Name       string            `json:"name,omitempty"`
	Created    time.Time         `json:"created"`
	Grantee    string            `json:"grantee"`
	Retiring   string            `json:"retiring,omitempty"`
	Issuer     string            `json:"issuer,omitempty"`
	Operations []string          `json:"operations"`
	Subset     keysource.Context `json:"contextSubset,omitzero"`
	Equals     keysource.Context `json:"contextEquals,omitzero"`
}

// rotationJSON is the schedule of automatic rotation.
type rotationJSON struct {
	Period int       `json:"period"`
	Next   time.Time `json:"next"`
}

// aliasJSON is an alias.
type aliasJSON struct {
	Name    string    `json:"name"`
	Key     string    `json:"key"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// marshalBody returns the body of sn in clear, in order, so that equal stores have equal bodies. The caller wipes it.
func marshalBody(sn *snapshot) ([]byte, error) {
	doc := bodyJSON{Account: sn.account, Region: sn.region, Keys: []keyJSON{}, Aliases: []aliasJSON{}}
	for _, k := range sn.sortedKeys() {
		kj := keyJSON{ID: k.id.String(), Description: k.description, Created: k.created, State: k.state,
			Origin: k.origin, Manager: k.manager, Deletion: k.deletion, Materials: []materialJSON{}, Policy: k.policy}
		for _, m := range k.materials {
			kj.Materials = append(kj.Materials, m.json())
		}
		if k.pending != nil {
			p := k.pending.json()
			kj.Pending = &p
		}
		k.marshalAccess(&kj)
		doc.Keys = append(doc.Keys, kj)
	}
	for _, a := range sn.sortedAliases() {
		doc.Aliases = append(doc.Aliases, aliasJSON{a.name, a.target.String(), a.created, a.updated})
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	materials := slices.DeleteFunc(sn.materials(), func(m *material) bool { return m.missing })
	// One allocation, so that no half-filled copy of secrets is left behind by a growing slice.
	b := make([]byte, 0, 4+len(text)+len(materials)*secretSize)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	for _, m := range materials {
		b = append(b, m.secret[:]...)
	}
	return b, nil
}

// json describes m without its secret.
func (m *material) json() materialJSON {
	return materialJSON{m.idText, m.origin, m.rotation, m.since, m.description, m.validTo, m.missing}
}

// unmarshalBody reads what marshalBody wrote. It was authenticated, so that an error means a defect or a store of a
// later kmsfs; it is refused all the same.
func unmarshalBody(b []byte) (*snapshot, error) {
	if len(b) < 4 {
		return nil, damaged("the body is cut short")
	}
	size := uint64(binary.BigEndian.Uint32(b))
	if size > uint64(len(b)-4) {
		return nil, damaged("the body is cut short")
	}
	dec := json.NewDecoder(bytes.NewReader(b[4 : 4+size]))
	dec.DisallowUnknownFields() // what is not understood would be lost at the next change
	var doc bodyJSON
	if err := dec.Decode(&doc); err != nil {
		return nil, damaged("the body: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, damaged("the body has text after its end")
	}
	if err := validateNames(doc.Account, doc.Region); err != nil {
		return nil, damaged("the body: %v", err)
	}
	sn := &snapshot{account: doc.Account, region: doc.Region, keys: map[uuid]*cmk{}, aliases: map[string]*alias{}}
	secrets := b[4+size:]
	for _, kj := range doc.Keys {
		k, rest, err := kj.cmk(sn.arnPrefix(), secrets)
		if err != nil {
			return nil, err
		}
		if sn.keys[k.id] != nil {
			return nil, damaged("CMK %s stands twice", k.id)
		}
		sn.keys[k.id], secrets = k, rest
	}
	if len(secrets) != 0 {
		return nil, damaged("the body has bytes after its end")
	}
	for _, aj := range doc.Aliases {
		id, ok := parseUUID(aj.Key)
		if !ok || sn.keys[id] == nil || !keysource.ValidAliasName(aj.Name) || sn.aliases[aj.Name] != nil {
			return nil, damaged("alias %q", aj.Name)
		}
		sn.aliases[aj.Name] = &alias{aj.Name, id, aj.Created, aj.Updated}
	}
	sn.index()
	return sn, nil
}
