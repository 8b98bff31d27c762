// Package rewrap moves the wrapped keys of a vault to other CMKs or key material: new wrappings of the same data keys, while
// the vault is mounted, here or elsewhere, or not at all. No file data is touched, and no data key comes here in plaintext
// unless Options.Verify asks for it.
//
// Start with [Run]. It guarantees that a record is old or new after a crash at any moment, that a record is given up only for
// one that the keysource answered for it, that erased records stay erased, and that what was done is not done again by the
// next run. Two runs at once are safe, and share the work by chance alone. It does not guarantee that a keysource that lies
// about a wrapped key is found out, unless Options.Verify is set.
package rewrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// Errors of Run, beside those of the keysource and the backing.
var (
	// ErrIncomplete: some keys could not be rewrapped, or their records are damaged. They are as they were.
	ErrIncomplete = errors.New("rewrap: not all keys were rewrapped")
	// ErrTooManyErrors: Run gave up. What was done until then is saved. It is an ErrIncomplete.
	ErrTooManyErrors = fmt.Errorf("%w: too many errors", ErrIncomplete)
	// ErrKeyKept: all was rewrapped, but new files still get the old CMK: to change that the volume key is needed, which
	// the keysource does not decrypt for this caller.
	ErrKeyKept = errors.New("rewrap: the CMK of new files was not changed")
)

// Options is what to rewrap, and how. The zero value brings all keys to the current key material of the CMK that the config
// names.
type Options struct {
	// To is the CMK to move to, whatever the zone; empty: for each key what Target says. Without Only, and without From or with a From that
	// is the CMK of the config, new files get it too.
	To keysource.KeyRef
	// From restricts the work to wrappings of this CMK or key material (64 hexadecimal digits).
	From string
	// Only restricts the work to these data keys; nil: all, and the volume key.
	Only func(loc envelope.Locator, id envelope.FileID) bool
	// Target says which CMK a data key is to be under; an empty answer: that of the config. nil: that of its encryption zone.
	Target func(loc envelope.Locator, id envelope.FileID) keysource.KeyRef
	// Add are CMKs that each key is to have a further wrapping of, Remove those that it is to lose the wrapping of. The
	// first wrapping is never removed: it moves.
	Add, Remove []keysource.KeyRef
	// Force rewraps also what is current.
	Force bool
	// Verify decrypts each new wrapping, and compares the key with the record's commitment, before the old one is given up.
	Verify bool
	// DryRun counts, and calls nothing but DescribeKey.
	DryRun bool
	// Shard and Shards restrict the work to the key tables whose id modulo Shards is Shard; Shards 0: all. The volume key
	// belongs to shard 0.
	Shard, Shards int
	// Concurrency is how many calls are under way at once; 0: 32.
	Concurrency int
	// RPS is the most calls a second; 0: no limit. When the keysource throttles there are fewer.
	RPS float64
	// MaxErrors is how many keys may fail before Run gives up; 0: 100.
	MaxErrors int
	// FlushEvery is the longest that finished work waits to be saved; 0: 5 s.
	FlushEvery time.Duration
	// Patience is how long a keysource that cannot be reached is asked again; 0: 1 minute.
	Patience time.Duration
	// Settle is how long to wait for mounts to notice the new config before the last pass; 0: 1.5 s, negative: not at all.
	Settle time.Duration
	// Audit is told of each key that was to be rewrapped, once that is durable, or has failed; nil: nobody. It is called by
	// one goroutine at a time.
	Audit func(Event) error
	// Progress is told how far it is, often; nil: nobody. It is called by one goroutine at a time.
	Progress func(Progress)
	// Log gets what an operator should know; nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock of events; nil: time.Now.
	Now func() time.Time
}

// Event is what came of one key.
type Event struct {
	Time                     time.Time
	File                     envelope.FileID  // zero for the volume key
	Loc                      envelope.Locator // zero for the volume key
	Result                   string           // one of the results
	OldKeyARN, NewKeyARN     string           // of the wrapping that changed, or of the first that did
	OldMaterial, NewMaterial string
	RequestID                string
	Err                      error
}

// Results of an Event.
const (
	ResultRewrapped = "rewrapped" // durable
	ResultErased    = "erased"    // the record was erased or changed by another meanwhile: nothing was done
	ResultFailed    = "failed"    // the record is as it was
	ResultDamaged   = "damaged"   // the record, or with slot 0 the table, cannot be read
)

// Progress is how far a run is.
type Progress struct {
	Pass                         int // 1, and 2 for what was made meanwhile
	Tables, TablesDone           int
	Part                         float64 // of the table being worked on, 0 to 1
	Records                      int64   // seen
	Rewrapped, Failed, Throttled int64
	Calls                        int64
}

// Summary is what a run came to.
type Summary struct {
	Volume    envelope.VolumeID
	Tables    int
	Records   int64 // in the tables of the shard, at the first pass
	Behind    int64 // of these, to be rewrapped
	Rewrapped int64
	Meanwhile int64 // erased, or changed by another, while they were being rewrapped
	Failed    int64
	Damaged   int64 // records that cannot be read
	Calls     int64 // of ReEncrypt and Decrypt; of a dry run: that would be made
	Describes int64
	Throttled int64
	// VolumeKey tells that the volume key's wrappings were behind, and for a dry run would change.
	VolumeKey bool
	// KeyChanged tells that new files get another CMK than before.
	KeyChanged bool
	// CallTime is how long a call of DescribeKey took.
	CallTime time.Duration
	Took     time.Duration // in all; Waited of it for mounts to notice the config
	Waited   time.Duration
}

// Run rewraps the vault in top. ks is asked by Options.Concurrency goroutines and should not try failed calls again itself;
// keys under branch keys need a keysource.Branch. When ctx ends, no more calls are begun, and what was done is saved. The
// Summary is right whatever the error.
func Run(ctx context.Context, top backing.Dir, ks keysource.Keysource, o Options) (Summary, error) {
	began := time.Now()
	r, err := newRun(ctx, top, ks, o)
	if err != nil {
		return Summary{}, err
	}
	defer r.close()
	err = r.all(ctx)
	s := r.summary()
	s.Took = time.Since(began)
	return s, err
}

// all is the order of the work: the tables, the volume key and config, and the tables once more for what was made meanwhile.
func (r *run) all(ctx context.Context) error {
	if err := r.resolve(ctx); err != nil {
		return err
	}
	if err := r.tables(ctx, 1); err != nil {
		return err
	}
	whole := r.o.Only == nil && r.o.Shard == 0
	var kept error
	if whole {
		if err := r.config(ctx); errors.Is(err, ErrKeyKept) {
			kept = err
		} else if err != nil {
			return err
		}
	}
	if !r.o.DryRun && (r.changed || r.counts.rewrapped.Load() > 0) && r.o.Only == nil {
		if err := r.settle(ctx); err != nil {
			return err
		}
		r.o.Force = false // what was current is done
		for range 5 {     // what another has changed meanwhile is looked at again
			before := r.counts.meanwhile.Load()
			if err := r.tables(ctx, 2); err != nil {
				return err
			}
			if r.counts.meanwhile.Load() == before {
				break
			}
		}
	}
	if n := r.counts.failed.Load() + r.counts.damaged.Load(); n > 0 {
		return fmt.Errorf("%w: %d of them", ErrIncomplete, n)
	}
	return kept
}

// settle waits until mounts have noticed the config.
func (r *run) settle(ctx context.Context) error {
	began := time.Now()
	defer func() { r.waited = time.Since(began) }()
	select {
	case <-time.After(r.o.Settle):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tables works through all tables of the shard.
func (r *run) tables(ctx context.Context, pass int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.pass(pass, cancel)
	var err error
	if r.zones, err = r.walkZones(ctx); err != nil {
		return err
	}
	if err := r.report(ctx); err != nil {
		return err
	}
	defer r.startWorkers(ctx)()
	return r.sc.Scan(ctx, sidecar.ScanOptions{Parallel: tablesAtOnce, Shard: r.o.Shard, Shards: r.o.Shards}, func(p *sidecar.Part) error {
		return r.part(ctx, pass, p)
	})
}

// tablesAtOnce is how many tables are worked on at once, so that the calls for one go on while another is being saved.
const tablesAtOnce = 3
