package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"kmsfs/fs/vault/check"
)

// verifyOutput prints how a verification goes on, and what it has found. Its methods are safe for concurrent use.
type verifyOutput struct {
	a     *app
	v     *verifyFlags
	bar   *progressbar.ProgressBar // nil: lines
	quiet bool                     // no lines

	mu           sync.Mutex
	files, bytes int64
	last         time.Time
}

// lineEvery is how often a line tells how far it is, where there is no bar.
const lineEvery = 30 * time.Second

func newVerifyOutput(a *app, v *verifyFlags) *verifyOutput {
	o := &verifyOutput{a: a, v: v, last: time.Now(), quiet: v.out.json}
	if f, ok := terminal(a.stderr); ok {
		o.bar = byteBar(f)
	}
	return o
}

// progress counts files and bytes.
func (o *verifyOutput) progress(files, bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files += files
	o.bytes += bytes
	switch {
	case o.bar != nil:
		if files > 0 {
			o.bar.Describe(fmt.Sprintf("%d files", o.files))
		}
		_ = o.bar.Set64(o.bytes)
	case !o.quiet && time.Since(o.last) >= lineEvery:
		o.last = time.Now()
		fmt.Fprintf(o.a.stderr, "kmsfs: looked at %d files, %d bytes\n", o.files, o.bytes)
	}
}

func (o *verifyOutput) clear() {
	if o.bar != nil {
		_ = o.bar.Clear()
	}
}

// vault prints what was found in a vault.
func (o *verifyOutput) vault(i *verifyInfo) error {
	o.clear()
	if i.Unconfirmed != "" {
		fmt.Fprintf(o.a.stderr, "kmsfs: warning: %s is mounted, and what was found may be changes under way: %s\n", oneLine(i.Vault), i.Unconfirmed)
	}
	if i.Manifest != nil && !i.Manifest.Trusted {
		fmt.Fprintf(o.a.stderr, "kmsfs: warning: who signed the manifest is not known: --signer names the key that it must be signed with; it is signed with %s\n", i.Manifest.Signer)
	}
	if o.v.out.json {
		return nil
	}
	for _, f := range i.Findings {
		if _, err := fmt.Fprintf(o.a.stdout, "%s: %s\n", oneLine(i.Vault), findingLine(&f)); err != nil {
			return err
		}
	}
	if i.Manifest != nil {
		for _, d := range i.Manifest.Differences {
			fmt.Fprintf(o.a.stdout, "%s: %s: [%s]: %s\n", oneLine(i.Vault), d.Change, shown(d.Path), oneLine(d.What))
		}
	}
	for _, m := range i.Mended {
		fmt.Fprintf(o.a.stdout, "%s: mended [%s]: its header was made anew\n", oneLine(i.Vault), shown(m))
	}
	for _, m := range i.Moved {
		fmt.Fprintf(o.a.stdout, "%s: moved [%s] to [%s]\n", oneLine(i.Vault), shown(m.Stored), shown(m.To))
	}
	if i.Error != "" {
		_, err := fmt.Fprintf(o.a.stdout, "%s: error: %s\n", oneLine(i.Vault), i.Error)
		return err
	}
	_, err := fmt.Fprintf(o.a.stdout, "%s: %s\n", oneLine(i.Vault), i.summary())
	return err
}

// rangesShown is how many ranges of a file a line names.
const rangesShown = 20

// findingLine is a finding for people.
func findingLine(f *check.Finding) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", f.Kind)
	if f.Path != "" {
		fmt.Fprintf(&b, "%s ", oneLine(f.Path))
	}
	fmt.Fprintf(&b, "[%s]: %s", shown(f.Stored), oneLine(f.What))
	for i, r := range f.Ranges {
		switch {
		case i == 0:
			b.WriteString(": ")
		case i == rangesShown:
			fmt.Fprintf(&b, " and %d more ranges, which --json has", len(f.Ranges)-i)
			return b.String()
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d-%d", r.From, r.To-1)
	}
	return b.String()
}

// summary is the last line of a vault.
func (i *verifyInfo) summary() string {
	how := "opened"
	if !i.Keys {
		how = "without keys"
	}
	found, notes := i.damage(), 0
	for _, f := range i.Findings {
		if f.Kind == check.Note {
			notes++
		}
	}
	t := fmt.Sprintf("%d files and %d directories, %d bytes, %s in %.1f s: ", i.Files, i.Directories, i.Bytes, how, i.Seconds)
	switch {
	case found > 0:
		t += fmt.Sprintf("damage: %d findings", found)
	case len(i.Findings) > notes:
		t += "no damage in what could be looked at"
	default:
		t += "no damage"
	}
	if i.Gone > 0 {
		t += fmt.Sprintf("; %d changes were under way", i.Gone)
	}
	return t
}
