package local

import (
	"encoding/hex"

	"kmsfs/keysource"
)

// cmk makes the CMK, taking its secrets from the front of secrets, and returns what is left of them.
func (kj keyJSON) cmk(arnPrefix string, secrets []byte) (*cmk, []byte, error) {
	id, ok := parseUUID(kj.ID)
	if !ok || kj.State == "" || kj.Origin == "" || kj.Manager == "" {
		return nil, nil, damaged("CMK %q", kj.ID)
	}
	k := &cmk{id: id, arn: arnPrefix + "key/" + id.String(), description: kj.Description, created: kj.Created,
		state: kj.State, origin: kj.Origin, manager: kj.Manager, deletion: kj.Deletion, policy: kj.Policy}
	all := kj.Materials
	if kj.Pending != nil {
		all = append(all[:len(all):len(all)], *kj.Pending)
	}
	for i, mj := range all {
		m, rest, err := mj.material(id, secrets)
		if err != nil {
			return nil, nil, err
		}
		secrets = rest
		if k.material(m.id[:]) != nil || m.missing && i == len(kj.Materials) {
			return nil, nil, damaged("key material of CMK %s", id)
		}
		if i == len(kj.Materials) {
			k.pending = m
		} else {
			k.materials = append(k.materials, m)
		}
	}
	if k.complete() == (kj.State == keysource.KeyStatePendingImport) && kj.State != keysource.KeyStatePendingDeletion {
		return nil, nil, damaged("CMK %s is %s with %d key materials", id, kj.State, len(kj.Materials))
	}
	return k, secrets, k.unmarshalAccess(kj)
}

// material makes the key material of the CMK, taking its secret from the front of secrets, and returns what is left.
func (mj materialJSON) material(cmk uuid, secrets []byte) (*material, []byte, error) {
	m := &material{origin: mj.Origin, rotation: mj.Rotation, since: mj.Since, description: mj.Description,
		validTo: mj.Expires, missing: mj.Missing}
	if m.missing {
		n, err := hex.Decode(m.id[:], []byte(mj.ID[:min(len(mj.ID), 2*materialIDSize)]))
		m.idText = hex.EncodeToString(m.id[:])
		if err != nil || n != materialIDSize || m.idText != mj.ID || m.origin != keysource.OriginExternal {
			return nil, nil, damaged("key material of CMK %s", cmk)
		}
		return m, secrets, nil
	}
	if len(secrets) < secretSize {
		return nil, nil, damaged("the body is cut short")
	}
	copy(m.secret[:], secrets)
	m.setID(cmk)
	if m.idText != mj.ID {
		return nil, nil, damaged("key material of CMK %s does not have its id", cmk)
	}
	return m, secrets[secretSize:], nil
}

// marshalAccess fills in who may do what with the CMK, and its schedule.
func (k *cmk) marshalAccess(kj *keyJSON) {
	for _, t := range k.tags {
		kj.Tags = append(kj.Tags, tagJSON{t.Key, t.Value})
	}
	for _, g := range k.grants {
		kj.Grants = append(kj.Grants, grantJSON{g.ID, g.Name, g.CreationDate, g.GranteePrincipal, g.RetiringPrincipal,
			g.IssuingAccount, g.Operations, g.ContextSubset, g.ContextEquals})
	}
	if k.rotation.period > 0 {
		kj.Rotation = &rotationJSON{k.rotation.period, k.rotation.next}
	}
}

// unmarshalAccess reads what marshalAccess wrote.
func (k *cmk) unmarshalAccess(kj keyJSON) error {
	for _, t := range kj.Tags {
		k.tags = append(k.tags, keysource.Tag{Key: t.Key, Value: t.Value})
	}
	for _, g := range kj.Grants {
		if g.ID == "" || g.Grantee == "" || len(g.Operations) == 0 {
			return damaged("grant %q of CMK %s", g.ID, k.id)
		}
		k.grants = append(k.grants, keysource.Grant{ID: g.ID, Name: g.Name, CreationDate: g.Created,
			GranteePrincipal: g.Grantee, RetiringPrincipal: g.Retiring, IssuingAccount: g.Issuer, Operations: g.Operations,
			ContextSubset: g.Subset, ContextEquals: g.Equals})
	}
	if r := kj.Rotation; r != nil {
		if r.Period < minRotationPeriod || r.Period > maxRotationPeriod || r.Next.IsZero() {
			return damaged("schedule of CMK %s", k.id)
		}
		k.rotation = schedule{r.Period, r.Next}
	}
	return nil
}
