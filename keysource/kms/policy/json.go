package policy

import (
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a policy may be nested: a list of values in a condition of a statement in the list of them.
const maxDepth = 8

// member is one name and value of a JSON object.
type member struct {
	name  string
	value any // string, bool, json.Number, nil, []any or object
}

// object is a JSON object in its order. encoding/json alone would let the last of two equal names win, and read
// "effect" as "Effect": readings in which two programs see two policies in one text.
type object []member

// errDuplicate is for an object with a name twice.
var errDuplicate = errors.New("a name stands twice in one object")

// errDepth is for text that is nested deeper than any policy.
var errDepth = errors.New("nested too deep")

// parseJSON reads text as one JSON value.
func parseJSON(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the end")
	}
	return v, nil
}

// parseValue reads the next value of dec.
func parseValue(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth >= maxDepth {
		return nil, errDepth
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	obj := object{}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok || seen[name] {
			return nil, errDuplicate
		}
		seen[name] = true
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		obj = append(obj, member{name, v})
	}
	_, err = dec.Token()
	return obj, err
}

// texts reads a string or a list of strings, at least one.
func texts(v any) ([]string, bool) {
	if s, ok := v.(string); ok {
		return []string{s}, true
	}
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, false
	}
	var all []string
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, false
		}
		all = append(all, s)
	}
	return all, true
}

// scalars reads the values of a condition: a string, number or truth value, or a list of them.
func scalars(v any) ([]string, bool) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	if len(list) == 0 {
		return nil, false
	}
	var all []string
	for _, e := range list {
		switch e := e.(type) {
		case string:
			all = append(all, e)
		case json.Number:
			all = append(all, e.String())
		case bool:
			all = append(all, strconv.FormatBool(e))
		default:
			return nil, false
		}
	}
	return all, true
}
