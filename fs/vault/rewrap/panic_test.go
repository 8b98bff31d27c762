package rewrap_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/vault/bug"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/keysource"
)

// TestPanics has each call of a run panic in turn, those of the backing and those of the keysource: who has called hears of it,
// also where it was in another goroutine, nothing is held, every key opens, and the next run finishes.
func TestPanics(t *testing.T) {
	base := newWorld(t, 60)
	to := base.newCMK()
	whole := base.fs
	for _, where := range []string{"backing", "keysource"} {
		seen := 0
		for k := int64(0); ; k++ {
			w := *base
			w.fs = whole.Kill()
			left := k
			panics := func() bool { left--; return left == -1 }
			root := faults.Wrap(w.fs.Root(), func(op faults.Op) error {
				if where == "backing" && panics() {
					panic(fmt.Sprintf("in %s", op.Call))
				}
				return nil
			})
			w.ks = &kms{Store: base.ks.Store, before: func(op string, _ int64) error {
				if where == "keysource" && panics() {
					panic("in " + op)
				}
				return nil
			}}
			o := rewrap.Options{To: keysource.KeyRef(to), FlushEvery: time.Hour, Concurrency: 1, MaxErrors: 5, Settle: -1}
			_, err := runCaught(t.Context(), root, w.ks, o)
			if happened := left < 0; happened && err == nil || !happened && err != nil {
				t.Fatalf("%s, call %d: %v, and it has panicked: %t", where, k, err, happened)
			} else if happened {
				seen++
			}
			w.ks = &kms{Store: base.ks.Store}
			w.check("", "")
			ended := make(chan error, 1)
			go func() { _, err := w.run(t.Context(), o); ended <- err }()
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("%s, call %d, again: %v", where, k, err)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s, call %d: something is held", where, k)
			}
			w.check(to, "")
			if err == nil {
				break
			}
		}
		if seen < 20 {
			t.Errorf("%s: %d panics", where, seen)
		}
	}
}

// runCaught is rewrap.Run as a mount calls it.
func runCaught(ctx context.Context, top backing.Dir, ks keysource.Keysource, o rewrap.Options) (s rewrap.Summary, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(bug.Err, fmt.Errorf("%v", bug.Attrs(p)))
		}
	}()
	defer top.Close()
	return rewrap.Run(ctx, top, ks, o)
}
