package policy

import "strings"

// Parse reads a policy. What it does not understand to the letter it refuses with MalformedPolicyDocumentException.
func Parse(text string, kind Kind) (*Document, error) {
	if len(text) > MaxSize {
		return nil, malformed("The policy is longer than %d bytes.", MaxSize)
	}
	v, err := parseJSON(text)
	if err != nil {
		return nil, malformed("Syntax errors in policy: %v.", err)
	}
	top, ok := v.(object)
	if !ok {
		return nil, malformed("Syntax errors in policy: it is not a JSON object.")
	}
	d := &Document{text: text, kind: kind}
	var statements []any
	for _, m := range top {
		switch m.name {
		case "Version":
			if m.value != "2012-10-17" && m.value != "2008-10-17" {
				return nil, malformed("The policy must contain a valid version string: 2012-10-17.")
			}
		case "Id":
			if _, ok := m.value.(string); !ok {
				return nil, malformed("Id is not a string.")
			}
		case "Statement":
			if statements, ok = m.value.([]any); !ok {
				statements = []any{m.value}
			}
		default:
			return nil, malformed("Unknown element %q in the policy.", clip(m.name))
		}
	}
	if len(statements) == 0 {
		return nil, malformed("The policy has no statement.")
	}
	sids := map[string]bool{}
	for _, v := range statements {
		obj, ok := v.(object)
		if !ok {
			return nil, malformed("A statement is not an object.")
		}
		s, err := parseStatement(obj, kind)
		if err != nil {
			return nil, err
		}
		if s.sid != "" && sids[s.sid] {
			return nil, malformed("Two statements have the Sid %q.", clip(s.sid))
		}
		sids[s.sid] = true
		d.statements = append(d.statements, s)
	}
	return d, nil
}

// parseStatement reads one statement.
func parseStatement(obj object, kind Kind) (statement, error) {
	var s statement
	seen := map[string]bool{}
	for _, m := range obj {
		// Principal and NotPrincipal, and the other pairs, exclude each other.
		once := strings.TrimPrefix(m.name, "Not")
		if seen[once] {
			return s, malformed("A statement has %q and %q.", clip(once), "Not"+clip(once))
		}
		seen[once] = true
		var err error
		ok := true
		switch m.name {
		case "Sid":
			s.sid, ok = m.value.(string)
		case "Effect":
			text, _ := m.value.(string)
			s.effect, ok = map[string]effect{"Deny": deny}[text], text == "Allow" || text == "Deny"
		case "Principal", "NotPrincipal":
			s.principals, err = parsePrincipals(m.value, m.name == "NotPrincipal")
		case "Action", "NotAction":
			s.actions, err = parseActions(m.value, m.name == "NotAction")
		case "Resource", "NotResource":
			s.resources, err = parseResources(m.value, m.name == "NotResource")
		case "Condition":
			s.conditions, err = parseConditions(m.value)
		default:
			return s, malformed("Unknown element %q in a statement.", clip(m.name))
		}
		if err != nil {
			return s, err
		}
		if !ok {
			return s, malformed("The value of %s in a statement is not valid.", m.name)
		}
	}
	for _, name := range []string{"Effect", "Action", "Resource"} {
		if !seen[name] {
			return s, malformed("A statement has no %s.", name)
		}
	}
	switch {
	case kind == KeyPolicy && s.principals == nil:
		return s, malformed("A statement has no Principal.")
	case kind == IdentityPolicy && s.principals != nil:
		return s, malformed("A statement of an identity policy has a Principal.")
	case s.principals != nil && s.principals.not && s.effect == allow:
		return s, malformed("NotPrincipal with Effect Allow would allow everybody else, and is not supported.")
	}
	return s, nil
}

// parseActions reads Action or NotAction.
func parseActions(v any, not bool) (patterns, error) {
	list, ok := texts(v)
	if !ok {
		return patterns{}, malformed("An Action is not a string.")
	}
	for _, a := range list {
		service, name, ok := strings.Cut(a, ":")
		if a != "*" && (!ok || service == "" || name == "") || strings.ContainsAny(a, "${} ") {
			return patterns{}, malformed("Policy statement contains an invalid action: %q.", clip(a))
		}
	}
	return patterns{list: list, not: not, letters: anyCase}, nil
}

// parseResources reads Resource or NotResource.
func parseResources(v any, not bool) (patterns, error) {
	list, ok := texts(v)
	if !ok {
		return patterns{}, malformed("A Resource is not a string.")
	}
	for _, r := range list {
		if !strings.HasPrefix(r, "*") && strings.Count(r, ":") < 5 && !strings.HasSuffix(r, "*") || hasVariable(r) {
			return patterns{}, malformed("Policy statement contains an invalid resource: %q.", clip(r))
		}
	}
	return patterns{list: list, not: not}, nil
}

// hasVariable tells whether s holds a policy variable, which is not supported: taken literally it would match nothing,
// and a Deny would not deny.
func hasVariable(s string) bool { return strings.Contains(s, "${") }

// clip bounds text in a message.
func clip(s string) string {
	const limit = 128
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
