package local

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kmsfs/keysource"
)

// materialIDSize is the size of a key material id in bytes.
const materialIDSize = 32

// material is one version of the key material of a CMK. It does not change once it is in a snapshot, but for being
// wiped when no snapshot has it any more.
type material struct {
	id          [materialIDSize]byte
	idText      string // id in hexadecimal digits
	secret      [secretSize]byte
	origin      keysource.KeyOrigin
	rotation    keysource.RotationType
	since       time.Time // when it became current; while pending, when it was imported
	description string
	validTo     time.Time // when it expires; zero is never
	missing     bool      // imported, and expired or deleted since: the secret is zeros, and waits to be imported again
}

// expired tells whether the material is to be deleted by now.
func (m *material) expired(now time.Time) bool {
	return !m.missing && !m.validTo.IsZero() && !now.Before(m.validTo)
}

// materialID is the id of key material in the CMK id: a hash of both, so that an id fixes the material, imported
// material can be recognised, and the same material in two CMKs does not show.
func materialID(id uuid, secret *[secretSize]byte) [materialIDSize]byte {
	return derive(contextMaterialID, id[:], secret[:])
}

// setID fills in the id of the key material of the CMK.
func (m *material) setID(cmk uuid) {
	m.id = materialID(cmk, &m.secret)
	m.idText = hex.EncodeToString(m.id[:])
}

// cmk is a CMK. It does not change once it is in a snapshot; a change makes a copy.
type cmk struct {
	id          uuid
	arn         string
	description string
	created     time.Time
	state       keysource.KeyState
	origin      keysource.KeyOrigin
	manager     keysource.KeyManager
	deletion    time.Time   // in PendingDeletion
	materials   []*material // oldest first; the last one is current
	pending     *material   // imported, for the next rotation; or nil

	policy   string            // empty is the default
	tags     []keysource.Tag   // by key
	grants   []keysource.Grant // by id
	rotation schedule
}

// current is the material that wraps new keys. The CMK has material: see usable.
func (k *cmk) current() *material { return k.materials[len(k.materials)-1] }

// material finds the material that a wrapped key names, or nil.
func (k *cmk) material(id []byte) *material {
	for _, m := range slices.Backward(k.materials) {
		if string(m.id[:]) == string(id) {
			return m
		}
	}
	return nil
}

// complete tells whether the CMK has key material, and all that it ever had.
func (k *cmk) complete() bool {
	return len(k.materials) > 0 && !slices.ContainsFunc(k.materials, func(m *material) bool { return m.missing })
}

// stateAt is the state of the CMK. Material that has expired is gone also while the store cannot be written.
func (k *cmk) stateAt(now time.Time) keysource.KeyState {
	if k.origin == keysource.OriginExternal && k.state != keysource.KeyStatePendingDeletion &&
		slices.ContainsFunc(k.materials, func(m *material) bool { return m.expired(now) }) {
		return keysource.KeyStatePendingImport
	}
	return k.state
}

// validTo is when the first of its materials expires, or zero.
func (k *cmk) validTo() time.Time {
	var first time.Time
	for _, m := range k.materials {
		if !m.missing && !m.validTo.IsZero() && (first.IsZero() || m.validTo.Before(first)) {
			first = m.validTo
		}
	}
	return first
}

// metadata describes the CMK.
func (k *cmk) metadata(account string, now time.Time) keysource.KeyMetadata {
	state := k.stateAt(now)
	md := keysource.KeyMetadata{
		ARN: k.arn, KeyID: k.arn[len(k.arn)-uuidTextSize:], AccountID: account, Description: k.description,
		CreationDate: k.created, KeyState: state, Enabled: state == keysource.KeyStateEnabled, Origin: k.origin,
		KeyManager: k.manager, DeletionDate: k.deletion,
	}
	if k.origin == keysource.OriginExternal {
		md.ValidTo = k.validTo()
	}
	if len(k.materials) > 0 {
		md.CurrentKeyMaterialID = k.current().idText
	}
	return md
}

// alias is a name for a CMK. It does not change once it is in a snapshot.
type alias struct {
	name             string
	target           uuid
	created, updated time.Time
}

// snapshot is the whole store at one generation. It does not change once it is published; a change is made to a
// clone.
type snapshot struct {
	header          header // of the file that holds it
	account, region string
	keys            map[uuid]*cmk
	aliases         map[string]*alias
	refs            map[string]*cmk   // by id, ARN, alias and alias ARN: every way to name a CMK
	names           map[uuid][]string // the aliases of each CMK, by name
	due             time.Time         // when the next thing happens by itself; zero is never
}

// clone copies what a change may touch. CMKs and aliases are shared: replace them, never write to them.
func (sn *snapshot) clone() *snapshot {
	next := *sn
	next.keys = maps.Clone(sn.keys)
	next.aliases = maps.Clone(sn.aliases)
	next.refs, next.names = nil, nil
	return &next
}

// arnPrefix begins every ARN of the store.
func (sn *snapshot) arnPrefix() string { return "arn:aws:kms:" + sn.region + ":" + sn.account + ":" }

// index fills refs, names and due.
func (sn *snapshot) index() {
	sn.refs = make(map[string]*cmk, 2*len(sn.keys)+2*len(sn.aliases))
	sn.names = make(map[uuid][]string, len(sn.aliases))
	sn.due = time.Time{}
	for _, k := range sn.keys {
		sn.refs[k.id.String()] = k
		sn.refs[k.arn] = k
		if due := k.due(); !due.IsZero() && (sn.due.IsZero() || due.Before(sn.due)) {
			sn.due = due
		}
	}
	for _, a := range sn.sortedAliases() {
		k := sn.keys[a.target]
		sn.refs[a.name] = k
		sn.refs[sn.arnPrefix()+a.name] = k
		sn.names[a.target] = append(sn.names[a.target], a.name)
	}
}

// find returns the CMK that ref names, or AWS's error.
func (sn *snapshot) find(op string, ref keysource.KeyRef) (*cmk, error) {
	if k := sn.refs[string(ref)]; k != nil {
		return k, nil
	}
	p, err := ref.Parse()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", op, err)
	case p.Alias != "":
		return nil, fail(op, string(ref), keysource.CodeNotFound, "Alias %s is not found.", sn.arnPrefix()+p.Alias)
	case p.Account != "":
		return nil, fail(op, string(ref), keysource.CodeNotFound, "Key '%s' does not exist", ref)
	}
	return nil, fail(op, string(ref), keysource.CodeNotFound, "Key '%skey/%s' does not exist", sn.arnPrefix(), p.KeyID)
}

// change replaces the CMK k by a copy that f has edited, unless f fails.
func (sn *snapshot) change(k *cmk, f func(k *cmk) error) error {
	c := *k
	c.materials, c.tags, c.grants = slices.Clone(k.materials), slices.Clone(k.tags), slices.Clone(k.grants)
	if err := f(&c); err != nil {
		return err
	}
	sn.keys[c.id] = &c
	return nil
}

// sortedKeys returns the CMKs by creation and id.
func (sn *snapshot) sortedKeys() []*cmk {
	return slices.SortedFunc(maps.Values(sn.keys), func(a, b *cmk) int {
		if c := a.created.Compare(b.created); c != 0 {
			return c
		}
		return slices.Compare(a.id[:], b.id[:])
	})
}

// materials yields all key material, in the order of sortedKeys.
func (sn *snapshot) materials() []*material {
	var all []*material
	for _, k := range sn.sortedKeys() {
		all = append(all, k.materials...)
		if k.pending != nil {
			all = append(all, k.pending)
		}
	}
	return all
}

// wipeUnless wipes the key material that next does not have too. Nobody may be reading sn.
func (sn *snapshot) wipeUnless(next *snapshot) {
	kept := make(map[*material]struct{})
	if next != nil {
		for _, m := range next.materials() {
			kept[m] = struct{}{}
		}
	}
	for _, m := range sn.materials() {
		if _, ok := kept[m]; !ok {
			clear(m.secret[:])
		}
	}
}

// sortedAliases returns the aliases by name.
func (sn *snapshot) sortedAliases() []*alias {
	return slices.SortedFunc(maps.Values(sn.aliases), func(a, b *alias) int { return strings.Compare(a.name, b.name) })
}
