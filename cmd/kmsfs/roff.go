package main

import (
	"fmt"
	"strings"
)

// roff writes a manual page in the man macros, man(7).
type roff struct{ strings.Builder }

// newRoff begins a page.
func newRoff(name, section string) *roff {
	r := &roff{}
	fmt.Fprintf(r, ".\\\" Made by kmsfs man from the command tree.\n.TH %q %q \"\" \"kmsfs\" \"kmsfs\"\n", strings.ToUpper(name), section)
	return r
}

// section begins a section.
func (r *roff) section(title string) { fmt.Fprintf(r, ".SH %s\n", title) }

// text writes paragraphs, which empty lines part. Indented lines stay as they are.
func (r *roff) text(s string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			r.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, "  ") {
			r.verbatim(paragraph)
			continue
		}
		for line := range strings.Lines(paragraph) {
			r.line(strings.TrimSpace(line))
		}
	}
}

// verbatim writes lines as they are.
func (r *roff) verbatim(s string) {
	r.WriteString(".nf\n")
	for line := range strings.Lines(s) {
		r.line(strings.TrimRight(line, "\n"))
	}
	r.WriteString(".fi\n")
}

// item writes a tagged paragraph.
func (r *roff) item(tag, text string) {
	r.WriteString(".TP\n\\fB")
	r.line(tag + "\x00")
	r.text(text)
}

// line writes one line; a NUL ends what is bold.
func (r *roff) line(s string) {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "\x00", `\fR`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	r.WriteString(s)
	r.WriteByte('\n')
}
