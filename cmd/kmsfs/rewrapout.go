package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"kmsfs/envelope"
	"kmsfs/fs/vault/rewrap"
)

// rewrapOutput prints how a rewrap goes on, and keeps its audit log.
type rewrapOutput struct {
	a     *app
	r     *rewrapFlags
	bar   *progressbar.ProgressBar // nil: JSON lines
	last  time.Time
	named int // keys that were not rewrapped
	began time.Time
	file  *os.File // of the audit log; nil: none
	log   *bufio.Writer
}

// barSteps is how finely a table shows on the bar.
const barSteps = 1000

func newRewrapOutput(a *app, r *rewrapFlags) (*rewrapOutput, error) {
	o := &rewrapOutput{a: a, r: r, began: time.Now()}
	if f, ok := a.stderr.(*os.File); ok && !r.out.json && term.IsTerminal(int(f.Fd())) {
		o.bar = progressbar.NewOptions(1, progressbar.OptionSetWriter(f), progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetElapsedTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
			progressbar.OptionFullWidth())
	}
	if r.auditLog != "" && !r.o.DryRun {
		f, err := os.OpenFile(r.auditLog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, faultf(err, "--audit-log: %w", err)
		}
		o.file, o.log = f, bufio.NewWriterSize(f, 64<<10)
	}
	return o, nil
}

// progressLine is a JSON line while it goes on.
type progressLine struct {
	Event     string  `json:"event"` // progress
	Time      string  `json:"time"`
	Pass      int     `json:"pass"`
	Tables    int     `json:"tables"`
	Done      float64 `json:"tables_done"`
	Records   int64   `json:"records"`
	Rewrapped int64   `json:"rewrapped"`
	Failed    int64   `json:"failed"`
	Throttled int64   `json:"throttled"`
	Calls     int64   `json:"calls"`
	PerSecond float64 `json:"rewrapped_per_second"`
	SecsLeft  float64 `json:"seconds_left"`
}

// progress shows how far it is.
func (o *rewrapOutput) progress(p rewrap.Progress) {
	if o.log != nil {
		o.log.Flush() // whose error finish reports
	}
	done := float64(p.TablesDone) + p.Part
	elapsed := time.Since(o.began).Seconds()
	rate := float64(p.Rewrapped) / max(elapsed, 0.001)
	if o.bar != nil {
		o.bar.ChangeMax64(int64(p.Tables) * barSteps)
		o.bar.Describe(fmt.Sprintf("%d keys, %.0f/s, %d failed", p.Rewrapped, rate, p.Failed))
		if p.Pass == 1 {
			_ = o.bar.Set64(int64(done * barSteps))
		}
		return
	}
	now := time.Now()
	if now.Sub(o.last) < time.Second {
		return
	}
	o.last = now
	left := 0.0
	if done > 0 {
		left = elapsed / done * (float64(p.Tables) - done)
	}
	_ = o.line(progressLine{"progress", stamp(time.Now()), p.Pass, p.Tables, done, p.Records, p.Rewrapped, p.Failed, p.Throttled, p.Calls, rate, left})
}

// line prints a JSON line.
func (o *rewrapOutput) line(v any) error {
	e := json.NewEncoder(o.a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// auditLine is a line of the audit log.
type auditLine struct {
	Time        string `json:"time"`
	Volume      bool   `json:"volume_key,omitempty"`
	FileID      string `json:"file_id,omitempty"`
	Table       string `json:"table,omitempty"`
	Slot        uint32 `json:"slot,omitempty"`
	Result      string `json:"result"`
	OldCMK      string `json:"old_cmk"`
	OldMaterial string `json:"old_key_material_id"`
	NewCMK      string `json:"new_cmk"`
	NewMaterial string `json:"new_key_material_id"`
	RequestID   string `json:"request_id,omitempty"`
	Error       string `json:"error,omitempty"`
}

// troubles is how many keys that were not rewrapped are named on a terminal.
const troubles = 10

// trouble names a key that was not rewrapped.
func (o *rewrapOutput) trouble(l auditLine) error {
	if o.bar == nil {
		return o.line(struct {
			Event string `json:"event"` // trouble
			auditLine
		}{"trouble", l})
	}
	o.named++
	switch {
	case o.named > troubles:
		return nil
	case o.named == troubles:
		l.Error += "; more are in --audit-log alone"
	}
	_ = o.bar.Clear()
	what := "file id " + l.FileID
	switch {
	case l.Volume:
		what = "volume key"
	case l.FileID == "":
		what = fmt.Sprintf("key table %s slot %d", l.Table, l.Slot)
	}
	fmt.Fprintf(o.a.stderr, "kmsfs: %s: %s: %s\n", l.Result, what, l.Error)
	return nil
}

// event writes a line of the audit log, and names what was not rewrapped.
func (o *rewrapOutput) event(e rewrap.Event) error {
	trouble := e.Result == rewrap.ResultFailed || e.Result == rewrap.ResultDamaged
	if o.log == nil && !trouble {
		return nil
	}
	l := auditLine{Time: e.Time.UTC().Format(time.RFC3339Nano), Result: e.Result, OldCMK: e.OldKeyARN, OldMaterial: e.OldMaterial,
		NewCMK: e.NewKeyARN, NewMaterial: e.NewMaterial, RequestID: e.RequestID}
	if e.Loc == (envelope.Locator{}) {
		l.Volume = true
	} else {
		l.Table, l.Slot = envelope.TableName(e.Loc.Table), e.Loc.Slot
		if e.File != (envelope.FileID{}) {
			l.FileID = e.File.String()
		}
	}
	if e.Err != nil {
		l.Error = oneLine(e.Err.Error())
	}
	if trouble {
		if err := o.trouble(l); err != nil || o.log == nil {
			return err
		}
	}
	b, err := json.Marshal(l)
	if err == nil {
		_, err = o.log.Write(append(b, '\n'))
	}
	if err != nil {
		return faultf(err, "audit log %s: %w", o.r.auditLog, err)
	}
	return nil
}

// rewrapSummary is the last line.
type rewrapSummary struct {
	Event      string  `json:"event"` // summary
	Time       string  `json:"time"`
	DryRun     bool    `json:"dry_run"`
	Volume     string  `json:"volume_id"`
	Tables     int     `json:"tables"`
	Records    int64   `json:"records"`
	Behind     int64   `json:"behind"`
	Rewrapped  int64   `json:"rewrapped"`
	Meanwhile  int64   `json:"erased_or_changed_meanwhile"`
	Failed     int64   `json:"failed"`
	Damaged    int64   `json:"damaged"`
	VolumeKey  bool    `json:"volume_key_behind"`
	KeyChanged bool    `json:"key_of_new_files_changed"`
	Calls      int64   `json:"calls"`
	Describes  int64   `json:"describe_calls"`
	Throttled  int64   `json:"throttled"`
	Cost       float64 `json:"cost_usd,omitempty"`
	Estimate   float64 `json:"estimated_seconds,omitempty"`
	Seconds    float64 `json:"seconds"`
	Waited     float64 `json:"seconds_waited"` // of these, for mounts to notice
	Error      string  `json:"error,omitempty"`
}

// finish prints the summary and closes the audit log.
func (o *rewrapOutput) finish(s rewrap.Summary, err error) error {
	if o.bar != nil {
		_ = o.bar.Clear()
	}
	l := rewrapSummary{Event: "summary", Time: stamp(time.Now()), DryRun: o.r.o.DryRun, Volume: s.Volume.String(), Tables: s.Tables,
		Records: s.Records, Behind: s.Behind, Rewrapped: s.Rewrapped, Meanwhile: s.Meanwhile, Failed: s.Failed, Damaged: s.Damaged,
		VolumeKey: s.VolumeKey, KeyChanged: s.KeyChanged, Calls: s.Calls, Describes: s.Describes, Throttled: s.Throttled,
		Seconds: s.Took.Seconds(), Waited: s.Waited.Seconds()}
	if err != nil {
		l.Error = oneLine(err.Error())
	}
	if l.DryRun {
		l.Cost = float64(s.Calls) / 10000 * o.r.price
		l.Estimate = o.estimate(s)
	}
	var errs []error
	if o.log != nil {
		if e := errors.Join(o.log.Flush(), o.file.Sync(), o.file.Close()); e != nil {
			errs = append(errs, faultf(e, "audit log %s: %w", o.r.auditLog, e))
		}
	}
	if o.bar == nil {
		return errors.Join(append(errs, o.line(l))...)
	}
	_, e := fmt.Fprintln(o.a.stdout, l.text())
	return errors.Join(append(errs, e)...)
}

// estimate is how many seconds the calls of a dry run will take.
func (o *rewrapOutput) estimate(s rewrap.Summary) float64 {
	n := max(o.r.o.Concurrency, 1)
	if o.r.o.Concurrency == 0 {
		n = 32
	}
	seconds := float64(s.Calls) * s.CallTime.Seconds() / float64(n)
	if o.r.o.RPS > 0 {
		seconds = max(seconds, float64(s.Calls)/o.r.o.RPS)
	}
	return seconds
}

// text is the summary for people.
func (l rewrapSummary) text() string {
	if l.DryRun {
		t := fmt.Sprintf("%d of %d keys would be rewrapped, by %d calls: %.2f USD, about %s", l.Behind, l.Records, l.Calls, l.Cost,
			time.Duration(l.Estimate*float64(time.Second)).Round(time.Second))
		if l.VolumeKey {
			t += "; the volume key too"
		}
		if l.KeyChanged {
			t += "; new files would get the new CMK"
		}
		return t
	}
	t := fmt.Sprintf("rewrapped %d keys of %d in %.1f s (%.0f/s, %d calls)", l.Rewrapped, l.Records, l.Seconds,
		float64(l.Rewrapped)/max(l.Seconds-l.Waited, 0.001), l.Calls)
	if l.Rewrapped == 0 && l.Failed+l.Damaged == 0 && l.Error == "" {
		t = fmt.Sprintf("nothing to do: all of %d keys are current", l.Records)
	}
	for _, more := range []struct {
		n    int64
		what string
	}{{l.Meanwhile, "erased or changed meanwhile"}, {l.Failed, "failed"}, {l.Damaged, "damaged"}} {
		if more.n > 0 {
			t += fmt.Sprintf("; %d %s", more.n, more.what)
		}
	}
	if l.KeyChanged {
		t += "; new files get the new CMK"
	}
	return t
}
