package rewrap

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/bug"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// run is one Run.
type run struct {
	o   Options
	top backing.Dir // the caller's
	ctl backing.Dir
	sc  *sidecar.Sidecar
	ks  keysource.Keysource
	cfg *envelope.Config
	geo envelope.Geometry
	log *slog.Logger

	from    string   // Options.From resolved: an ARN, or a key material id
	remove  []string // Options.Remove resolved
	zones   *zones   // of the pass; nil: there are none
	pace    *pacer
	jobs    chan *job
	changed bool // the config was rewritten
	waited  time.Duration

	describing sync.Mutex // held while describing
	cmks       map[keysource.KeyRef]cmk
	callTime   time.Duration

	counts struct {
		records, behind, rewrapped, meanwhile, failed, damaged, calls, describes, throttled atomic.Int64
	}

	telling    sync.Mutex // held while Progress or Audit is called
	progress   Progress
	branches   map[string]bool // of a dry run: that a call was counted for
	volumeKey  bool
	keyChanged bool
	bad        map[envelope.Locator]bool // that have failed or are damaged: counted once
	cancel     context.CancelCauseFunc   // of the pass
}

func newRun(ctx context.Context, top backing.Dir, ks keysource.Keysource, o Options) (*run, error) {
	setDefault(&o.Concurrency, 32)
	setDefault(&o.MaxErrors, 100)
	setDefault(&o.FlushEvery, 5*time.Second)
	setDefault(&o.Patience, time.Minute)
	setDefault(&o.Settle, 1500*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return nil, err
	}
	geo, err := envelope.NewGeometry(cfg.ChunkSize)
	if err != nil {
		return nil, err
	}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	sc, err := sidecar.Open(ctl, cfg.Volume)
	if err != nil {
		ctl.Close()
		return nil, err
	}
	return &run{o: o, top: top, ctl: ctl, sc: sc, ks: ks, cfg: cfg, geo: geo, log: o.Log, pace: newPacer(o.RPS, o.Patience),
		cmks: map[keysource.KeyRef]cmk{}, branches: map[string]bool{}, bad: map[envelope.Locator]bool{}}, ctx.Err()
}

// setDefault sets *p where it is zero; a negative value is none.
func setDefault[T int | time.Duration](p *T, value T) {
	if *p == 0 {
		*p = value
	}
	*p = max(*p, 0)
}

func (r *run) close() {
	r.sc.Close()
	r.ctl.Close()
}

func (r *run) summary() Summary {
	c := &r.counts
	return Summary{Volume: r.cfg.Volume, Tables: r.progress.Tables, Records: c.records.Load(), Behind: c.behind.Load(),
		Rewrapped: c.rewrapped.Load(), Meanwhile: c.meanwhile.Load(), Failed: c.failed.Load(), Damaged: c.damaged.Load(),
		Calls: c.calls.Load(), Describes: c.describes.Load(), Throttled: c.throttled.Load(), VolumeKey: r.volumeKey,
		KeyChanged: r.keyChanged, CallTime: r.callTime, Waited: r.waited}
}

// pass begins a pass: what is known of CMKs may have changed.
func (r *run) pass(n int, cancel context.CancelCauseFunc) {
	r.describing.Lock()
	if n > 1 {
		clear(r.cmks)
	}
	r.describing.Unlock()
	r.telling.Lock()
	defer r.telling.Unlock()
	r.cancel = cancel
	tables := 0
	ids, _ := r.sc.Tables() // whose error Scan reports
	for _, id := range ids {
		if (sidecar.ScanOptions{Shard: r.o.Shard, Shards: r.o.Shards}).Has(id) {
			tables++
		}
	}
	if n > 1 {
		r.progress.Pass, r.progress.TablesDone, r.progress.Part = n, 0, 0
		return
	}
	r.progress = Progress{Pass: n, Tables: tables}
}

// job is a record that is being rewrapped.
type job struct {
	entry sidecar.Entry
	plan  *plan
	done  chan<- *job

	record *envelope.Record // the new one
	reqID  string
	err    error
}

// part rewraps what is behind in part of a table, and saves it.
func (r *run) part(ctx context.Context, pass int, p *sidecar.Part) error {
	if p.Err != nil {
		if err := r.damage(p.Table, 0, p.Err); err != nil {
			return err
		}
	}
	var jobs []*job
	for e := range p.Entries() {
		if pass == 1 {
			r.counts.records.Add(1)
		}
		if e.Err != nil {
			if err := r.damage(p.Table, e.Loc.Slot, e.Err); err != nil {
				return err
			}
			continue
		}
		if r.o.Only != nil && !r.o.Only(e.Loc, e.Record.ID) {
			continue
		}
		pl, err := r.plan(ctx, e.Record.Wrappings, r.goal(e.Loc, e.Record))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if pl == nil && err == nil {
			continue
		}
		j := &job{entry: e, plan: pl, err: err}
		if r.isBad(e.Loc) {
			continue // it has failed in the first pass
		}
		if pass == 1 || err != nil {
			r.counts.behind.Add(1)
		}
		if err != nil {
			if err := r.fail(j); err != nil {
				return err
			}
			continue
		}
		if r.o.DryRun {
			r.countCalls(pl)
			continue
		}
		jobs = append(jobs, j)
	}
	if err := r.work(ctx, p, jobs); err != nil {
		return err
	}
	r.telling.Lock()
	if p.Last {
		r.progress.TablesDone++
		r.progress.Part = 0
	}
	r.telling.Unlock()
	return r.report(ctx)
}

// work has the jobs of one table done and saves them, at the latest FlushEvery after they were done.
func (r *run) work(ctx context.Context, p *sidecar.Part, jobs []*job) error {
	if len(jobs) == 0 {
		return nil
	}
	done := make(chan *job, len(jobs))
	var finished []*job
	flush := func() error {
		f := finished
		finished = nil
		return r.save(p.Table, f)
	}
	ticker := time.NewTicker(max(r.o.FlushEvery, time.Millisecond))
	defer ticker.Stop()
	next, under := 0, 0
	for next < len(jobs) || under > 0 {
		var to chan<- *job
		var j *job
		if next < len(jobs) && ctx.Err() == nil {
			to, j = r.jobs, jobs[next]
			j.done = done
		} else if under == 0 {
			break
		}
		select {
		case to <- j:
			next++
			under++
		case j := <-done:
			under--
			if j.err == nil {
				finished = append(finished, j)
			} else if ctx.Err() == nil || !errors.Is(j.err, ctx.Err()) {
				if err := r.fail(j); err != nil {
					r.cancel(err)
				}
			}
			if under%16 == 0 {
				r.tell(float64(next-under) / float64(len(jobs)))
			}
		case <-ticker.C:
			if err := flush(); err != nil {
				r.cancel(err)
			}
		case <-r.stopped(ctx, to):
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// stopped is ctx.Done while something waits to be begun; what is under way is waited for.
func (r *run) stopped(ctx context.Context, to chan<- *job) <-chan struct{} {
	if to == nil {
		return nil
	}
	return ctx.Done()
}

// startWorkers starts the goroutines that call the keysource.
func (r *run) startWorkers(ctx context.Context) (stop func()) {
	r.jobs = make(chan *job)
	var wg sync.WaitGroup
	for range max(r.o.Concurrency, 1) {
		wg.Go(func() {
			for j := range r.jobs {
				j.err = bug.Guard(r.log, func() (err error) {
					j.record, j.reqID, err = r.rewrap(ctx, j.entry.Record, j.plan)
					return err
				})
				j.done <- j
			}
		})
	}
	return func() {
		close(r.jobs)
		wg.Wait()
	}
}

// rewrap makes the record that is to take the place of old.
func (r *run) rewrap(ctx context.Context, old *envelope.Record, p *plan) (*envelope.Record, string, error) {
	ws, reqID, err := r.wrap(ctx, p, envelope.FileContext(r.cfg.Volume, old.ID), func(key []byte) error {
		fk, err := envelope.NewFileKey(key, old.ID, r.geo)
		if err != nil {
			return err
		}
		defer fk.Wipe()
		return old.Verify(fk)
	})
	if err != nil {
		return nil, reqID, err
	}
	record := *old
	record.Wrappings = ws
	if _, err := envelope.SlotSizeFor(record.MarshaledSize()); err != nil {
		return nil, reqID, err
	}
	return &record, reqID, nil
}

// save puts what is finished into its table, and tells of it.
func (r *run) save(table uint64, finished []*job) error {
	if len(finished) == 0 {
		return nil
	}
	slices.SortFunc(finished, func(a, b *job) int { return cmp.Compare(a.entry.Loc.Slot, b.entry.Loc.Slot) })
	changes := make([]sidecar.Change, len(finished))
	for i, j := range finished {
		changes[i] = sidecar.Change{Slot: j.entry.Loc.Slot, Seen: j.entry.Raw, Record: j.record}
	}
	left, err := r.sc.Replace(table, changes)
	if err != nil {
		return fmt.Errorf("save key table %s: %w", envelope.TableName(table), err)
	}
	for _, j := range finished {
		result := ResultRewrapped
		if _, erased := slices.BinarySearch(left, j.entry.Loc.Slot); erased {
			result = ResultErased
			r.counts.meanwhile.Add(1)
		} else {
			r.counts.rewrapped.Add(1)
		}
		if err := r.event(j.entry.Loc, j.entry.Record.ID, result, j.plan, j.record.Wrappings, j.reqID, nil); err != nil {
			return err
		}
	}
	return nil
}

// fail tells of a record that stays as it is. It returns an error when there are too many.
func (r *run) fail(j *job) error {
	r.note(j.entry.Loc)
	n := r.counts.failed.Add(1)
	var why *keysource.Error
	if errors.As(j.err, &why) {
		j.reqID = why.RequestID
	}
	r.log.Warn("a data key was not rewrapped", "file id", j.entry.Record.ID.String(), "table", envelope.TableName(j.entry.Loc.Table),
		"slot", j.entry.Loc.Slot, "err", j.err)
	p := j.plan
	if p == nil {
		p = &plan{ws: j.entry.Record.Wrappings}
	}
	if err := r.event(j.entry.Loc, j.entry.Record.ID, ResultFailed, p, nil, j.reqID, j.err); err != nil {
		return err
	}
	if n >= int64(r.o.MaxErrors) {
		return fmt.Errorf("%w, %d; the last: %w", ErrTooManyErrors, n, j.err)
	}
	return nil
}

// damage tells of a record, or with slot 0 a table, that cannot be read.
func (r *run) damage(table uint64, slot uint32, err error) error {
	loc := envelope.Locator{Table: table, Slot: slot}
	if !r.note(loc) {
		return nil
	}
	r.counts.damaged.Add(1)
	r.log.Warn("a record cannot be read", "table", envelope.TableName(table), "slot", slot, "err", err)
	return r.event(loc, envelope.FileID{}, ResultDamaged, &plan{}, nil, "", err)
}

// note remembers a record that stays as it is; false: it was noted.
func (r *run) note(loc envelope.Locator) bool {
	r.telling.Lock()
	defer r.telling.Unlock()
	if r.bad[loc] {
		return false
	}
	r.bad[loc] = true
	return true
}

func (r *run) isBad(loc envelope.Locator) bool {
	r.telling.Lock()
	defer r.telling.Unlock()
	return r.bad[loc]
}

// event tells Audit.
func (r *run) event(loc envelope.Locator, id envelope.FileID, result string, p *plan, now []envelope.Wrapping, reqID string, err error) error {
	if r.o.Audit == nil {
		return nil
	}
	e := Event{Time: r.o.Now(), File: id, Loc: loc, Result: result, RequestID: reqID, Err: err}
	was, is := change(p.ws, now)
	e.OldKeyARN, e.OldMaterial, e.NewKeyARN, e.NewMaterial = was.KeyARN, was.KeyMaterialID, is.KeyARN, is.KeyMaterialID
	r.telling.Lock()
	defer r.telling.Unlock()
	return r.o.Audit(e)
}

// change finds the first wrapping that differs.
func change(old, now []envelope.Wrapping) (was, is envelope.Wrapping) {
	for i := range max(len(old), len(now)) {
		was, is = envelope.Wrapping{}, envelope.Wrapping{}
		if i < len(old) {
			was = old[i]
		}
		if i < len(now) {
			is = now[i]
		}
		if !bytes.Equal(was.Blob, is.Blob) {
			break
		}
	}
	return was, is
}

// tell notes how much of a table is done, and reports.
func (r *run) tell(part float64) {
	r.telling.Lock()
	r.progress.Part = part
	r.telling.Unlock()
	_ = r.report(context.Background())
}

// report tells Progress.
func (r *run) report(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if r.o.Progress == nil {
		return nil
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	c := &r.counts
	r.progress.Records, r.progress.Rewrapped, r.progress.Failed = c.records.Load(), c.rewrapped.Load(), c.failed.Load()
	r.progress.Calls, r.progress.Throttled = c.calls.Load(), c.throttled.Load()
	r.o.Progress(r.progress)
	return nil
}

// countCalls counts what a plan would cost.
func (r *run) countCalls(p *plan) {
	for _, s := range p.steps {
		if name, ok := keysource.BranchOf(p.ws[s.from].Blob); ok {
			name += " " + s.to.arn
			r.telling.Lock()
			seen := r.branches[name]
			r.branches[name] = true
			r.telling.Unlock()
			if seen {
				continue
			}
		}
		r.counts.calls.Add(1)
		if r.o.Verify {
			r.counts.calls.Add(1)
		}
	}
}
