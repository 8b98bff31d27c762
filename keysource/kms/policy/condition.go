package policy

import (
	"slices"
	"strings"
)

// quantifier says how a condition reads a key of several values.
type quantifier int

// The quantifiers.
const (
	single       quantifier = iota // no qualifier: the key has one value
	forAllValues                   // every value of the request matches
	forAnyValue                    // at least one value of the request matches
)

// condition is one operator on one key. All conditions of a statement must hold.
type condition struct {
	quantifier quantifier
	operator   operator
	ifExists   bool
	key        string
	values     []string
}

// parseConditions reads the Condition of a statement.
func parseConditions(v any) ([]condition, error) {
	obj, ok := v.(object)
	if !ok {
		return nil, malformed("A Condition is not an object.")
	}
	var all []condition
	for _, m := range obj {
		c, err := parseOperator(m.name)
		if err != nil {
			return nil, err
		}
		keys, ok := m.value.(object)
		if !ok || len(keys) == 0 {
			return nil, malformed("The condition %s has no key.", clip(m.name))
		}
		for _, k := range keys {
			c := c
			if err := c.parseKey(k); err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// parseOperator reads the name of an operator with its qualifiers.
func parseOperator(name string) (condition, error) {
	var c condition
	rest := name
	if after, ok := strings.CutPrefix(rest, "ForAllValues:"); ok {
		c.quantifier, rest = forAllValues, after
	} else if after, ok := strings.CutPrefix(rest, "ForAnyValue:"); ok {
		c.quantifier, rest = forAnyValue, after
	}
	rest, c.ifExists = strings.CutSuffix(rest, "IfExists")
	op, ok := operators[rest]
	if !ok || op.compare == nil && (c.ifExists || c.quantifier != single) {
		return c, malformed("The condition operator %q is not supported.", clip(name))
	}
	c.operator = op
	return c, nil
}

// parseKey reads a key and its values.
func (c *condition) parseKey(m member) error {
	key, kind, ok := conditionKey(m.name)
	if !ok {
		return malformed("The condition key %q is not supported.", clip(m.name))
	}
	c.key = key
	values, ok := scalars(m.value)
	if !ok || c.operator.compare == nil && len(values) != 1 {
		return malformed("The condition key %q has not the values that its operator takes.", clip(m.name))
	}
	switch {
	case c.operator.compare == nil: // Null
	case kind == manyValues && c.quantifier == single:
		return malformed("The condition key %q has several values: use ForAllValues or ForAnyValue.", clip(m.name))
	case kind == oneValue && c.quantifier != single:
		return malformed("The condition key %q has one value: ForAllValues and ForAnyValue are not for it.", clip(m.name))
	}
	for _, v := range values {
		if hasVariable(v) {
			return malformed("Policy variables are not supported: %q.", clip(v))
		}
		if c.operator.valid != nil && !c.operator.valid(v) || c.operator.form != nil && !c.operator.form(v) {
			return malformed("%q is not a value for the condition operator on %s.", clip(v), clip(m.name))
		}
	}
	c.values = values
	return nil
}

// holds tells whether the condition is true of the request. What cannot be evaluated makes an Allow not apply and a
// Deny apply.
func (c *condition) holds(r *Request, e effect) bool {
	got := r.lookup(c.key)
	if c.operator.compare == nil { // Null
		want := c.values[0] == "true"
		return want == (len(got) == 0)
	}
	if got == nil && c.ifExists {
		return true
	}
	switch c.quantifier {
	case forAllValues:
		return !slices.ContainsFunc(got, func(v string) bool { return !c.matches(v, e) })
	case forAnyValue:
		return slices.ContainsFunc(got, func(v string) bool { return c.matches(v, e) })
	}
	if len(got) == 0 {
		return c.operator.negated // a value that is not there is not equal to anything
	}
	// Names of an encryption context that differ only in case are one key here: an Allow wants all of its values to
	// match, a Deny any.
	if e == deny {
		return slices.ContainsFunc(got, func(v string) bool { return c.matches(v, e) })
	}
	return !slices.ContainsFunc(got, func(v string) bool { return !c.matches(v, e) })
}

// matches compares one value of the request with the values of the policy: one of them, or for a negated operator none.
func (c *condition) matches(got string, e effect) bool {
	if c.operator.valid != nil && !c.operator.valid(got) {
		return e == deny
	}
	return slices.ContainsFunc(c.values, func(want string) bool { return c.operator.compare(want, got) }) != c.operator.negated
}
