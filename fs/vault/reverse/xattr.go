package reverse

import (
	"bytes"
	"errors"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Attributes that stand as they are, and the one of others than user.* that is sealed.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"
	userSpace  = "user."
)

// attributes returns the value of an attribute of name in d, or with attr "" the list of them, NUL-terminated. An empty
// name is d itself.
func attributes(d backing.Dir, name, attr string) ([]byte, error) {
	get := func(buf []byte) (int, error) {
		switch {
		case attr == "" && name == "":
			return d.Listxattr(buf)
		case attr == "":
			return d.ListxattrAt(name, buf)
		case name == "":
			return d.Getxattr(attr, buf)
		}
		return d.GetxattrAt(name, attr, buf)
	}
	for buf := make([]byte, 512); ; buf = make([]byte, 16*len(buf)) {
		n, err := get(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, syscall.ERANGE) || len(buf) > 1<<20 {
			return nil, err
		}
	}
}

// names returns the attributes of name in d that pass a test.
func names(d backing.Dir, name string, pass func(attr string) bool) ([]string, error) {
	list, err := attributes(d, name, "")
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, nil
	}
	var out []string
	for _, attr := range bytes.Split(list, []byte{0}) {
		if pass(string(attr)) {
			out = append(out, string(attr))
		}
	}
	return out, err
}

// sealable returns the attributes of name in d that are sealed.
func sealable(d backing.Dir, name string) ([]string, error) { return names(d, name, isSealed) }

func isSealed(attr string) bool {
	return strings.HasPrefix(attr, userSpace) && len(attr) > len(userSpace) || attr == capability
}

func isACL(attr string) bool { return attr == aclAccess || attr == aclDefault }

// owned calls f with what the attributes of n are reached by and the id that they are bound to. Only directories and regular
// files have some.
func (v *View) owned(n *Node, f func(d backing.Dir, name string, owner [16]byte) error) error {
	switch {
	case n.role != plain || n.kind != sIFDIR && n.kind != sIFREG:
		return nil
	case n.kind == sIFDIR:
		d, err := v.dirs.get(n)
		if err != nil {
			return err
		}
		defer d.put()
		return f(d, "", v.dirID(n))
	}
	d, err := v.dirs.get(n.parent)
	if err != nil {
		return err
	}
	defer d.put()
	st, err := d.StatAt(n.name)
	if err != nil {
		return err
	}
	id, err := v.fileID(d, n.name, n.path, n.parent.top, &st)
	if err != nil {
		return err
	}
	return f(d, n.name, id)
}

// Listxattr returns the names of n's extended attributes in the view.
func (v *View) Listxattr(n *Node) (list []string, err error) {
	err = v.owned(n, func(d backing.Dir, name string, owner [16]byte) error {
		found, err := names(d, name, func(attr string) bool { return isSealed(attr) || isACL(attr) })
		for _, attr := range found {
			if isSealed(attr) {
				attr = v.vk.XattrName(owner, attr)
			}
			list = append(list, attr)
		}
		return err
	})
	return list, err
}

// Getxattr returns the value of an extended attribute; ENODATA where there is none.
func (v *View) Getxattr(n *Node, attr string) (value []byte, err error) {
	found := false
	err = v.owned(n, func(d backing.Dir, name string, owner [16]byte) error {
		if isACL(attr) {
			value, err = attributes(d, name, attr)
			found = true
			return err
		}
		if !strings.HasPrefix(attr, envelope.XattrPrefix) {
			return nil
		}
		all, err := sealable(d, name)
		if err != nil {
			return err
		}
		for _, is := range all {
			if v.vk.XattrName(owner, is) != attr {
				continue
			}
			plainValue, err := attributes(d, name, is)
			if err != nil {
				return err
			}
			found = true
			value, err = v.vk.SealXattr(owner, is, plainValue)
			return err
		}
		return nil
	})
	if err == nil && !found {
		err = syscall.ENODATA
	}
	return value, err
}
