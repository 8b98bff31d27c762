package main

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"kmsfs/fs/vault"
)

// reencryptOutput prints how a reencryption goes on. Its methods are safe for concurrent use.
type reencryptOutput struct {
	a     *app
	r     *reencryptFlags
	bar   *progressbar.ProgressBar // nil: JSON lines
	began time.Time

	mu   sync.Mutex
	last time.Time
	s    reencryptSummary
}

// reencryptSummary is the last line, and with another event a line while it goes on.
type reencryptSummary struct {
	Event   string  `json:"event"` // progress, summary
	Time    string  `json:"time"`
	DryRun  bool    `json:"dry_run"`
	Before  string  `json:"created_before"`
	Files   int64   `json:"files"`       // looked at
	Done    int64   `json:"reencrypted"` // with dry_run: that would be
	Bytes   int64   `json:"bytes"`
	Failed  int64   `json:"failed"`
	Seconds float64 `json:"seconds"`
	PerSec  float64 `json:"bytes_per_second"`
	Error   string  `json:"error,omitempty"`
}

func newReencryptOutput(a *app, r *reencryptFlags) *reencryptOutput {
	o := &reencryptOutput{a: a, r: r, began: time.Now()}
	if f, ok := terminal(a.stderr); ok && !r.out.json {
		o.bar = byteBar(f)
	}
	return o
}

// progress counts bytes.
func (o *reencryptOutput) progress(n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.s.Bytes += n
	o.show()
}

// show tells how far it is. o.mu is held.
func (o *reencryptOutput) show() {
	if o.bar != nil {
		o.bar.Describe(fmt.Sprintf("%d files", o.s.Done))
		_ = o.bar.Set64(o.s.Bytes)
		return
	}
	if now := time.Now(); now.Sub(o.last) >= time.Second {
		o.last = now
		_ = o.line("progress", "")
	}
}

// file counts what came of a file, and names one that failed by its stored name.
func (o *reencryptOutput) file(f vault.Reencrypted) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.s.Files++
	if f.Err == nil && f.Done {
		o.s.Done++
		if o.r.dryRun {
			o.s.Bytes += f.Bytes
		}
	}
	if f.Err != nil {
		o.s.Failed++
		o.trouble(oneLine(f.Err.Error()))
	}
	o.show()
}

// trouble tells of a file that failed. o.mu is held.
func (o *reencryptOutput) trouble(text string) {
	if o.bar != nil {
		_ = o.bar.Clear()
		fmt.Fprintf(o.a.stderr, "kmsfs: %s\n", text)
	} else {
		_ = o.line("trouble", text)
	}
}

// add counts what the daemon of a mount has done.
func (o *reencryptOutput) add(part reencryptPart) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.s.Files += part.Files
	o.s.Done += part.Done
	o.s.Bytes += part.Bytes
	o.s.Failed += int64(len(part.Troubles))
	for _, text := range part.Troubles {
		o.trouble(text)
	}
	o.show()
}

// line prints a JSON line. o.mu is held.
func (o *reencryptOutput) line(event, trouble string) error {
	s := o.s
	s.Event, s.Time, s.DryRun, s.Before, s.Error = event, stamp(time.Now()), o.r.dryRun, o.r.before.UTC().Format(time.RFC3339Nano), trouble
	s.Seconds = time.Since(o.began).Seconds()
	s.PerSec = float64(s.Bytes) / max(s.Seconds, 0.001)
	e := json.NewEncoder(o.a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(s)
}

// finish prints the summary.
func (o *reencryptOutput) finish(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := ""
	if err != nil {
		text = oneLine(err.Error())
	}
	if o.bar == nil {
		return o.line("summary", text)
	}
	_ = o.bar.Clear()
	what := "reencrypted"
	if o.r.dryRun {
		what = "would reencrypt"
	}
	seconds := time.Since(o.began).Seconds()
	_, e := fmt.Fprintf(o.a.stdout, "%s %d of %d files, %d bytes, in %.1f s; %d failed\n", what, o.s.Done, o.s.Files, o.s.Bytes, seconds, o.s.Failed)
	return e
}
