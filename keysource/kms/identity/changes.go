package identity

import "slices"

// Change is something that an administrator changed, by the names of AWS IAM.
type Change struct {
	// Name is CreateUser, DeleteUser, AttachUserPolicy, DetachUserPolicy, the same of Role, CreateAccessKey,
	// DeleteAccessKey or UpdateAccessKey.
	Name string
	// Principal is the ARN.
	Principal string
	// Policy is the name of the policy that was attached or detached. One whose text was changed is both.
	Policy string
	// AccessKeyID is the access key that was made, deleted, enabled or disabled; Status is its new status.
	AccessKeyID, Status string
}

// changes are what leads from one content to another, in the order of the principals.
func changes(before, after *content, account string) []Change {
	var out []Change
	for i := range before.Principals {
		old := &before.Principals[i]
		if p := after.find(old.Kind, old.Name); p == nil || p.ID != old.ID {
			out = append(out, keyChanges(old, &Principal{}, account)...)
			out = append(out, Change{Name: "Delete" + old.Kind.title(), Principal: old.ARN(account)})
		}
	}
	for i := range after.Principals {
		p := &after.Principals[i]
		old := before.find(p.Kind, p.Name)
		if old == nil || old.ID != p.ID {
			out = append(out, Change{Name: "Create" + p.Kind.title(), Principal: p.ARN(account)})
			old = &Principal{Kind: p.Kind, Name: p.Name}
		}
		out = append(out, policyChanges(old, p, account)...)
		out = append(out, keyChanges(old, p, account)...)
	}
	return out
}

// policyChanges are the policies that were detached and attached.
func policyChanges(old, p *Principal, account string) []Change {
	var out []Change
	for _, o := range old.Policies {
		if !slices.Contains(p.Policies, o) {
			out = append(out, Change{Name: "Detach" + p.Kind.title() + "Policy", Principal: p.ARN(account), Policy: o.Name})
		}
	}
	for _, n := range p.Policies {
		if !slices.Contains(old.Policies, n) {
			out = append(out, Change{Name: "Attach" + p.Kind.title() + "Policy", Principal: p.ARN(account), Policy: n.Name})
		}
	}
	return out
}

// keyChanges are the access keys that were deleted, made, enabled and disabled. Either of the principals may be empty.
func keyChanges(old, p *Principal, account string) []Change {
	var out []Change
	for i := range old.AccessKeys {
		k := &old.AccessKeys[i]
		now := p.key(k.ID)
		switch {
		case now == nil:
			out = append(out, Change{Name: "DeleteAccessKey", Principal: old.ARN(account), AccessKeyID: k.ID})
		case now.Disabled != k.Disabled:
			out = append(out, Change{Name: "UpdateAccessKey", Principal: p.ARN(account), AccessKeyID: k.ID, Status: now.Status()})
		}
	}
	for i := range p.AccessKeys {
		if k := &p.AccessKeys[i]; old.key(k.ID) == nil {
			out = append(out, Change{Name: "CreateAccessKey", Principal: p.ARN(account), AccessKeyID: k.ID, Status: k.Status()})
		}
	}
	return out
}

// title is the kind as it stands in the names of AWS IAM.
func (k Kind) title() string {
	if k == Role {
		return "Role"
	}
	return "User"
}
