package mirror

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
)

// Ignore is a list of patterns in the syntax of gitignore(5), from the root of the tree. A nil Ignore matches nothing.
type Ignore struct{ rules []rule }

// rule is one pattern.
type rule struct {
	re      *regexp.Regexp
	include bool // a pattern with '!'
	dirs    bool // of directories alone
}

// ParseIgnore reads patterns, one a line.
func ParseIgnore(r io.Reader) (*Ignore, error) {
	g := &Ignore{}
	s := bufio.NewScanner(r)
	for line := 1; s.Scan(); line++ {
		if err := g.Add(s.Text()); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	return g, s.Err()
}

// Add adds a pattern; it counts more than those before it. Empty lines and comments add nothing.
func (g *Ignore) Add(pattern string) error {
	p := strings.TrimSuffix(pattern, "\r")
	for strings.HasSuffix(p, " ") && !strings.HasSuffix(p, `\ `) {
		p = strings.TrimSuffix(p, " ")
	}
	if p == "" || p[0] == '#' {
		return nil
	}
	var r rule
	if p[0] == '!' {
		r.include, p = true, p[1:]
	}
	if strings.HasSuffix(p, "/") {
		r.dirs, p = true, strings.TrimSuffix(p, "/")
	}
	if p == "" {
		return nil
	}
	expr, err := glob(p)
	if err != nil {
		return fmt.Errorf("pattern %q: %w", pattern, err)
	}
	if r.re, err = regexp.Compile(expr); err != nil {
		return fmt.Errorf("pattern %q is none of gitignore(5)", pattern)
	}
	g.rules = append(g.rules, r)
	return nil
}

// Match says whether path, of a directory or not, is left alone: because of itself or of a directory above it.
func (g *Ignore) Match(path string, isDir bool) bool {
	if g == nil || len(g.rules) == 0 {
		return false
	}
	for i, c := range path {
		if c == '/' && g.last(path[:i], true) {
			return true
		}
	}
	return g.last(path, isDir)
}

// last is what the last pattern that matches says.
func (g *Ignore) last(path string, isDir bool) bool {
	for i := len(g.rules) - 1; i >= 0; i-- {
		if r := g.rules[i]; (isDir || !r.dirs) && r.re.MatchString(path) {
			return !r.include
		}
	}
	return false
}

// glob is a pattern as a regular expression.
func glob(p string) (string, error) {
	anchored := strings.Contains(p, "/")
	p = strings.TrimPrefix(p, "/")
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	if !anchored {
		b.WriteString(`(?:.*/)?`)
	}
	for i := 0; i < len(p); {
		switch c := p[i]; {
		case strings.HasPrefix(p[i:], "**/") && (i == 0 || p[i-1] == '/'):
			b.WriteString(`(?:.*/)?`)
			i += 3
		case p[i:] == "**" && (i == 0 || p[i-1] == '/'):
			b.WriteString(`.+`)
			i += 2
		case c == '*':
			b.WriteString(`[^/]*`)
			for i < len(p) && p[i] == '*' {
				i++
			}
		case c == '?':
			b.WriteString(`[^/]`)
			i++
		case c == '[':
			class, n := class(p[i:])
			if n == 0 {
				return "", path.ErrBadPattern
			}
			b.WriteString(class)
			i += n
		case c == '\\' && i+1 < len(p):
			b.WriteString(regexp.QuoteMeta(p[i+1 : i+2]))
			i += 2
		case c == '\\':
			return "", path.ErrBadPattern
		default:
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
			i++
		}
	}
	b.WriteString(`\z`)
	return b.String(), nil
}

// class is a class of characters, [a-z] or [!a-z], and its length; 0 where it does not end.
func class(p string) (string, int) {
	i := 1
	out := "["
	if i < len(p) && (p[i] == '!' || p[i] == '^') {
		out += "^/"
		i++
	}
	for first := true; i < len(p); first = false {
		switch c := p[i]; {
		case c == ']' && !first:
			return "(?:" + out + "])", i + 1
		case strings.HasPrefix(p[i:], "[:"):
			end := strings.Index(p[i:], ":]")
			if end < 0 {
				return "", 0
			}
			out += p[i : i+end+2]
			i += end + 2
		case c == '\\' && i+1 < len(p):
			out += regexp.QuoteMeta(p[i+1 : i+2])
			i += 2
		case c == '-':
			out += "-"
			i++
		default:
			out += strings.ReplaceAll(regexp.QuoteMeta(p[i:i+1]), "[", `\[`)
			i++
		}
	}
	return "", 0
}
