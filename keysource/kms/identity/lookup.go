package identity

import (
	"log/slog"

	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/policy"
	"kmsfs/keysource/local"
)

// Identity is who signs with an access key. It is shared and must not be changed.
type Identity struct {
	// Caller is the principal, with its policies and the access key.
	Caller kms.Caller
	// Secret is the secret access key.
	Secret Secret
}

// state is what was read last.
type state struct {
	revision local.Revision
	byKey    map[string]*Identity // of the access keys that are enabled
	content  *content
}

// Lookup returns who signs with an access key; false where there is no such key or it is disabled.
func (d *Directory) Lookup(accessKeyID string) (*Identity, bool) {
	d.refresh()
	id, ok := d.state.Load().byKey[accessKeyID]
	return id, ok
}

// Empty tells whether there is no access key that may sign.
func (d *Directory) Empty() bool {
	d.refresh()
	return len(d.state.Load().byKey) == 0
}

// refresh looks at the file if it is time to. When that fails the directory goes on with what it has.
func (d *Directory) refresh() {
	now := int64(d.cfg.Clock.Now().Sub(d.start))
	next := d.next.Load()
	if now < next || !d.next.CompareAndSwap(next, now+int64(max(d.cfg.CheckInterval, 0))) {
		return
	}
	if err := d.reload(); err != nil {
		d.cfg.Logger.Warn("users cannot be read again, using what was read before", slog.String("path", d.doc.Path()),
			slog.Any("error", err))
	}
}

// reload takes over the file if it is not the one in memory.
func (d *Directory) reload() error {
	d.reading.Lock()
	defer d.reading.Unlock()
	old := d.state.Load()
	b, now, err := d.doc.Read(old.revision)
	if err != nil || now == old.revision {
		return err
	}
	defer clear(b)
	c, err := parseContent(b)
	if err != nil {
		return err
	}
	next := &state{revision: now, byKey: map[string]*Identity{}, content: c}
	for i := range c.Principals {
		p := &c.Principals[i]
		caller := kms.Caller{ARN: p.ARN(d.account), AccountID: d.account, PrincipalID: p.ID}
		if p.Kind == User {
			caller.UserName = p.Name
		}
		if caller.Policies, err = parsePolicies(p.Policies); err != nil {
			// Of another version of kmsfs: what it would deny is not known, so nothing is allowed.
			d.cfg.Logger.Error("a policy cannot be read: its principal is shut out", slog.String("principal", caller.ARN), slog.Any("error", err))
			continue
		}
		for _, k := range p.AccessKeys {
			if !k.Disabled {
				caller.AccessKeyID = k.ID
				next.byKey[k.ID] = &Identity{caller, k.Secret}
			}
		}
	}
	d.state.Store(next)
	if d.cfg.Changed != nil && old.content != nil {
		d.cfg.Changed(changes(old.content, c, d.account))
	}
	return nil
}

// parsePolicies reads the policies of a principal.
func parsePolicies(policies []Policy) ([]*policy.Document, error) {
	var out []*policy.Document
	for _, p := range policies {
		d, err := p.parse()
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// parse reads a policy: its document, or the ready-made one of its name.
func (p Policy) parse() (*policy.Document, error) {
	text := p.Document
	if text == "" {
		role := policy.Role(p.Name)
		if !role.Valid() {
			return nil, errNoPolicy(p.Name)
		}
		text = role.Identity()
	}
	return policy.Parse(text, policy.IdentityPolicy)
}
